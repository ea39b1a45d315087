"""JSON as signed documents must be written: one reading only.

Two parsers that disagree about a token are a way around a check, so what could be read twice is not read at all.
"""

from __future__ import annotations

import json
from typing import Any

import orjson


def parse_json_object(raw: bytes) -> dict[str, Any] | None:
    """The JSON object in `raw`, or None when it is anything else.

    None also for duplicate names at any depth, invalid UTF-8, lone surrogates, NaN and Infinity, nesting beyond the
    parser's stack and integers too long to convert. It returns instead of raising because the parsers' exceptions
    carry the text they stumbled over.
    """
    try:
        # orjson: strict UTF-8, no lone surrogates, no NaN; but it keeps the last duplicate without a word.
        orjson.loads(raw)
        parsed = json.loads(raw.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found
