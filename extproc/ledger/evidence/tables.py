"""The tables of a packet, each computed from the records of the period and nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import unified_diff
from hashlib import sha256
from typing import Any, NamedTuple

from extproc.domain.record import ACCESS
from extproc.ledger.evidence import approvals as dossier
from extproc.ledger.evidence.approvals import ReadPayload, Row
from extproc.ledger.exchanges import COLUMNS, Exchange, pair, row_of, with_access
from extproc.ledger.lines import Line, role_of

PRIVILEGED_EFFECTS = frozenset(("ddl", "admin", "file", "network"))
PRIVILEGED_RISK = 50


class Period(NamedTuple):
    """What the tables are made of. `rules` are those of the policies in force: (policy/rule, target, effect)."""

    lines: Sequence[Line]
    exchanges: Sequence[Exchange]
    read: ReadPayload
    seed: str
    sample_size: int
    checkpoints: Sequence[Row]
    counts: Sequence[Row]
    rules: Sequence[tuple[str, str, str]]


class Table(NamedTuple):
    """A table's title, columns, what one row is, and how it is made."""

    title: str
    columns: tuple[str, ...]
    about: str
    build: Callable[[Period], list[Row]]


def join(lines: Sequence[Line]) -> list[Exchange]:
    """Exchanges of all writers, in the order of their times."""
    by_writer: dict[str, list[Line]] = {}
    for line in lines:
        by_writer.setdefault(line.writer, []).append(line)
    found = [exchange for own in by_writer.values() for exchange in pair(own)]
    found = with_access(found, lines)
    return sorted(found, key=lambda exchange: (exchange.line.at, exchange.line.writer, exchange.line.seq))


def build_tables(period: Period) -> dict[str, list[Row]]:
    """All TABLES by name; every row has its table's columns."""
    return {name: table.build(period) for name, table in TABLES.items()}


def _exchanges(period: Period) -> list[Row]:
    return [row_of(exchange) for exchange in period.exchanges]


def _sample(period: Period) -> list[Row]:
    """Those whose SHA-256 over seed and decision id is smallest: anybody with the seed picks the same."""
    drawn = sorted(
        (sha256(f"{period.seed}{exchange.text('decision_id')}".encode()).hexdigest(), index)
        for index, exchange in enumerate(period.exchanges)
    )
    rows = []
    for order, (draw, index) in enumerate(drawn[: period.sample_size], 1):
        exchange = period.exchanges[index]
        kept = {name: row_of(exchange)[name] for name in _SAMPLED}
        request = period.read(exchange.intent, "request") if exchange.intent is not None else None
        response = period.read(exchange.outcome, "response") if exchange.outcome is not None else None
        rows.append(
            {
                "order": order,
                "draw": draw,
                **kept,
                "kept_request": _text(request),
                "kept_response": _text(response),
            }
        )
    return rows


_SAMPLED = (
    "at",
    "decision_id",
    "principal",
    "target",
    "verdict",
    "code",
    "request",
    "rules",
    "end",
    "record",
)


def _approvals(period: Period) -> list[Row]:
    return dossier.approvals(period.lines, period.exchanges, period.read)


def _access(period: Period) -> list[Row]:
    """Who did what, with room for the reviewer's word."""
    found: dict[tuple[str, ...], Row] = {}
    for exchange in period.exchanges:
        principal = exchange.part("principal")
        if not principal:
            continue
        key = (str(principal.get("issuer", "")), str(principal.get("subject", "")), exchange.text("target"))
        row = found.setdefault(
            key,
            {
                "principal": key[1],
                "issuer": key[0],
                "person": str(principal.get("person", "")),
                "kind": str(principal.get("kind", "")),
                "groups": "",
                "target": key[2],
                "first": exchange.line.at,
                "last": "",
                "allowed": 0,
                "denied": 0,
                "held": 0,
                "rules_used": "",
                "effects": "",
                "authentication": "",
                "keep": "",
                "reviewer": "",
                "reviewed_on": "",
            },
        )
        row["last"] = max(row["last"], exchange.line.at)
        verdict = exchange.text("verdict")
        row["allowed"] += verdict == "allow"
        row["denied"] += verdict == "deny"
        row["held"] += "id" in exchange.part("hold")
        used = [str(rule.get("rule")) for rule in exchange.rules if not rule.get("shadow")]
        row["rules_used"] = _merge(row["rules_used"], used if verdict == "allow" else ())
        row["groups"] = _merge(row["groups"], map(str, principal.get("groups", ())))
        row["effects"] = _merge(row["effects"], map(str, exchange.part("statement").get("effects", ())))
        strength = [f"{name}={principal[name]}" for name in ("acr", "amr") if principal.get(name)]
        row["authentication"] = _merge(row["authentication"], (one.replace(" ", "") for one in strength))
    return [found[key] for key in sorted(found)]


def _rules(period: Period) -> list[Row]:
    """What policy grants beside what was used."""
    rows = {
        (rule, target): {
            "rule": rule,
            "target": target,
            "effect": effect,
            "matched": 0,
            "principals": "",
            "last_used": "",
            "used": False,
            "errors": 0,
        }
        for rule, target, effect in period.rules
    }
    for exchange in period.exchanges:
        for rule in exchange.rules:
            key = (str(rule.get("rule")), exchange.text("target"))
            row = rows.setdefault(
                key,
                {
                    "rule": key[0],
                    "target": key[1],
                    "effect": str(rule.get("effect", "")),
                    "matched": 0,
                    "principals": "",
                    "last_used": "",
                    "used": False,
                    "errors": 0,
                },
            )
            row["matched"] = int(str(row["matched"])) + 1
            row["errors"] = int(str(row["errors"])) + bool(rule.get("errored"))
            row["used"] = True
            row["last_used"] = max(str(row["last_used"]), exchange.line.at)
            row["principals"] = _merge(
                str(row["principals"]), [str(exchange.part("principal").get("subject", ""))]
            )
    return [rows[key] for key in sorted(rows)]


def _privileged(period: Period) -> list[Row]:
    """Exchanges that change structure, rights or files, that carry much risk, or that a person let go."""
    rows = []
    for exchange in period.exchanges:
        effects = PRIVILEGED_EFFECTS.intersection(exchange.part("statement").get("effects", ()))
        risk = exchange.intent.fields.get("risk", 0) if exchange.intent is not None else 0
        why = sorted(effects)
        why += [f"risk {risk}"] if risk >= PRIVILEGED_RISK else []
        why += ["approval"] if exchange.part("hold") else []
        if why:
            row = row_of(exchange)
            rows.append({"why": ", ".join(why), **{name: row[name] for name in _PRIVILEGED}})
    return rows


_PRIVILEGED = (
    "at",
    "principal",
    "person",
    "target",
    "request",
    "verdict",
    "code",
    "hold",
    "executed",
    "decision_id",
    "record",
)


def _shared(period: Period) -> list[Row]:
    """Signs that one identity is used by several: more than one person, or a token seen from several addresses."""
    people: dict[str, set[str]] = {}
    sources: dict[str, set[str]] = {}
    names: dict[str, str] = {}
    for exchange in period.exchanges:
        principal = exchange.part("principal")
        if not principal:
            continue
        name = f"{principal.get('issuer', '')}|{principal.get('subject', '')}"
        people.setdefault(name, set()).add(str(principal.get("person", "")))
        token = str(principal.get("token_id", ""))
        address = str(row_of(exchange)["source"]).rpartition(":")[0]
        if token and address:
            sources.setdefault(token, set()).add(address)
            names[token] = name
    rows = [
        {"identity": name, "sign": "several people", "seen": " ".join(sorted(found))}
        for name, found in sorted(people.items())
        if len(found) > 1
    ]
    rows += [
        {
            "identity": names[token],
            "sign": "one token from several addresses",
            "seen": " ".join(sorted(found)),
        }
        for token, found in sorted(sources.items())
        if len(found) > 1
    ]
    return rows


def _masking(period: Period) -> list[Row]:
    """What was masked on the way out, and what a second look found afterwards."""
    found: dict[tuple[str, str], Row] = {}
    for exchange in period.exchanges:
        for name in ("masked", "residual"):
            counts = exchange.response.get(name)
            for entity, count in counts.items() if isinstance(counts, dict) else ():
                key = (exchange.text("target"), str(entity))
                blank = {"target": key[0], "entity": key[1], "exchanges": 0, "masked": 0, "residual": 0}
                row = found.setdefault(key, blank)
                row[name] += count
                row["exchanges"] += name == "masked"
    return [found[key] for key in sorted(found)]


def _inventory(period: Period) -> list[Row]:
    """Targets with their routes and tables as they were seen, and whether anything was masked there."""
    found: dict[tuple[str, str, str], Row] = {}
    for exchange in period.exchanges:
        statement = exchange.part("statement")
        tables = [*statement.get("tables_read", ()), *statement.get("tables_written", ())]
        route = str(exchange.part("request").get("route", ""))
        for what, name in [("table", str(table)) for table in tables] or [("route", route)]:
            key = (exchange.text("target"), what, name)
            if not name:
                continue
            row = found.setdefault(
                key,
                {
                    "target": key[0],
                    "what": what,
                    "name": name,
                    "first": exchange.line.at,
                    "last": "",
                    "exchanges": 0,
                    "allowed": 0,
                    "with_masks": 0,
                    "inspected": 0,
                    "not_inspected": 0,
                    "owner": "",
                    "classification": "",
                },
            )
            row["last"] = max(row["last"], exchange.line.at)
            row["exchanges"] += 1
            row["allowed"] += exchange.text("verdict") == "allow"
            row["with_masks"] += bool(exchange.line.fields.get("masks"))
            row["inspected"] += exchange.response.get("inspected") == "full"
            row["not_inspected"] += exchange.response.get("inspected") in ("uninspected", "opaque")
    return [found[key] for key in sorted(found)]


def _exceptions(period: Period) -> list[Row]:
    """Everything that went another way than the ordinary one."""
    rows: list[Row] = []
    denied: dict[tuple[str, ...], str] = {}

    def add(exchange: Exchange, what: str, detail: str) -> None:
        row = row_of(exchange)
        kept = {name: row[name] for name in ("principal", "target", "request", "decision_id", "record")}
        rows.append({"at": row["at"], "what": what, "detail": detail, **kept})

    for exchange in period.exchanges:
        verdict = exchange.text("verdict")
        for name in exchange.line.fields.get("degraded", ()):
            add(exchange, "degraded", str(name))
        if exchange.response.get("inspected") in ("uninspected", "opaque"):
            add(exchange, "not inspected", str(exchange.response["inspected"]))
        for error in exchange.line.fields.get("errors", ()):
            add(exchange, "rule not evaluated", str(error))
        residual = exchange.response.get("residual")
        if residual:
            add(exchange, "found after masking", " ".join(map(str, residual)))
        if exchange.outcome is None:
            add(exchange, "outcome unknown", "no outcome in the period")
        if verdict in ("error", "unseen"):
            add(exchange, verdict, exchange.text("code"))
        asked = (str(exchange.part("principal").get("subject", "")), exchange.text("target"), exchange.asked)
        if verdict == "deny":
            denied[asked] = exchange.line.at
        elif verdict == "allow" and asked in denied and not exchange.part("hold"):
            add(exchange, "denied before, allowed later", f"denied at {denied.pop(asked)}")
    rows += [
        {
            "at": line.at,
            "what": line.kind,
            "detail": _detail(line),
            "principal": _who(line),
            "target": "",
            "request": "",
            "decision_id": "",
            "record": f"{line.writer}:{line.seq}",
        }
        for line in period.lines
        if line.kind in ("admin.refused", "admin.child_died", "policy.refused")
    ]
    rows += _emergencies(period.lines)
    return sorted(rows, key=lambda row: (row["at"], row["record"]))


REVIEWED, UNREVIEWED, UNJUSTIFIED = (
    "break-glass, reviewed",
    "break-glass without a review",
    "break-glass, not justified",
)


def _emergencies(lines: Sequence[Line]) -> list[Row]:
    """Every request that its requester let go in an emergency, by what somebody else found about it since."""
    found = {str(line.fields.get("hold")): line for line in lines if line.kind == "hold.reviewed"}
    late = {str(line.fields.get("hold")) for line in lines if line.kind == "hold.review_overdue"}
    rows: list[Row] = []
    told = set[str]()
    for line in lines:
        hold = str(line.fields.get("hold"))
        # a glass that broke before the period shows by the review that did not come in time
        if line.kind not in ("hold.break_glass", "hold.review_overdue") or hold in told:
            continue
        told.add(hold)
        review, by = found.get(hold), line.fields.get("by") or line.fields.get("requester")
        what = UNREVIEWED
        detail = f"{hold}: {line.fields.get('reason', '')}; review by {line.fields.get('review_by', '')}"
        if review is not None:
            what = REVIEWED if review.fields.get("justified") is True else UNJUSTIFIED
            detail += f"; {review.fields.get('by', '')} at {review.at}: {review.fields.get('reason', '')}"
        if hold in late:
            detail += "; overdue"
        rows.append(
            {
                "at": line.at,
                "what": what,
                "detail": detail,
                "principal": str(by.get("subject", "")) if isinstance(by, dict) else "",
                "target": str(line.fields.get("target", "")),
                "request": "",
                "decision_id": "",
                "record": f"{line.writer}:{line.seq}",
            }
        )
    return rows


def _gaps(period: Period) -> list[Row]:
    """What this packet cannot show, counted. Every line is there even where its count is zero."""
    exchanges, lines = period.exchanges, period.lines
    starts = [line for line in lines if line.kind == "start"]
    crashes = [line for line in starts if line.fields.get("torn") or _predecessor_crashed(line, lines)]
    cut = sum(
        bool(part.get("cut_at"))
        for exchange in exchanges
        for part in (exchange.part("statement"), exchange.response)
    )
    clocks = [row for row in period.checkpoints if row["source"] != "kernel"]
    counted = (
        (
            "records refused while the ledger could not be written",
            sum(_number(g, "refused_records") for g in _kind(lines, "gap")),
        ),
        ("writers that ended without saying so", len(crashes)),
        ("records under no checkpoint yet", sum(int(row["unsigned"]) for row in period.counts)),
        (
            "records shown by their hash only",
            sum(int(row["in_period"]) - int(row["shown"]) for row in period.counts),
        ),
        ("exchanges whose outcome is unknown", sum(exchange.outcome is None for exchange in exchanges)),
        (
            "exchanges that nobody can be named for",
            sum(not exchange.part("principal") for exchange in exchanges),
        ),
        (
            "exchanges in a degraded mode",
            sum(bool(exchange.line.fields.get("degraded")) for exchange in exchanges),
        ),
        ("responses that were not inspected", sum(_is_blind(exchange) for exchange in exchanges)),
        (
            "statements that were not understood",
            sum(bool(e.part("statement").get("incomplete")) for e in exchanges),
        ),
        ("texts that were cut", cut),
        (
            "rules that could not be evaluated",
            sum(bool(r.get("errored")) for e in exchanges for r in e.rules),
        ),
        ("checkpoints without a disciplined clock", len(clocks)),
        *_uncovered(period),
    )
    return [{"gap": gap, "count": count} for gap, count in counted]


def _uncovered(period: Period) -> Iterator[tuple[str, int]]:
    """What Envoy's access log says beside our own records: who passed us by, and what it does not confirm."""
    told = _kind(period.lines, ACCESS)
    by_coverage = Counter(str(line.fields.get("coverage", "")) for line in told)
    yield "requests and connections that went on without extproc", by_coverage["unseen"]
    yield "requests and connections that Envoy refused before it asked extproc", by_coverage["refused"]
    yield "connections of a relay, whose end in the access log cannot be joined", by_coverage["unknown"]
    relayed = {line.fields.get("target") for line in told if line.fields.get("coverage") == "unknown"}
    unconfirmed = sum(
        exchange.access is None and exchange.text("operation") != "statement"
        for exchange in period.exchanges
        if exchange.text("target") not in relayed
    )
    yield "requests and connections whose end no access log confirms", unconfirmed


def _policies(period: Period) -> list[Row]:
    """Every policy that came into force or was refused, with what changed against the one before."""
    rows: list[Row] = []
    before: Mapping[str, str] = {}
    for line in sorted(period.lines, key=lambda line: line.at):
        if line.kind not in ("policy.activated", "policy.refused"):
            continue
        sources = sources_of(period.read(line, "sources"))
        rows.append(
            {
                "at": line.at,
                "what": line.kind,
                "policy": line.fields.get("policy", ""),
                "before": line.fields.get("before", ""),
                "author": line.fields.get("author", ""),
                "asked_by": _who(line),
                "error": str(line.fields.get("error", "")),
                "files": " ".join(
                    f"{f.get('name')}@{f.get('digest')}"
                    for f in line.fields.get("files", ())
                    if isinstance(f, dict)
                ),
                "change": _diff(before, sources) if sources else "",
                "record": f"{line.writer}:{line.seq}",
            }
        )
        before = sources or before
    return rows


def _configuration(period: Period) -> list[Row]:
    """The settings at every start of the service, with what changed against the start before."""
    rows: list[Row] = []
    before: Mapping[str, str] = {}
    for line in sorted(period.lines, key=lambda line: line.at):
        if line.kind != "config.loaded":
            continue
        settings = _pretty(period.read(line, "settings"))
        now = {"settings": settings} if settings else {}
        rows.append(
            {
                "at": line.at,
                "digest": line.fields.get("digest", ""),
                "change": _diff(before, now) if now else "",
                "settings": settings,
                "record": f"{line.writer}:{line.seq}",
            }
        )
        before = now or before
    return rows


def _pretty(payload: bytes | None) -> str:
    try:
        return json.dumps(json.loads(payload), indent=1, sort_keys=True) if payload is not None else ""
    except ValueError:
        return ""


def _administration(period: Period) -> list[Row]:
    """What people and the service itself did to it, readings of evidence included."""
    kinds = ("admin.", "evidence.", "policy.", "config.", "grant.", "retention.", "start", "stop", "gap")
    return [
        {
            "at": line.at,
            "kind": line.kind,
            "who": _who(line),
            "detail": _detail(line),
            "record": f"{line.writer}:{line.seq}",
        }
        for line in sorted(period.lines, key=lambda line: (line.at, line.writer, line.seq))
        if line.kind.startswith(kinds)
    ]


def _refusals(period: Period) -> list[Row]:
    """Who was turned away, in the order of time."""
    wanted = (
        "at",
        "principal",
        "source",
        "target",
        "request",
        "verdict",
        "code",
        "rules",
        "trace_id",
        "decision_id",
        "record",
    )
    rows = [
        row_of(exchange) for exchange in period.exchanges if exchange.text("verdict") in ("deny", "error")
    ]
    return [{name: row[name] for name in wanted} for row in rows]


def _population(period: Period) -> list[Row]:
    return [dict(row) for row in period.counts]


def _clock(period: Period) -> list[Row]:
    return [dict(row) for row in period.checkpoints]


TABLES: dict[str, Table] = {
    "population": Table(
        "Population",
        ("writer", "first", "last", "in_period", "shown", "tree_before", "tree_after", "unsigned"),
        "one writer's unbroken range of records, one record on each side of the period included",
        _population,
    ),
    "exchanges": Table("Exchanges", COLUMNS, "one request or statement", _exchanges),
    "sample": Table(
        "Sample",
        ("order", "draw", *_SAMPLED, "kept_request", "kept_response"),
        "one exchange drawn by the seed, with what was kept of it, masked",
        _sample,
    ),
    "approvals": Table("Approvals", dossier.COLUMNS, "one hold", _approvals),
    "access": Table(
        "Access review",
        (
            "principal",
            "issuer",
            "person",
            "kind",
            "groups",
            "target",
            "first",
            "last",
            "allowed",
            "denied",
            "held",
            "rules_used",
            "effects",
            "authentication",
            "keep",
            "reviewer",
            "reviewed_on",
        ),
        "one identity at one target; the last three columns are for the reviewer",
        _access,
    ),
    "rules": Table(
        "Granted and used",
        ("rule", "target", "effect", "matched", "principals", "last_used", "used", "errors"),
        "one rule at one target",
        _rules,
    ),
    "privileged": Table(
        "Privileged operations", ("why", *_PRIVILEGED), "one exchange with special rights", _privileged
    ),
    "shared": Table("Signs of shared identities", ("identity", "sign", "seen"), "one sign", _shared),
    "masking": Table(
        "Masking",
        ("target", "entity", "exchanges", "masked", "residual"),
        "one kind of data at one target",
        _masking,
    ),
    "inventory": Table(
        "Inventory",
        (
            "target",
            "what",
            "name",
            "first",
            "last",
            "exchanges",
            "allowed",
            "with_masks",
            "inspected",
            "not_inspected",
            "owner",
            "classification",
        ),
        "one route or table that was reached; owner and classification are for the owner",
        _inventory,
    ),
    "refusals": Table(
        "Refusals",
        (
            "at",
            "principal",
            "source",
            "target",
            "request",
            "verdict",
            "code",
            "rules",
            "trace_id",
            "decision_id",
            "record",
        ),
        "one request or statement that was turned away",
        _refusals,
    ),
    "exceptions": Table(
        "Exceptions",
        ("at", "what", "detail", "principal", "target", "request", "decision_id", "record"),
        "one exception",
        _exceptions,
    ),
    "gaps": Table("Gaps", ("gap", "count"), "one kind of gap", _gaps),
    "policies": Table(
        "Policies",
        ("at", "what", "policy", "before", "author", "asked_by", "error", "files", "change", "record"),
        "one policy that came into force or was refused",
        _policies,
    ),
    "configuration": Table(
        "Configuration",
        ("at", "digest", "change", "settings", "record"),
        "one start of the service with its settings; secrets are references",
        _configuration,
    ),
    "administration": Table(
        "Administration", ("at", "kind", "who", "detail", "record"), "one act", _administration
    ),
    "clock": Table(
        "Clock", ("checkpoint", "time", "source", "offset_us"), "one checkpoint of the period", _clock
    ),
}


def sources_of(payload: bytes | None) -> dict[str, str]:
    """Policy files by name, as a `policy.activated` record keeps them."""
    try:
        found = json.loads(payload) if payload is not None else {}
    except ValueError:
        return {}
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def _diff(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    parts: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, "").splitlines(), after.get(name, "").splitlines()
        parts += unified_diff(old, new, f"before/{name}", f"after/{name}", lineterm="", n=2)
    return "\n".join(parts)


def _predecessor_crashed(start: Line, lines: Sequence[Line]) -> bool:
    """Its predecessor's last record in the period is no `stop`."""
    named = start.fields.get("predecessor")
    if not isinstance(named, dict):
        return False
    last = [line for line in lines if line.writer == named.get("writer") and line.seq == named.get("seq")]
    return bool(last) and last[0].kind != "stop"


def _kind(lines: Iterable[Line], kind: str) -> list[Line]:
    return [line for line in lines if line.kind == kind]


def _number(line: Line, name: str) -> int:
    found = line.fields.get(name)
    return found if type(found) is int else 0


def _is_blind(exchange: Exchange) -> bool:
    return exchange.response.get("inspected") in ("uninspected", "opaque")


def _who(line: Line) -> str:
    for name in ("by", "asked_by", "approver", "requester"):
        found = line.fields.get(name)
        if isinstance(found, dict):
            inner = found.get("principal")
            known = inner if isinstance(inner, dict) else found
            return str(
                known.get("person")
                or known.get("subject")
                or (f"uid:{known['uid']}" if "uid" in known else "")
            )
    return role_of(line.writer)


def _detail(line: Line) -> str:
    skipped = (
        "by",
        "asked_by",
        "approver",
        "requester",
        "approvers",
        "files",
        "demand_digest",
        "key",
        "binding",
        "move",
    )
    kept = {
        name: value
        for name, value in line.fields.items()
        if name not in skipped and not isinstance(value, dict)
    }
    return " ".join(f"{name}={_word(value)}" for name, value in sorted(kept.items()))[:400]


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _merge(known: str, more: Iterable[str]) -> str:
    return " ".join(sorted({*known.split(), *(one for one in more if one)}))


def _text(payload: bytes | None) -> str:
    return payload.decode("utf-8", "replace") if payload is not None else ""
