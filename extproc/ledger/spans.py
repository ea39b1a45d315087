"""Spans as a view of records: names, times, ids and attributes, without any tracing library.

Names follow the OpenTelemetry semantic conventions where they have one; the rest stands under `extproc.`, and
`extproc.record.hash` ties a span to its line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from extproc.domain.record import ACCESS
from extproc.ledger.checkpoint import Checkpoint
from extproc.ledger.lines import Line, parse_time
from extproc.ledger.statement_spans import add_statement, is_database, span_name

Value = str | int | bool | list[str]
SpanKind = Literal["server", "internal"]

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"))
"""What `http.request.method` may say; anything else is `_OTHER`, so that clients cannot invent values."""
ENDED_BADLY = (".refused", "_refused", ".failed", "_failed", "_died")
"""Ends of kinds that are errors whatever the record says."""
MAX_FIELDS = 48
"""Attributes that a record without a span form of its own may become."""


@dataclass(frozen=True, slots=True)
class SpanContext:
    """Trace and span id in hex."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class SpanView:
    """One span. Times are microseconds since 1970; `error` is the status message if it failed.

    `plain` spans are uneventful allows: the only ones that sampling may drop. `writers` names the writer of each
    record that the span shows, so that records and spans can be held against each other.
    """

    name: str
    kind: SpanKind
    context: SpanContext
    parent_id: str
    start_us: int
    end_us: int
    attributes: Mapping[str, Value]
    error: str | None = None
    links: tuple[SpanContext, ...] = ()
    plain: bool = False
    writers: tuple[str, ...] = ()


def context_of(line: Line) -> SpanContext:
    """The ids that the record names; what is missing comes from its hash, so that a repeat has the same ids."""
    trace = _mapping(line.fields.get("trace"))
    trace_id = (
        _hex_id(trace.get("trace_id"), 32) or _hex_id(line.fields.get("trace_id"), 32) or line.hash[:32]
    )
    return SpanContext(trace_id, _hex_id(line.fields.get("span_id"), 16) or line.hash[32:48])


def hold_context(opened: Line) -> SpanContext:
    """The ids of a hold's span, known from its first record."""
    hold = hold_id_of(opened)
    trace_id = _hex_id(opened.fields.get("trace_id"), 32) or sha256(f"trace {hold}".encode()).hexdigest()[:32]
    return SpanContext(trace_id, sha256(f"hold {hold}".encode()).hexdigest()[:16])


def hold_id_of(line: Line) -> str:
    """The hold a record is about; empty if none."""
    hold = line.fields.get("hold", "")
    return _text(_mapping(hold).get("id", "") if isinstance(hold, dict) else hold)


def request_span(intent: Line | None, outcome: Line | None, hold: SpanContext | None = None) -> SpanView:
    """One server span from an exchange's two records; either may be missing. `hold` becomes a link."""
    first = intent or outcome
    assert first is not None  # noqa: S101  (there is no exchange without a record)
    said = intent.fields if intent is not None else {}
    became = outcome.fields if outcome is not None else {}
    response = _mapping(became.get("response"))
    target = _text(first.fields.get("target")) or "unknown"
    method = _text(_mapping(said.get("request")).get("method"))
    attributes: dict[str, Value] = {}
    name = f"{method if method in METHODS else 'HTTP'} {target}"
    if is_database(first.fields):
        add_statement(attributes, said, became, first.fields)
        _add_address(attributes, "client", _text(_mapping(said.get("connection")).get("source")))
        name = span_name(said, first.fields, target)
    else:
        _add_request(attributes, _mapping(said.get("request")), method)
    _add_decision(attributes, said, first)
    code = _whole(response.get("code"))
    if code:
        attributes["http.response.status_code"] = code
    _add_outcome(attributes, became, response)
    if intent is not None:
        attributes["extproc.record.hash"] = intent.hash
    if outcome is not None:
        attributes["extproc.outcome.hash"] = outcome.hash
    error = _error_of(said, became, code, outcome is None)
    if error:
        attributes["error.type"] = error
    end = outcome.at_us if outcome is not None else first.at_us
    start = min(first.at_us, end - _whole(became.get("duration_us")))
    trace = _mapping(first.fields.get("trace"))
    eventful = error or code >= 400 or hold_id_of(first) or "extproc.degraded" in attributes
    return SpanView(
        name=name,
        kind="server",
        context=context_of(first),
        parent_id=_hex_id(trace.get("parent_span_id"), 16),
        start_us=max(0, start),
        end_us=end,
        attributes=attributes,
        error="outcome unknown" if outcome is None else error or None,
        links=(hold,) if hold is not None else (),
        plain=said.get("verdict") == "allow" and not eventful,
        writers=tuple(line.writer for line in (intent, outcome) if line is not None),
    )


def hold_span(
    opened: Line, decided: Line | None, between: Sequence[Line], parent: SpanContext | None
) -> SpanView:
    """A hold from its opening to its decision, under the request that opened it; `between` are votes and the like."""
    votes = [line for line in between if line.kind == "hold.vote"]
    context = hold_context(opened)
    same_trace = parent is not None and parent.trace_id == context.trace_id
    last = decided or opened
    attributes: dict[str, Value] = {
        "extproc.hold.id": hold_id_of(opened),
        "extproc.hold.state": last.kind.partition(".")[2],
        "extproc.hold.votes": len(votes),
        "extproc.record.hash": opened.hash,
    }
    approvers = [_text(_mapping(vote.fields.get("approver")).get("subject")) for vote in votes]
    if approvers:
        attributes["extproc.hold.approvers"] = approvers
    for name in ("target", "decision_id", "policy"):
        if value := _text(opened.fields.get(name)):
            attributes[f"extproc.{name}"] = value
    requester = _text(_mapping(opened.fields.get("requester")).get("subject"))
    if requester:
        attributes["user.id"] = requester
    rules = opened.fields.get("rules")
    if isinstance(rules, list):
        attributes["extproc.rules"] = [_text(rule) for rule in rules]
    if decided is not None and decided.fields.get("break_glass") is True:
        attributes["extproc.hold.break_glass"] = True
    if decided is not None:
        attributes["extproc.decided.hash"] = decided.hash
        if reason := _text(decided.fields.get("reason")):
            attributes["extproc.hold.reason"] = reason
    links = (parent,) if parent is not None and not same_trace else ()
    return SpanView(
        name="hold",
        kind="internal",
        context=context,
        parent_id=parent.span_id if parent is not None and same_trace else "",
        start_us=opened.at_us,
        end_us=max(opened.at_us, last.at_us),
        attributes=attributes,
        links=links,
        writers=tuple(line.writer for line in (opened, *between, decided) if line is not None),
    )


def record_span(line: Line, parent: SpanContext | None = None) -> SpanView:
    """Any other record as a span without duration: starts, policy changes, votes, administrators' calls."""
    own = context_of(line)
    context = SpanContext(parent.trace_id, line.hash[32:48]) if parent is not None else own
    attributes: dict[str, Value] = {"extproc.writer": line.writer, "extproc.seq": line.seq}
    _flatten(attributes, "extproc", line.fields)
    by = _mapping(line.fields.get("by"))
    if subject := _text(by.get("subject")):
        attributes["user.id"] = subject
    attributes["extproc.record.hash"] = line.hash
    failed = line.kind == "gap" or line.kind.endswith(ENDED_BADLY) or _is_unseen(line)
    if failed:
        attributes["error.type"] = line.kind
    return SpanView(
        name=line.kind,
        kind="internal",
        context=context,
        parent_id=parent.span_id if parent is not None else "",
        start_us=line.at_us,
        end_us=line.at_us,
        attributes=attributes,
        error=line.kind if failed else None,
        writers=(line.writer,),
    )


def _is_unseen(line: Line) -> bool:
    """Something went on that we were never asked about."""
    return line.kind == ACCESS and line.fields.get("coverage") == "unseen"


def checkpoint_span(checkpoint: Checkpoint, digest: str) -> SpanView:
    """A signed head, so that whoever keeps the spans is a witness. `digest` is the note's SHA-256."""
    at = parse_time(checkpoint.time)
    attributes: dict[str, Value] = {
        "extproc.checkpoint.number": checkpoint.number,
        "extproc.checkpoint.hash": digest,
        "extproc.checkpoint.previous": checkpoint.previous,
        "extproc.checkpoint.records": checkpoint.records,
        "extproc.checkpoint.writers": checkpoint.writers,
        "extproc.checkpoint.writers_root": checkpoint.writers_root,
        "extproc.checkpoint.heads": [str(head).partition(" ")[2] for head in checkpoint.heads],
        "extproc.checkpoint.clock": checkpoint.clock.source,
    }
    if checkpoint.clock.offset_us is not None:
        attributes["extproc.checkpoint.clock_offset_us"] = checkpoint.clock.offset_us
    for name, count in checkpoint.counts.items():
        attributes[f"extproc.checkpoint.count.{name}"] = count
    alarms = [f"{alarm.writer}:{alarm.seq} {alarm.code}" for alarm in checkpoint.alarms]
    if alarms:
        attributes["extproc.checkpoint.alarms"] = alarms
        attributes["error.type"] = "ledger_refused"
    return SpanView(
        name="ledger checkpoint",
        kind="internal",
        context=SpanContext(digest[:32], digest[32:48]),
        parent_id="",
        start_us=at,
        end_us=at,
        attributes=attributes,
        error="ledger_refused" if alarms else None,
    )


def _add_request(attributes: dict[str, Value], request: Mapping[str, Any], method: str) -> None:
    if method:
        attributes["http.request.method"] = method if method in METHODS else "_OTHER"
        if method not in METHODS:
            attributes["http.request.method_original"] = method
    path, question, query = _text(request.get("path")).partition("?")
    if path:
        attributes["url.path"] = path
    if question:
        attributes["url.query"] = query
    if scheme := _text(request.get("scheme")):
        attributes["url.scheme"] = scheme
    _add_address(attributes, "server", _text(request.get("host")))
    _add_address(attributes, "client", _text(request.get("source")))
    if route := _text(request.get("route")):
        attributes["extproc.route"] = route
    size = _whole(request.get("size"))
    if size:
        attributes["http.request.body.size"] = size


def _add_address(attributes: dict[str, Value], side: str, address: str) -> None:
    host, colon, port = address.rpartition(":")
    if (
        colon
        and port.isascii()
        and port.isdigit()
        and len(port) < 6
        and (host.count(":") == 0 or host[-1:] == "]")
    ):
        attributes[f"{side}.address"] = host.strip("[]")
        attributes[f"{side}.port"] = int(port)
    elif address:
        attributes[f"{side}.address"] = address.strip("[]")


def _add_decision(attributes: dict[str, Value], said: Mapping[str, Any], first: Line) -> None:
    for name, key in (
        ("target", "extproc.target"),
        ("protocol", "extproc.protocol"),
        ("decision_id", "extproc.decision.id"),
        ("session_id", "session.id"),
    ):
        if value := _text(first.fields.get(name)):
            attributes[key] = value
    for name in ("verdict", "code"):
        if value := _text(said.get(name)):
            attributes[f"extproc.{name}"] = value
    if policy := _text(said.get("policy")):
        attributes["extproc.policy.digest"] = policy
    if risk := _whole(said.get("risk")):
        attributes["extproc.risk"] = risk
    _add_rules(attributes, said)
    principal = _mapping(said.get("principal"))
    if subject := _text(principal.get("subject")):
        attributes["user.id"] = subject
    for name in ("issuer", "kind", "client_id"):
        if value := _text(principal.get(name)):
            attributes[f"extproc.principal.{name}"] = value
    for name in ("masks", "degraded"):
        values = said.get(name)
        if isinstance(values, list) and values:
            attributes[f"extproc.{name}"] = [_text(value) for value in values]
    hold = _mapping(said.get("hold"))
    if hold:
        attributes["extproc.hold.id"] = _text(hold.get("id"))
        attributes["extproc.hold.state"] = _text(hold.get("state"))
        if glass := _mapping(hold.get("break_glass")):
            attributes["extproc.hold.break_glass"] = True
            attributes["extproc.hold.reason"] = _text(glass.get("reason"))
        if grant := _mapping(hold.get("grant")):
            attributes["extproc.grant.id"] = _text(grant.get("id"))


def _add_rules(attributes: dict[str, Value], said: Mapping[str, Any]) -> None:
    rules = said.get("rules")
    if not isinstance(rules, list) or not rules:
        return
    matched = [_mapping(rule) for rule in rules]
    attributes["extproc.rules"] = [_text(rule.get("rule")) for rule in matched]
    for rule in matched:
        if rule.get("effect") == said.get("verdict") and not rule.get("shadow"):
            attributes["security_rule.name"] = _text(rule.get("rule"))
            break


def _add_outcome(
    attributes: dict[str, Value], became: Mapping[str, Any], response: Mapping[str, Any]
) -> None:
    if "executed" in became:
        executed = became["executed"]
        attributes["extproc.executed"] = {True: "yes", False: "no"}.get(executed, "unknown")
    for name in ("end", "reason"):
        if value := _text(became.get(name)):
            attributes[f"extproc.{name}"] = value
    if inspected := _text(response.get("inspected")):
        attributes["extproc.response.inspected"] = inspected
    if size := _whole(response.get("size")):
        attributes["http.response.body.size"] = size
    masked = _mapping(response.get("masked"))
    if masked:
        attributes["extproc.masked.total"] = sum(_whole(count) for count in masked.values())
        attributes["extproc.masked.entities"] = [f"{name}={_whole(masked[name])}" for name in sorted(masked)]


def _error_of(said: Mapping[str, Any], became: Mapping[str, Any], code: int, unknown: bool) -> str:
    """`error.type`, or nothing. A denial is an answer, not an error."""
    if unknown:
        return "outcome_unknown"
    if said.get("verdict") == "error":
        return _text(said.get("code")) or "error"
    if became.get("end") == "aborted":
        return "aborted"
    return str(code) if code >= 500 else ""


def _flatten(attributes: dict[str, Value], prefix: str, fields: Mapping[str, Any], depth: int = 3) -> None:
    for name, value in fields.items():
        key = f"{prefix}.{name}"
        if len(attributes) >= MAX_FIELDS:
            return
        if isinstance(value, bool | int | str):
            attributes[key] = value
        elif isinstance(value, dict) and depth:
            _flatten(attributes, key, value, depth - 1)
        elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            attributes[key] = value


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: object) -> int:
    return value if type(value) is int else 0


def _hex_id(value: object, digits: int) -> str:
    """A usable id: right length, hexadecimal, not all zeros; else nothing."""
    text = _text(value)
    good = len(text) == digits and not text.strip("0123456789abcdef") and text.strip("0")
    return text if good else ""
