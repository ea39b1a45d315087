"""How values read on a page: times for people, JSON laid out, escapes that stand out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

_ESCAPE = re.compile(r"\\u\{[0-9A-F]+\}")
_JSON_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[\[\]{},:]|[^\s\[\]{},:"]+)')
INDENT = "  "
CLOSES = {"{": "}", "[": "]"}
MAX_DEPTH = 64


def marked(value: object) -> Markup:
    """Text whose spelled-out characters stand out. It was escaped for display before; here it is for HTML."""
    made, at, text = [], 0, str(value)
    for found in _ESCAPE.finditer(text):
        made += [escape(text[at : found.start()]), Markup('<span class="escape">{}</span>').format(found[0])]
        at = found.end()
    made.append(escape(text[at:]))
    return Markup("").join(made)


def label(name: str) -> str:
    """`tables_written` reads as "Tables written"."""
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def yes_no(value: object) -> object:
    """Booleans in words; everything else as it is."""
    return ("yes" if value else "no") if isinstance(value, bool) else value


def clock(text: str) -> str:
    """`2030-01-02T03:04:05.000006Z` reads as `2030-01-02 03:04:05 UTC`."""
    return f"{text[:10]} {text[11:19]} UTC"


def span(seconds: float) -> str:
    """A length of time in its two largest units: `2 h 5 min`."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts) or "0 s"


def precise(seconds: float) -> str:
    """A short length of time: `12 ms`, `1.25 s`, and from a minute on as `span` has it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else f"{seconds * 1e6:.0f} µs"
    return f"{seconds:.2f} s" if seconds < 60 else span(seconds)


def relative(text: str, now: float) -> str:
    """A time as RFC 3339 seen from now: `in 5 min`, `2 h ago`."""
    at = datetime.fromisoformat(text).astimezone(UTC).timestamp()
    if abs(at - now) < 1:
        return "now"
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"


def laid_out(text: str) -> str:
    """JSON with one member a line, every token as it was sent; "" when it is not JSON in form.

    Not parsed and written again: that would turn `1.0` or a repeated name into something else than what runs.
    """
    stripped = text.strip()
    if not stripped.startswith(("{", "[")) or len(stripped) > 256 << 10:
        return ""
    marks, lines = _marks(stripped), [""]
    open_: list[str] = []
    if not marks:
        return ""
    for number, mark in enumerate(marks):
        if mark in CLOSES:
            open_.append(CLOSES[mark])
            lines[-1] += mark
            if marks[number + 1 : number + 2] != [open_[-1]]:
                lines.append(INDENT * len(open_))
        elif mark in ("}", "]"):
            if not open_ or open_.pop() != mark:
                return ""
            if marks[number - 1] not in CLOSES:
                lines.append(INDENT * len(open_))
            lines[-1] += mark
        elif mark == ",":
            lines[-1] += mark
            lines.append(INDENT * len(open_))
        else:
            lines[-1] += ": " if mark == ":" else mark
        if len(open_) > MAX_DEPTH:
            return ""
    return "\n".join(lines) if not open_ else ""


def _marks(text: str) -> list[str]:
    """Empty when something in it is no token."""
    marks, at = [], 0
    while at < len(text):
        found = _JSON_TOKEN.match(text, at)
        if found is None:
            return []
        marks.append(found[1])
        at = found.end()
    return marks


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """A JSON value as name and text, a pair a leaf: `(items[0].id, 7)`."""
    match value:
        case dict() if value:
            for key, item in value.items():
                yield from flat(item, f"{name}.{key}" if name else str(key))
        case list() if value:
            for number, item in enumerate(value):
                yield from flat(item, f"{name}[{number}]")
        case None:
            yield name, "null"
        case bool():
            yield name, "yes" if value else "no"
        case dict() | list():
            yield name, "none"
        case _:
            yield name, str(value)
