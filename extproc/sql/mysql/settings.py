"""SET: variables of the server, of the session and of the user."""

from __future__ import annotations

from extproc.sql.mysql.expressions import expression
from extproc.sql.mysql.reader import Level, Reader, fold
from extproc.sql.mysql.session import is_readable

_HARMLESS_NAMES = """
autocommit auto_increment_increment auto_increment_offset big_tables character_set_connection collation_connection
default_week_format div_precision_increment eq_range_index_dive_limit
explicit_defaults_for_timestamp group_concat_max_len idle_readonly_transaction_timeout idle_transaction_timeout
idle_write_transaction_timeout innodb_lock_wait_timeout interactive_timeout lc_messages lc_time_names lock_wait_timeout
max_execution_time max_join_size max_length_for_sort_data max_recursive_iterations max_seeks_for_key max_sort_length
max_statement_time net_read_timeout net_write_timeout optimizer_prune_level optimizer_search_depth
optimizer_switch optimizer_trace profiling profiling_history_size query_cache_type range_alloc_block_size
session_track_gtids session_track_transaction_info sql_auto_is_null sql_big_selects sql_buffer_result sql_notes
sql_quote_show_create sql_safe_updates sql_select_limit sql_warnings time_zone transaction_isolation
transaction_read_only tx_isolation tx_read_only wait_timeout cte_max_recursion_depth windowing_use_high_precision
"""
HARMLESS = frozenset(_HARMLESS_NAMES.split())
"""Of the session: they change only how a result looks, how long something waits or how it is planned."""
_RESULT_CHARSETS = frozenset({"utf8", "utf8mb3", "utf8mb4", "latin1", "ascii", "binary", "null", "default"})
_SCOPES = ("GLOBAL", "PERSIST", "PERSIST_ONLY", "SESSION", "LOCAL")
_OTHERS = frozenset({"GLOBAL", "PERSIST", "PERSIST_ONLY"})


def set_(r: Reader, scope: Level) -> None:
    r.need_word("SET")
    r.verbs.append("SET")
    if r.word("STATEMENT"):  # for the one statement that follows
        before = r.session_after
        _assignments(r, scope)
        if r.session_after != before:
            r.fail()
        r.need_word("FOR")
        r.queries.statement(r, scope)
        return
    if r.peek().is_word("PASSWORD", "ROLE", "DEFAULT", "RESOURCE") and not r.peek(1).is_sign("=", ":="):
        _rights(r)
        return
    if r.word("PASSWORD"):
        _rights(r)
        return
    if r.peek().is_word("TRANSACTION") or (r.peek().is_word(*_SCOPES) and r.peek(1).is_word("TRANSACTION")):
        if r.word(*_SCOPES) in _OTHERS:
            r.effects.add("admin")
        r.plain_rest()
        return
    _assignments(r, scope)


def _rights(r: Reader) -> None:
    r.effects.add("admin")
    r.skip_all()


def _assignments(r: Reader, scope: Level) -> None:
    while True:
        _assignment(r, scope)
        if not r.sign(","):
            return


def _assignment(r: Reader, scope: Level) -> None:
    if r.word("NAMES"):
        _charset(r, _value(r, scope))
        if r.word("COLLATE"):
            r.next()
        return
    if r.word("CHARSET") or r.words("CHARACTER SET"):
        _charset(r, _value(r, scope))
        return
    r.keeps = True
    if r.peek().kind == "variable":
        r.next()
        r.need_sign("=", ":=")
        expression(r, scope)
        return
    where = r.word(*_SCOPES)
    name = _name(r)
    if not where and name[:1] and name[0].upper() in _SCOPES and len(name) > 1:
        where, name = name[0].upper(), name[1:]
    r.need_sign("=", ":=")
    value = _value(r, scope)
    if where in _OTHERS or len(name) > 1:
        r.effects.add("admin")
    else:
        _setting(r, fold(name[0]), value)


def _name(r: Reader) -> list[str]:
    """`name`, `@@name`, `@@global.name`, `cache.name`."""
    r.sign("@@")
    parts = [r.name()]
    while r.sign("."):
        parts.append(r.name())
    return parts


def _value(r: Reader, scope: Level) -> str | None:
    """A literal or a word as text; None for what has to be computed."""
    token, follows = r.peek(), r.peek(1)
    ends = follows.is_sign(",", "") or follows.is_word("COLLATE", "FOR")
    if ends and token.kind in ("string", "number", "word", "name"):
        r.next()
        return token.value
    expression(r, scope)
    return None


def _charset(r: Reader, value: str | None) -> None:
    name = (value or "").lower()
    if not is_readable(name):
        r.session_after = r.session_after.with_charset(None)
    elif not r.session.is_unicode or not r.session.with_charset(name).is_unicode:
        r.session_after = r.session_after.with_charset(name)


def _setting(r: Reader, name: str, value: str | None) -> None:
    if name == "sql_mode":
        r.session_after = r.session_after.with_mode(value)
    elif name == "character_set_client":
        _charset(r, value)
    elif name == "character_set_results":
        if (value or "").lower() not in _RESULT_CHARSETS:
            r.effects.add("admin")
    elif name not in HARMLESS:
        r.effects.add("admin")
