"""Records of a database session and its statements, everything through the target's record plan.

A session is one decision (the login) whose outcome is written when the connection ends; every statement is a
decision of its own, a child of the session's span.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from extproc.domain.decision import Ruling
from extproc.domain.errors import MaskingError
from extproc.domain.grant import Grant
from extproc.domain.hold import HeldRequest
from extproc.domain.principal import Principal
from extproc.domain.record import INTENT, OUTCOME, Checked, Record
from extproc.domain.request import NO_TRACE, Source, Trace
from extproc.domain.statement import Statement, StatementFacts
from extproc.masking import Masker
from extproc.pipeline.scribe import MAX_TEXT, hold_summary, keyed_digest
from extproc.pipeline.verdicts import same_facts

MAX_PARAMETERS = 64
"""Parameters that a line tells of; their number is always there."""
MAX_PARAMETER = 256
MAX_NAMES = 64
MAX_REMEMBERED = 128
"""Texts whose part of a record a connection remembers; more begin anew."""


@dataclass(slots=True)
class SessionScribe:
    """Builds the records of one connection. `masker` is None while there is no target."""

    target: str
    key: bytes = field(repr=False)
    session_id: str
    decision_id: str
    trace_id: str
    span_id: str
    started: float
    protocol: str = "postgres"
    masker: Masker | None = None
    parent_span_id: str = ""
    degraded: list[str] = field(default_factory=list)
    principal: Principal | None = None
    user: str = ""
    database: str = ""
    role: str = ""
    source: Source = field(default_factory=Source)
    policy: str = ""
    _texts_shown: dict[str, tuple[Statement, dict[str, Any]]] = field(default_factory=dict, repr=False)
    """What a record says of a text, by text: prepared statements come again and again."""
    _connection_shown: tuple[tuple[str, str, str, str], Checked] | None = field(default=None, repr=False)
    """What a record says of the connection, and what that was made of."""

    def login(self, at: float, verdict: str, code: str) -> Record:
        """Who wants in, as whom, and what was decided; before anything goes to the server."""
        fields = self._common(self.decision_id, self.span_id, self.parent_span_id)
        fields |= {"verdict": verdict, "code": code, "policy": self.policy, "risk": 0, "rules": []}
        fields["operation"] = "login"
        fields["connection"] = self._connection()
        if self.principal is not None:
            fields["principal"] = self.principal.to_record()
        return Record(INTENT, at, fields)

    def logout(
        self, at: float, *, executed: bool | None, end: str, reason: str, counts: Mapping[str, int]
    ) -> Record:
        """The end of the connection; `counts` sums up its statements."""
        fields = self._common(self.decision_id, self.span_id, self.parent_span_id)
        fields["operation"] = "login"
        fields["executed"] = executed
        fields["end"] = end
        fields["duration_us"] = max(0, int((at - self.started) * 1_000_000))
        fields["response"] = {"code": 0, "inspected": "none", **counts}
        if reason:
            fields["reason"] = reason
        return Record(OUTCOME, at, fields)

    def intent(
        self,
        at: float,
        decision_id: str,
        span_id: str,
        statement: Statement,
        *,
        verdict: str,
        code: str,
        rulings: Iterable[Ruling],
        masks: tuple[str, ...] = (),
        held: HeldRequest | None = None,
        grant: Grant | None = None,
        trace: Trace = NO_TRACE,
        transaction: str = "I",
        keep_payload: bool = False,
        limit: int = 0,
    ) -> Record:
        """What is to run, and what was decided; written before it goes on. `trace` is the caller's own."""
        fields = self._common(decision_id, span_id, self.span_id, trace)
        fields |= {"verdict": verdict, "code": code, "policy": self.policy}
        given = list(rulings)
        fields["risk"] = sum(ruling.risk for ruling in given)
        fields["rules"] = [match.to_record() for ruling in given for match in ruling.matched]
        errors = [error[:MAX_TEXT] for ruling in given for error in ruling.errors]
        if errors:
            fields["errors"] = errors
        if self.principal is not None:
            fields["principal"] = self.principal.to_record()
        if masks:
            fields["masks"] = list(masks)
        if held is not None:
            fields["hold"] = hold_summary(held, grant)
        fields["operation"] = "statement"
        fields["connection"] = self._connection()
        fields["statement"] = self._statement(statement, transaction)
        payloads = {}
        if keep_payload and self.masker is not None:
            payloads["request"] = self._payload(statement, limit)
        return Record(INTENT, at, fields, payloads)

    def outcome(
        self,
        at: float,
        decision_id: str,
        span_id: str,
        *,
        started: float,
        executed: bool | None,
        end: str,
        response: Mapping[str, Any],
        reason: str = "",
        trace: Trace = NO_TRACE,
        payload: bytes | None = None,
    ) -> Record:
        """How it ended. `response` has the SQLSTATE, tags, rows and bytes; `payload` a sample of the rows."""
        fields = self._common(decision_id, span_id, self.span_id, trace)
        fields["operation"] = "statement"
        fields["executed"] = executed
        fields["end"] = end
        fields["duration_us"] = max(0, int((at - started) * 1_000_000))
        fields["response"] = {"code": 0, "inspected": "none", **response}
        if reason:
            fields["reason"] = reason
        return Record(OUTCOME, at, fields, {"response": payload} if payload is not None else {})

    def shown_text(self, text: str, facts: Iterable[StatementFacts]) -> str:
        """The text as it may be kept and shown; one that sets a password is shown without its literals."""
        normalised = "; ".join(fact.normalised for fact in facts)
        if "PASSWORD" in text.upper():
            text = normalised or "[not recorded: it may set a password]"
        return self._masked(text)

    def _statement(self, statement: Statement, transaction: str) -> dict[str, Any]:
        kept = {**self._text(statement), "transaction": transaction}
        if statement.parameters:
            kept["parameter_count"] = len(statement.parameters)
            kept["parameters"] = [
                self._parameter(p.type_oid, p.format, p.value, p.text)
                for p in statement.parameters[:MAX_PARAMETERS]
            ]
        return kept

    def _text(self, statement: Statement) -> dict[str, Any]:
        """What a record says whatever the parameters are; not to be changed."""
        known = self._texts_shown.get(statement.text)
        if (
            known is not None
            and known[0].kind == statement.kind
            and same_facts(known[0].facts, statement.facts)
        ):
            return known[1]
        kept = self._build_text(statement)
        if len(statement.text) <= MAX_TEXT:
            if len(self._texts_shown) >= MAX_REMEMBERED:
                self._texts_shown.clear()
            self._texts_shown[statement.text] = (replace(statement, parameters=()), kept)
        return kept

    def _build_text(self, statement: Statement) -> dict[str, Any]:
        facts = statement.facts
        shown = self.shown_text(statement.text, facts)
        raw = statement.text.encode("utf-8", "surrogatepass")
        kept: dict[str, Any] = {
            "kind": statement.kind,
            "text": shown[:MAX_TEXT],
            "size": len(raw),
            "digest": keyed_digest(self.key, raw),
            "verbs": [fact.verb for fact in facts][:MAX_NAMES],
            "effects": sorted({effect for fact in facts for effect in fact.effects}),
            "tables_read": self._names(name for fact in facts for name in fact.tables_read),
            "tables_written": self._names(name for fact in facts for name in fact.tables_written),
            "fingerprints": [fact.fingerprint for fact in facts if fact.fingerprint][:MAX_NAMES],
        }
        if len(shown) > MAX_TEXT:
            kept["cut_at"] = MAX_TEXT
        if shown != statement.text:
            kept["altered"] = True
        underlying = sorted({fact.underlying for fact in facts if fact.underlying})
        if underlying:
            kept["underlying"] = [self.shown_text(text, ())[:MAX_TEXT] for text in underlying[:MAX_NAMES]]
        copies = [fact.copy for fact in facts if fact.copy is not None]
        if copies:  # what the client sends behind COPY FROM was not there to be judged
            kept["copy"] = {"direction": copies[0].direction, "endpoint": copies[0].endpoint}
            if copies[0].direction == "in" and copies[0].endpoint == "client":
                kept["copy"]["bound"] = False
        reasons = sorted({fact.incomplete_reason for fact in facts if not fact.complete})
        if reasons:
            kept["incomplete"] = reasons
        return kept

    def _parameter(
        self, type_oid: int, format_: int, value: bytes | None, text: str | None
    ) -> dict[str, Any]:
        kept: dict[str, Any] = {"type": type_oid, "format": format_}
        if value is None:
            kept["null"] = True
            return kept
        kept["size"] = len(value)
        kept["digest"] = keyed_digest(self.key, value)
        if text is not None:
            kept["text"] = self._masked(text)[:MAX_PARAMETER]
            if kept["text"] != text:
                kept["altered"] = True
        return kept

    def _payload(self, statement: Statement, limit: int) -> bytes:
        shown = self.shown_text(statement.text, statement.facts)
        kept: dict[str, Any] = {"text": shown[:limit]}
        if len(shown) > limit:
            kept["cut_at"] = limit
        room = limit
        parameters: list[str | None] = []
        for parameter in statement.parameters:
            shown = "" if parameter.text is None else self._masked(parameter.text)[: max(0, room)]
            room -= len(shown)
            parameters.append(None if parameter.value is None else shown)
        if parameters:
            kept["parameters"] = parameters
        return orjson.dumps(kept)

    def _names(self, names: Iterable[str]) -> list[str]:
        return [self._masked(name)[:MAX_PARAMETER] for name in sorted(set(names))[:MAX_NAMES]]

    def _connection(self) -> Checked:
        """Who is connected: the same in every record until somebody else logs in."""
        named = (self.user, self.database, self.role, self.source.address)
        if self._connection_shown is None or self._connection_shown[0] != named:
            self._connection_shown = named, self._build_connection()
        return self._connection_shown[1]

    def _build_connection(self) -> Checked:
        kept: dict[str, Any] = {
            "user": self._masked(self.user)[:MAX_PARAMETER],
            "database": self._masked(self.database)[:MAX_PARAMETER],
        }
        altered = [
            name for name, sent in (("user", self.user), ("database", self.database)) if kept[name] != sent
        ]
        if altered:
            kept["altered"] = altered
        if self.role:
            kept["role"] = self.role
        if self.source.address:
            kept["source"] = self.source.address
        return Checked(kept)

    def _masked(self, text: str) -> str:
        if self.masker is None:
            return "[not recorded: no target]"
        try:
            masked = self.masker.text(text)[0]
        except MaskingError as error:
            return f"[not recorded: {error.code}]"
        return masked.encode("utf-8", "replace").decode("utf-8")

    def _common(
        self, decision_id: str, span_id: str, parent_span_id: str, trace: Trace = NO_TRACE
    ) -> dict[str, Any]:
        """A caller's own trace goes before the session's, whose id still says where it belongs."""
        trace_id = self.trace_id
        if trace.trace_id:
            trace_id, parent_span_id = trace.trace_id, trace.parent_span_id
        fields: dict[str, Any] = {
            "decision_id": decision_id,
            "session_id": self.session_id,
            "target": self.target,
            "protocol": self.protocol,
            "span_id": span_id,
            "trace": {"trace_id": trace_id, "parent_span_id": parent_span_id},
        }
        if self.degraded:
            fields["degraded"] = list(self.degraded)
        return fields


def statement_binding(
    key: bytes,
    principal: Principal,
    target: str,
    where: Iterable[str],
    statement: Statement,
    transaction: str,
    rules_digest: str,
) -> str:
    """What an approval is bound to (HMAC-SHA256, hex): caller, target, session settings, text, every parameter.

    `where` are the database, the user and the settings that change what a text means. Parts are length-prefixed.
    """
    mac = hmac.new(key, digestmod="sha256")

    def add(part: bytes) -> None:
        mac.update(len(part).to_bytes(8, "big"))
        mac.update(part)

    add(b"sql")
    for text in (principal.issuer, principal.subject, target, rules_digest, *where):
        add(text.encode("utf-8", "surrogatepass"))
    add(statement.kind.encode())
    add(transaction.encode())
    add(statement.text.encode("utf-8", "surrogatepass"))
    for parameter in statement.parameters:
        add(parameter.type_oid.to_bytes(4, "big") + bytes((parameter.format & 0xFF,)))
        add(b"\x00" if parameter.value is None else b"\x01" + parameter.value)
    return mac.hexdigest()
