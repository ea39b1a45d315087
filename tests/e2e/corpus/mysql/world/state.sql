SELECT * FROM shop.customers ORDER BY id
SELECT * FROM shop.vault ORDER BY id
SELECT * FROM shop.ledger ORDER BY id
SELECT * FROM shop.orders ORDER BY id
SELECT * FROM shop.inbox ORDER BY id
SELECT * FROM shop.salaries ORDER BY id
SELECT * FROM hr.payslips
SHOW TABLES FROM hr
SELECT next_not_cached_value FROM shop.numbers
SELECT table_schema, table_name, table_type, engine, table_comment FROM information_schema.tables WHERE table_schema = 'shop' ORDER BY 1, 2
SELECT table_schema, table_name, column_name, column_type, column_default FROM information_schema.columns WHERE table_schema = 'shop' ORDER BY 1, 2, ordinal_position
SELECT table_schema, table_name, index_name, column_name FROM information_schema.statistics WHERE table_schema = 'shop' ORDER BY 1, 2, 3, seq_in_index
SELECT routine_schema, routine_name, md5(routine_definition) FROM information_schema.routines WHERE routine_schema = 'shop' ORDER BY 1, 2
SELECT trigger_schema, trigger_name, md5(action_statement) FROM information_schema.triggers WHERE trigger_schema = 'shop' ORDER BY 1, 2
SELECT event_schema, event_name FROM information_schema.events WHERE event_schema = 'shop' ORDER BY 1, 2
SELECT table_name, md5(view_definition) FROM information_schema.views WHERE table_schema = 'shop' ORDER BY 1
SELECT schema_name, default_character_set_name FROM information_schema.schemata ORDER BY 1
SELECT user, host, md5(priv) FROM mysql.global_priv ORDER BY 1, 2
SELECT * FROM mysql.db ORDER BY host, db, user
SELECT * FROM mysql.roles_mapping
SELECT * FROM mysql.servers
SELECT name FROM mysql.plugin ORDER BY 1
SELECT db_name, table_name, column_name FROM mysql.column_stats ORDER BY 1, 2, 3
SELECT plugin_name FROM information_schema.plugins WHERE plugin_status = 'ACTIVE' ORDER BY 1
SELECT variable_name, variable_value FROM information_schema.global_variables WHERE variable_name IN ('MAX_CONNECTIONS', 'GENERAL_LOG', 'GENERAL_LOG_FILE', 'READ_ONLY', 'SQL_MODE', 'EVENT_SCHEDULER', 'INIT_CONNECT', 'LOG_OUTPUT', 'SLOW_QUERY_LOG', 'LOCAL_INFILE', 'MAX_STATEMENT_TIME', 'FOREIGN_KEY_CHECKS', 'TX_ISOLATION', 'CHARACTER_SET_SERVER') ORDER BY 1
SELECT IS_USED_LOCK('corpus') IS NULL
SELECT count(*) FROM information_schema.processlist WHERE user = 'victim'
SELECT id FROM shop.ledger ORDER BY id FOR UPDATE SKIP LOCKED
SELECT id FROM shop.orders ORDER BY id FOR UPDATE SKIP LOCKED
SELECT * FROM hr.orders
SHOW OPEN TABLES WHERE In_use > 0
XA RECOVER
