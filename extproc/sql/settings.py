"""Run-time settings: which of them change only how a result looks or how it is planned."""

from __future__ import annotations

_HARMLESS = """
application_name array_nulls bytea_output check_function_bodies client_min_messages constraint_exclusion
cursor_tuple_fraction datestyle default_text_search_config default_transaction_deferrable
default_transaction_isolation default_transaction_read_only escape_string_warning extra_float_digits
force_parallel_mode from_collapse_limit geqo geqo_threshold idle_in_transaction_session_timeout
idle_session_timeout intervalstyle jit jit_above_cost join_collapse_limit lc_monetary lc_numeric lc_time
lock_timeout plan_cache_mode quote_all_identifiers random_page_cost row_security seq_page_cost
ssl_renegotiation_limit statement_timeout synchronize_seqscans timezone transaction_deferrable
transaction_isolation transaction_read_only transaction_timeout xmlbinary xmloption
"""
_HARMLESS_SETTINGS = frozenset(_HARMLESS.split())
_READING = frozenset({"client_encoding", "names", "standard_conforming_strings"})
"""Settings that change how the server reads the next text."""
_SAFE_VALUES = {
    "client_encoding": frozenset({"utf8", "utf-8", "unicode"}),
    "names": frozenset({"utf8", "utf-8", "unicode"}),
    "standard_conforming_strings": frozenset({"on", "true", "yes", "1"}),
}


def is_harmless(name: str) -> bool:
    """Whether setting it needs no effect of its own. Names are matched as the server does, without case."""
    name = name.lower()
    return name in _HARMLESS_SETTINGS or (name.startswith("enable_") and "." not in name)


def reads_as_before(name: str, value: str | None) -> bool:
    """Whether the server reads text as we do after this; `value` None means that it is not known."""
    name = name.lower()
    return name not in _READING or (value is not None and value.lower() in _SAFE_VALUES[name])


def is_reading(name: str) -> bool:
    """Whether it is one of the settings that change how text is read."""
    return name.lower() in _READING
