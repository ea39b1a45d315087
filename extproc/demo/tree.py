"""Traces as a tree on the terminal: names, times, and what extproc decided.

Names and attribute values come from the network: control, bidirectional and invisible characters are escaped.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

from extproc.demo.otlp import AttributeValue, ReceivedSpan, traces

SHOWN: tuple[tuple[str, str], ...] = (
    ("http.response.status_code", "status"),
    ("db.query.text", "statement"),
    ("db.response.status_code", "sqlstate"),
    ("extproc.decision", "decision"),
    ("extproc.verdict", "verdict"),
    ("extproc.code", "code"),
    ("extproc.rule", "rule"),
    ("security_rule.name", "rule"),
    ("extproc.hold", "hold"),
    ("extproc.hold.id", "hold"),
    ("extproc.hold.state", "hold state"),
    ("extproc.grant.id", "grant"),
    ("extproc.principal.subject", "who"),
    ("user.id", "who"),
    ("extproc.target", "target"),
    ("extproc.record.hash", "record"),
)
"""Attributes worth a place in the line, in order, with the word they are shown under."""
MASKED = "extproc.masked"
SHORT = {"extproc.record.hash": 12}
MAX_VALUE = 60
_PLAIN = frozenset(map(chr, range(0x20, 0x7F)))
_ESCAPED = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"))
"""Unicode categories: controls, formats (bidirectional, zero width), surrogates, private, unassigned, breaks,
and spaces other than the ordinary one."""
MAX_DEPTH = 40
"""Deeper spans are drawn, no further to the right."""


def print_traces(spans: Iterable[ReceivedSpan]) -> str:
    """Every trace, one tree after another, ending with a newline; empty without spans."""
    return "".join(f"{draw_trace(of_trace)}\n" for of_trace in traces(spans).values())


def draw_trace(spans: Iterable[ReceivedSpan]) -> str:
    """One trace as text. A span whose parent is not here is drawn at the top, marked with the parent's id."""
    known = {span.span_id: span for span in spans}
    if not known:
        return ""
    children: dict[str, list[ReceivedSpan]] = {}
    roots: list[ReceivedSpan] = []
    for span in known.values():
        has_parent = span.parent_id in known and span.parent_id != span.span_id
        (children.setdefault(span.parent_id, []) if has_parent else roots).append(span)
    started = min(span.start for span in known.values())
    drawn: set[str] = set()
    lines = [f"trace {next(iter(known.values())).trace_id}", *_branches(roots, children, drawn, started)]
    # Spans that only lead to each other hang from no root; without this they would be invisible.
    for span in known.values():
        lines += _branches([span], children, drawn, started)
    return "\n".join(lines)


def describe(span: ReceivedSpan, *, since: int | None = None) -> str:
    """One span in one line: name, service, offset, duration, decision."""
    parts = [escape(span.name) or "(no name)"]
    if span.service:
        parts.append(f"[{escape(span.service)}]")
    if since is not None and span.start > since:
        parts.append(f"+{duration(span.start - since)}")
    parts.append(duration(span.end - span.start))
    parts += [f"{word}={value}" for word, value in _told(span.attributes)]
    if span.error is not None:
        parts.append(f"error={escape(span.error)}" if span.error else "error")
    return " ".join(parts)


def duration(nanoseconds: int) -> str:
    """For people: 250 µs, 12.5 ms, 3.2 s."""
    if nanoseconds < 0:
        return "? ms"
    if nanoseconds < 1_000_000:
        return f"{nanoseconds // 1000} µs"
    if nanoseconds < 1_000_000_000:
        return f"{nanoseconds / 1_000_000:.1f} ms"
    return f"{nanoseconds / 1_000_000_000:.1f} s"


def escape(text: str, at_most: int = MAX_VALUE) -> str:
    """Text that cannot move the cursor or hide itself; what is cut is counted."""
    shown = "".join(_visible(letter) for letter in text[:at_most])
    return f"{shown}…(+{len(text) - at_most})" if len(text) > at_most else shown


def _visible(letter: str) -> str:
    if letter == "\\":
        return "\\\\"
    if letter not in _PLAIN and unicodedata.category(letter) in _ESCAPED:
        code = ord(letter)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    return letter


def _branches(
    roots: Sequence[ReceivedSpan],
    children: Mapping[str, Sequence[ReceivedSpan]],
    drawn: set[str],
    started: int,
) -> Iterator[str]:
    """The lines of these spans and all below them, without recursion: a peer chooses how deep it goes."""
    waiting = [(span, "", span is roots[-1], 0) for span in reversed(roots)]
    while waiting:
        span, indent, last, depth = waiting.pop()
        if span.span_id in drawn:
            continue
        drawn.add(span.span_id)
        orphan = f" (parent {span.parent_id} not here)" if depth == 0 and span.parent_id else ""
        yield f"{indent}{'└─ ' if last else '├─ '}{describe(span, since=started)}{orphan}"
        below = children.get(span.span_id, ())
        deeper = indent if depth >= MAX_DEPTH else indent + ("   " if last else "│  ")
        waiting += [(child, deeper, child is below[-1], depth + 1) for child in reversed(below)]


def _told(attributes: Mapping[str, AttributeValue]) -> Iterator[tuple[str, str]]:
    path = attributes.get("url.path")
    method = attributes.get("http.request.method")
    if isinstance(path, str):
        yield "request", escape(f"{method} {path}" if isinstance(method, str) else path)
    for name, word in SHOWN:
        value = attributes.get(name)
        if value is None or value in ("", []):
            continue
        text = value if isinstance(value, str) else _text(value)
        yield word, escape(text[: SHORT[name]], SHORT[name]) if name in SHORT else escape(text)
    masked = sorted(
        (name.removeprefix(MASKED).lstrip("."), value)
        for name, value in attributes.items()
        if name == MASKED or name.startswith(f"{MASKED}.")
    )
    if masked:
        told = ", ".join(f"{name} {_text(value)}" if name else _text(value) for name, value in masked)
        yield "masked", escape(told, 2 * MAX_VALUE)


def _text(value: AttributeValue) -> str:
    if isinstance(value, list):
        return ",".join(_text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in sorted(value.items()))
    return str(value)
