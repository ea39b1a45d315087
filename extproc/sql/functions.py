"""What is known of functions: those that only compute or read the catalogue, and those whose effects have names.

A name is safe when every built-in function of that name is: no rows written, no file, no network, no setting, no
SQL taken from a value. An unqualified name is taken for the built-in one: `docs/sql.md` says what that misses.
"""

from __future__ import annotations

_TEXT = """
ascii bit_length btrim casefold char_length character_length chr concat concat_ws convert convert_from convert_to
decode encode format initcap is_normalized left length like like_escape lower lpad ltrim md5 normalize notlike
octet_length overlay parse_ident position quote_ident quote_literal quote_nullable regexp_count regexp_instr
regexp_like regexp_match regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr
repeat replace reverse right rpad rtrim similar_escape similar_to_escape split_part starts_with string_to_array
string_to_table strpos substr substring to_ascii to_bin to_char to_date to_hex to_number to_oct to_timestamp
translate unicode_assigned unistr upper
"""
_BYTES = """
bit_count crc32 crc32c get_bit get_byte set_bit set_byte sha224 sha256 sha384 sha512
"""
_NUMBERS = """
abs acos acosd acosh asin asind asinh atan atan2 atan2d atand atanh cbrt ceil ceiling cos cosd cosh cot cotd
degrees div erf erfc exp factorial floor gamma gcd lcm lgamma ln log log10 min_scale mod numeric_inc pi pow power
radians random random_normal round scale setseed sign sin sind sinh sqrt tan tand tanh trim_scale trunc
width_bucket
"""
_TIME = """
age clock_timestamp date_add date_bin date_part date_subtract date_trunc extract isfinite justify_days
justify_hours justify_interval make_date make_interval make_time make_timestamp make_timestamptz now overlaps
statement_timestamp timeofday timezone transaction_timestamp
"""
_CASTS = """
bit bool box bpchar bytea char cidr circle date datemultirange daterange float4 float8 int2 int4
int4multirange int4range int8 int8multirange int8range interval json_object jsonb_object line lseg macaddr macaddr8
money multirange name numeric nummultirange numrange oid path pg_lsn point polygon regclass text time timestamp
timestamptz timetz tsmultirange tsrange tstzmultirange tstzrange varbit varchar xml
"""
_SETS = """
any_value array_agg array_append array_cat array_dims array_fill array_length array_lower array_ndims
array_position array_positions array_prepend array_remove array_replace array_reverse array_sample array_shuffle
array_sort array_to_json array_to_string array_upper avg bit_and bit_or bit_xor bool_and bool_or cardinality corr
count covar_pop covar_samp cume_dist dense_rank every first_value generate_series generate_subscripts lag
last_value lead max min mode nth_value ntile num_nonnulls num_nulls percent_rank percentile_cont percentile_disc
range_agg range_intersect_agg rank regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx
regr_sxy regr_syy row_number stddev stddev_pop stddev_samp string_agg sum trim_array unnest var_pop var_samp
variance enum_first enum_last enum_range isempty lower_inc lower_inf range_merge upper_inc upper_inf
"""
_DOCUMENTS = """
json_agg json_agg_strict json_array_element json_array_element_text json_array_elements
json_array_elements_text json_array_length json_build_array json_build_object json_each json_each_text
json_extract_path json_extract_path_text json_object_agg json_object_agg_strict json_object_agg_unique
json_object_agg_unique_strict json_object_field json_object_field_text json_object_keys json_populate_record
json_populate_recordset json_strip_nulls json_to_record json_to_recordset json_typeof jsonb_agg jsonb_agg_strict
jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each
jsonb_each_text jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object_agg jsonb_object_agg_strict
jsonb_object_agg_unique jsonb_object_agg_unique_strict jsonb_object_keys jsonb_path_exists jsonb_path_exists_tz
jsonb_path_match jsonb_path_match_tz jsonb_path_query jsonb_path_query_array jsonb_path_query_array_tz
jsonb_path_query_first jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record
jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls jsonb_to_record
jsonb_to_recordset jsonb_typeof row_to_json to_json to_jsonb xml_is_well_formed xml_is_well_formed_content
xml_is_well_formed_document xmlagg xmlcomment xmlexists xmltext xpath xpath_exists
"""
_SEARCH = """
array_to_tsvector get_current_ts_config json_to_tsvector jsonb_to_tsvector numnode phraseto_tsquery
plainto_tsquery querytree setweight strip to_tsquery to_tsvector ts_delete ts_filter ts_headline ts_rank
ts_rank_cd tsquery_phrase tsvector_to_array websearch_to_tsquery
"""
_SHAPES_AND_NETS = """
abbrev area bound_box broadcast center diagonal diameter family height host hostmask inet_merge inet_same_family
isclosed ishorizontal isopen isparallel isperp isvertical macaddr8_set7bit masklen netmask network npoints pclose
popen radius set_masklen slope width
"""
_IDENTITIES = """
gen_random_uuid uuid_extract_timestamp uuid_extract_version uuidv4 uuidv7
"""
_CATALOGUE = """
acldefault aclexplode col_description currval current_database current_query
current_schema current_schemas current_setting current_user format_type getdatabaseencoding
has_any_column_privilege has_column_privilege has_database_privilege has_foreign_data_wrapper_privilege
has_function_privilege has_language_privilege has_parameter_privilege has_schema_privilege
has_sequence_privilege has_server_privilege has_table_privilege has_tablespace_privilege has_type_privilege
inet_client_addr inet_client_port inet_server_addr inet_server_port lastval obj_description oidvectortypes
pg_advisory_unlock pg_advisory_unlock_all pg_advisory_unlock_shared pg_backend_pid pg_basetype pg_blocking_pids
pg_char_to_encoding pg_client_encoding pg_collation_for pg_collation_is_visible pg_column_compression
pg_column_is_updatable pg_column_size pg_conf_load_time pg_conversion_is_visible pg_current_snapshot
pg_current_xact_id pg_current_xact_id_if_assigned pg_database_size pg_describe_object pg_encoding_to_char
pg_filenode_relation pg_function_is_visible pg_get_acl pg_get_constraintdef pg_get_expr
pg_get_function_arg_default pg_get_function_arguments pg_get_function_identity_arguments pg_get_function_result
pg_get_function_sqlbody pg_get_functiondef pg_get_indexdef pg_get_keywords pg_get_partition_constraintdef
pg_get_partkeydef pg_get_replica_identity_index pg_get_ruledef pg_get_serial_sequence pg_get_statisticsobjdef
pg_get_statisticsobjdef_columns pg_get_statisticsobjdef_expressions pg_get_triggerdef pg_get_userbyid
pg_get_viewdef pg_has_role pg_identify_object pg_index_column_has_property pg_index_has_property
pg_indexam_has_property pg_indexes_size pg_is_in_recovery
pg_is_other_temp_schema pg_jit_available pg_listening_channels pg_my_temp_schema pg_opclass_is_visible
pg_operator_is_visible pg_opfamily_is_visible pg_options_to_table pg_partition_ancestors pg_partition_root
pg_partition_tree pg_postmaster_start_time pg_relation_filenode pg_relation_is_publishable
pg_relation_is_updatable pg_relation_size pg_sequence_parameters pg_settings_get_flags pg_size_bytes
pg_size_pretty pg_snapshot_xip pg_snapshot_xmax pg_snapshot_xmin pg_statistics_obj_is_visible
pg_table_is_visible pg_table_size pg_tablespace_location pg_tablespace_size pg_timezone_names
pg_total_relation_size pg_trigger_depth pg_ts_config_is_visible pg_ts_dict_is_visible pg_ts_parser_is_visible
pg_ts_template_is_visible pg_type_is_visible pg_typeof pg_visible_in_snapshot row_security_active session_user
shobj_description to_regclass to_regcollation to_regnamespace to_regoper to_regoperator to_regproc
to_regprocedure to_regrole to_regtype to_regtypemod txid_current txid_current_if_assigned txid_current_snapshot
txid_snapshot_xip txid_snapshot_xmax txid_snapshot_xmin txid_visible_in_snapshot version
"""

FAMILIES = {
    "text": _TEXT,
    "bytes": _BYTES,
    "numbers": _NUMBERS,
    "time": _TIME,
    "types as functions": _CASTS,
    "aggregates, windows, arrays, ranges": _SETS,
    "JSON and XML": _DOCUMENTS,
    "text search": _SEARCH,
    "geometry and networks": _SHAPES_AND_NETS,
    "identities": _IDENTITIES,
    "catalogue and session": _CATALOGUE,
}
SAFE_FUNCTIONS = frozenset(name for family in FAMILIES.values() for name in family.split())

_BY_EFFECTS = {
    ("write",): """
        nextval setval pg_notify lo_creat lo_create lo_from_bytea lo_put lo_truncate lo_truncate64 lo_unlink lo_open
        lowrite pg_advisory_lock pg_advisory_lock_shared pg_advisory_xact_lock pg_advisory_xact_lock_shared
        pg_logical_emit_message pg_try_advisory_lock pg_try_advisory_lock_shared pg_try_advisory_xact_lock
        pg_try_advisory_xact_lock_shared pg_export_snapshot
    """,
    ("read",): "loread lo_get lo_lseek lo_lseek64 lo_tell lo_tell64 lo_close pg_sequence_last_value",
    ("admin",): """
        pg_cancel_backend pg_terminate_backend pg_reload_conf pg_rotate_logfile pg_promote
        pg_switch_wal pg_create_restore_point pg_wal_replay_pause pg_wal_replay_resume
        pg_log_backend_memory_contexts pg_log_standby_snapshot pg_stat_reset pg_stat_reset_shared
        pg_stat_reset_single_table_counters pg_stat_reset_single_function_counters pg_stat_reset_slru
        pg_stat_reset_replication_slot pg_stat_reset_subscription_stats pg_stat_reset_backend_stats
        pg_create_logical_replication_slot pg_create_physical_replication_slot pg_drop_replication_slot
        pg_copy_logical_replication_slot pg_copy_physical_replication_slot pg_replication_slot_advance
        pg_logical_slot_get_changes pg_logical_slot_get_binary_changes pg_logical_slot_peek_changes
        pg_logical_slot_peek_binary_changes pg_sync_replication_slots pg_replication_origin_advance
        pg_replication_origin_create pg_replication_origin_drop pg_replication_origin_session_reset
        pg_replication_origin_session_setup pg_replication_origin_xact_reset pg_replication_origin_xact_setup
        pg_import_system_collations pg_extension_config_dump pg_nextoid pg_restore_attribute_stats
        pg_restore_relation_stats pg_clear_attribute_stats pg_clear_relation_stats brin_summarize_new_values
        brin_summarize_range brin_desummarize_range gin_clean_pending_list
    """,
    ("admin", "file"): "pg_backup_start pg_backup_stop pg_start_backup pg_stop_backup",
    ("file",): """
        lo_export pg_read_file pg_read_binary_file pg_ls_dir pg_ls_logdir pg_ls_waldir pg_ls_tmpdir
        pg_ls_archive_statusdir pg_ls_logicalmapdir pg_ls_logicalsnapdir pg_ls_replslotdir pg_ls_summariesdir
        pg_stat_file pg_current_logfile pg_hba_file_rules pg_ident_file_mappings pg_show_all_file_settings
        pg_relation_filepath pg_file_read pg_logfile_rotate pg_logdir_ls
    """,
    ("file", "write"): "lo_import pg_file_write pg_file_rename pg_file_unlink pg_file_sync",
    ("network", "unknown_function"): """
        dblink dblink_build_sql_delete dblink_build_sql_insert dblink_build_sql_update dblink_cancel_query
        dblink_close dblink_connect dblink_connect_u dblink_disconnect dblink_error_message dblink_exec
        dblink_fdw_validator dblink_fetch dblink_get_connections dblink_get_notify dblink_get_pkey
        dblink_get_result dblink_is_busy dblink_open dblink_send_query postgres_fdw_get_connections
        postgres_fdw_disconnect postgres_fdw_disconnect_all http http_delete http_get http_head http_patch
        http_post http_put table_import_from_s3 query_export_to_s3
    """,
}
FUNCTION_EFFECTS: dict[str, tuple[str, ...]] = {
    name: effects for effects, names in _BY_EFFECTS.items() for name in names.split()
}
"""Functions with effects of their own, whatever schema they are in (extensions are put anywhere)."""

_RUNS_SQL = """
query_to_xml query_to_xmlschema query_to_xml_and_xmlschema cursor_to_xml cursor_to_xmlschema table_to_xml
table_to_xmlschema table_to_xml_and_xmlschema schema_to_xml schema_to_xmlschema schema_to_xml_and_xmlschema
database_to_xml database_to_xmlschema database_to_xml_and_xmlschema ts_stat ts_rewrite crosstab crosstab2 crosstab3
crosstab4 crosstabn connectby xpath_table dblink dblink_exec dblink_open dblink_send_query pg_background_launch
query_export_to_s3
"""
RUNS_SQL = frozenset(_RUNS_SQL.split())
"""Functions that read tables or run SQL named by a value: what they do cannot be seen."""

_OF_ROWS = """
any_value array_agg concat first_value hash_record hash_record_extended hstore json_agg json_agg_strict
json_build_array json_build_object jsonb_agg jsonb_agg_strict jsonb_build_array jsonb_build_object lag last_value
lead max min mode quote_literal quote_nullable record_out record_send row_to_json to_json to_jsonb
"""
OF_ROWS = frozenset(_OF_ROWS.split())
"""Functions that take a whole row and give it back in other clothes: `users.to_json` is `to_json(users)`."""

COLUMNS_OF_FUNCTIONS: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        ("json_each", "jsonb_each", "json_each_text", "jsonb_each_text"), frozenset({"key", "value"})
    ),
    **dict.fromkeys(
        (
            "json_array_elements",
            "jsonb_array_elements",
            "json_array_elements_text",
            "jsonb_array_elements_text",
        ),
        frozenset({"value"}),
    ),
    "aclexplode": frozenset({"grantor", "grantee", "privilege_type", "is_grantable"}),
    "pg_options_to_table": frozenset({"option_name", "option_value"}),
    "pg_partition_tree": frozenset({"relid", "parentrelid", "isleaf", "level"}),
    "pg_timezone_names": frozenset({"name", "abbrev", "utc_offset", "is_dst"}),
    "pg_get_keywords": frozenset({"word", "catcode", "barelabel", "catdesc", "baredesc"}),
    "pg_sequence_parameters": frozenset(
        {
            "start_value",
            "minimum_value",
            "maximum_value",
            "increment",
            "cycle_option",
            "cache_size",
            "data_type",
        }
    ),
}
"""Columns of functions that return rows. Of other functions a column must be named after AS to be known."""

_OPERATORS = """
!! !~ !~* !~~ !~~* # ## #- #> #>> % & && &< &<| &> * *< *<= *<> *= *> *>= + - -> ->> -|- / < <-> << <<= <<| <= <>
<@ <^ = > >= >> >>= >^ ? ?# ?& ?- ?-| ?| ?|| @ @-@ @> @? @@ @@@ ^ ^@ | |&> |/ |>> || ||/ ~ ~* ~<=~ ~<~ ~= ~>=~ ~>~
~~ ~~* !=
"""
SAFE_OPERATORS = frozenset(_OPERATORS.split())

_TYPES = """
aclitem bit bool box bpchar bytea char cid cidr circle date datemultirange daterange float4 float8 inet int2
int2vector int4 int4multirange int4range int8 int8multirange int8range interval json jsonb jsonpath line lseg
macaddr macaddr8 money name numeric nummultirange numrange oid oidvector path pg_lsn pg_snapshot point polygon
record refcursor regclass regcollation regconfig regdictionary regnamespace regoper regoperator regproc
regprocedure regrole regtype text tid time timestamp timestamptz timetz tsmultirange tsquery tsrange tstzmultirange
tstzrange tsvector txid_snapshot unknown uuid varbit varchar void xid xid8 xml
"""
SAFE_TYPES = frozenset(_TYPES.split())
"""Built-in types: a cast to any other may run a function (a domain's check, a cast of one's own)."""

SAMPLING = frozenset({"bernoulli", "system"})
"""The built-in methods of TABLESAMPLE."""

SHOWS_FILES = frozenset({"pg_file_settings", "pg_hba_file_rules", "pg_ident_file_mappings"})
"""The server's own views whose rows are lines of its files."""
