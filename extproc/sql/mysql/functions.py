"""Functions by what they do. What is not listed is not known, and so may do anything."""

from __future__ import annotations

SAFE: dict[str, str] = {
    "text": """
        ascii bin bit_length char char_length character_length chr coercibility charset collation compress concat
        concat_ws convert elt export_set field find_in_set format from_base64 hex insert instr lcase left length lengthb
        locate lower lpad ltrim make_set mid natural_sort_key oct octet_length ord position quote regexp_instr
        regexp_like regexp_replace regexp_substr repeat replace reverse right rpad rtrim sformat soundex space strcmp
        substr substring substring_index to_base64 to_char trim ucase uncompress uncompressed_length unhex upper
        weight_string crc32 crc32c kdf match trim_oracle
    """,
    "numbers": """
        abs acos asin atan atan2 bit_count ceil ceiling conv cos cot degrees exp floor greatest least ln log log10 log2
        mod pi pow power radians rand round sign sin sqrt tan truncate
    """,
    "time": """
        adddate addtime add_months convert_tz curdate current_date current_time current_timestamp curtime date date_add
        date_format date_sub datediff day dayname dayofmonth dayofweek dayofyear extract from_days from_unixtime
        get_format hour last_day localtime localtimestamp makedate maketime microsecond minute month monthname now
        period_add period_diff quarter sec_to_time second str_to_date subdate subtime sysdate time time_format
        time_to_sec timediff timestamp timestampadd timestampdiff to_days to_seconds unix_timestamp utc_date utc_time
        utc_timestamp week weekday weekofyear year yearweek
    """,
    "choices": """
        cast coalesce decode default grouping if ifnull interval isnull nullif nvl nvl2 name_const value values row
        any_value
    """,
    "aggregates and windows": """
        avg bit_and bit_or bit_xor count cume_dist dense_rank first_value group_concat json_arrayagg json_objectagg lag
        last_value lead max median min nth_value ntile percent_rank percentile_cont percentile_disc rank row_number std
        stddev stddev_pop stddev_samp sum var_pop var_samp variance st_collect
    """,
    "JSON and XML": """
        extractvalue json_array json_array_append json_array_insert json_array_intersect json_compact json_contains
        json_contains_path json_depth json_detailed json_equals json_exists json_extract json_insert json_keys
        json_length json_loose json_merge json_merge_patch json_merge_preserve json_normalize json_object
        json_object_filter_keys json_object_to_array json_overlaps json_pretty json_query json_quote json_remove
        json_replace json_schema_valid json_schema_validation_report json_search json_set json_storage_free
        json_storage_size json_type json_unquote json_valid json_value updatexml
    """,
    "identities and networks": """
        bin_to_uuid inet6_aton inet6_ntoa inet_aton inet_ntoa is_ipv4 is_ipv4_compat is_ipv4_mapped is_ipv6 is_uuid
        sys_guid uuid uuid_short uuid_to_bin uuid_v4 uuid_v7
    """,
    "digests and ciphers": """
        aes_decrypt aes_encrypt decode_histogram des_decrypt des_encrypt encode encrypt md5 old_password password
        random_bytes sha sha1 sha2 statement_digest statement_digest_text validate_password_strength
    """,
    "session": """
        connection_id current_role current_user database found_rows icu_version is_free_lock is_used_lock
        last_insert_id lastval ps_current_thread_id ps_thread_id row_count schema session_user system_user user version
        format_bytes format_pico_time
    """,
    "geometry": """
        geomcollection geometrycollection linestring mbrcontains mbrcoveredby mbrcovers mbrdisjoint mbrequal mbrequals
        mbrintersects mbroverlaps mbrtouches mbrwithin multilinestring multipoint multipolygon point polygon st_area
        st_asbinary st_asgeojson st_astext st_aswkb st_aswkt st_buffer st_buffer_strategy st_centroid st_contains
        st_convexhull st_crosses st_difference st_dimension st_disjoint st_distance st_distance_sphere st_endpoint
        st_envelope st_equals st_exteriorring st_geohash st_geomcollfromtext st_geometryn st_geometrytype
        st_geomfromgeojson st_geomfromtext st_geomfromwkb st_interiorringn st_intersection st_intersects st_isclosed
        st_isempty st_issimple st_isvalid st_latfromgeohash st_latitude st_length st_linefromtext st_longfromgeohash
        st_longitude st_makeenvelope st_numgeometries st_numinteriorring st_numpoints st_overlaps st_pointfromgeohash
        st_pointfromtext st_pointn st_polyfromtext st_simplify st_srid st_startpoint st_swapxy st_symdifference
        st_touches st_transform st_union st_validate st_within st_x st_y
    """,
}
"""Known to have no effect: they compute from what they are given, the clock or chance."""
SAFE_FUNCTIONS = frozenset(name for names in SAFE.values() for name in names.split())

_EFFECTS: dict[tuple[str, ...], str] = {
    ("write",): "get_lock nextval release_all_locks release_lock setval",
    ("file",): "load_file",
    ("admin",): """
        binlog_gtid_pos gtid_subset gtid_subtract master_gtid_wait master_pos_wait source_pos_wait
        wait_for_executed_gtid_set wait_until_sql_thread_after_gtids group_replication_set_as_primary
        group_replication_switch_to_multi_primary_mode group_replication_switch_to_single_primary_mode
        asynchronous_connection_failover_add_managed asynchronous_connection_failover_add_source
        asynchronous_connection_failover_delete_managed asynchronous_connection_failover_delete_source
    """,
    ("admin", "file", "network", "unknown_function"): """
        sys_bineval sys_eval sys_exec sys_get sys_set lib_mysqludf_sys_info http_get http_post http_put http_delete
    """,
    ("network", "unknown_function"): """
        mysql_udf_http_get mysql_udf_http_post spider_bg_direct_sql spider_copy_tables spider_direct_sql
        spider_flush_table_mon_cache spider_ping_table lookup reverse_lookup
    """,
}
FUNCTION_EFFECTS: dict[str, tuple[str, ...]] = {
    name: effects for effects, names in _EFFECTS.items() for name in names.split()
}
"""Known by their effects. Locks make others wait, sequences count on."""

RUNS_SQL = frozenset({"spider_bg_direct_sql", "spider_direct_sql"})
"""They run SQL that a value holds."""
