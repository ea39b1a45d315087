"""What a caller's tools say in comments. A comment is never trusted for anything but the trace it names."""

from __future__ import annotations

import re
from urllib.parse import unquote

import postgast

_PAIR = re.compile(r"(?:^|,)\s*traceparent\s*=\s*'([^',]{1,200})'", re.ASCII)
_COMMENT = postgast.pg_query_pb2.Token.Value("C_COMMENT")


def traceparent(text: str) -> str:
    """The `traceparent` of the last comment as sqlcommenter writes it (`/*key='value',…*/`), or nothing.

    Only a comment counts, not what looks like one inside a literal. The value is not checked here.
    """
    if "traceparent" not in text:
        return ""
    try:
        comments = [token for token in postgast.scan(text).tokens if token.token == _COMMENT]
    except Exception:
        return ""  # a text that does not scan is judged as that elsewhere
    if not comments:
        return ""
    last = text.encode()[comments[-1].start : comments[-1].end].decode("utf-8", "replace")
    found = _PAIR.findall(last.removeprefix("/*").removesuffix("*/"))
    return unquote(found[0]) if len(found) == 1 else ""
