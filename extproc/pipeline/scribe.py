"""Writes an exchange down: the intent before it goes on, the outcome before the client has the last byte.

Everything passes the target's record plan first, whatever the verdict. Payloads are never part of the line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import orjson

from extproc.domain.decision import Matched
from extproc.domain.errors import MaskingError, ProtocolError
from extproc.domain.grant import Grant
from extproc.domain.hold import HeldRequest
from extproc.domain.principal import Principal
from extproc.domain.record import INTENT, NO_PAYLOADS, OUTCOME, Record
from extproc.domain.request import Headers, RequestHead
from extproc.domain.times import rfc3339
from extproc.masking import Masker
from extproc.policy.facts import SECRET_HEADERS
from extproc.protocols.http.body import decode

if TYPE_CHECKING:
    from hashlib import _Hash

MAX_TEXT: Final = 2048
"""Characters of a URL or name that a line keeps."""


def keyed_digest(key: bytes, data: bytes) -> str:
    """A digest of unmasked bytes (HMAC-SHA256, RFC 2104) that nobody without the key can test guesses against."""
    inner, outer = _begun(key)
    inside, outside = inner.copy(), outer.copy()
    inside.update(data)
    outside.update(inside.digest())
    return "hmac-sha256:" + outside.hexdigest()


@lru_cache(maxsize=8)
def _begun(key: bytes) -> tuple[_Hash, _Hash]:
    """Both hashes of HMAC with the key taken in, which is the same for every digest."""
    block = (sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    return sha256(bytes(byte ^ 0x36 for byte in block)), sha256(bytes(byte ^ 0x5C for byte in block))


class Scribe:
    """Builds the records of one exchange. `ids` are its session, decision, trace and span."""

    __slots__ = ("decision_id", "degraded", "key", "masker", "parent_span_id", "session_id", "span_id", "started",
                 "target", "trace_id")  # fmt: skip

    def __init__(
        self, target: str, masker: Masker | None, key: bytes, session_id: str, decision_id: str,
        trace_id: str, parent_span_id: str, span_id: str, started: float, degraded: Iterable[str],
    ) -> None:  # fmt: skip
        self.target = target
        self.masker = masker
        self.key = key
        self.session_id = session_id
        self.decision_id = decision_id
        self.trace_id = trace_id
        self.parent_span_id = parent_span_id
        self.span_id = span_id
        self.started = started
        self.degraded = list(degraded)

    def intent(
        self,
        at: float,
        *,
        verdict: str,
        code: str,
        principal: Principal | None,
        head: RequestHead | None,
        body: bytes | None,
        matched: tuple[Matched, ...] = (),
        errors: tuple[str, ...] = (),
        risk: int = 0,
        policy: str = "",
        masks: tuple[str, ...] = (),
        held: HeldRequest | None = None,
        grant: Grant | None = None,
        keep_payload: bool = False,
        limit: int = 0,
        strip: frozenset[str] = frozenset(),
    ) -> Record:
        """What was asked, by whom, and what was decided; written before anything goes on."""
        fields: dict[str, Any] = {
            "decision_id": self.decision_id,
            "session_id": self.session_id,
            "target": self.target,
            "protocol": "http",
            "span_id": self.span_id,
            "trace": {"trace_id": self.trace_id, "parent_span_id": self.parent_span_id},
            "verdict": verdict,
            "code": code,
            "policy": policy,
            "risk": risk,
            "rules": [match.to_record() for match in matched],
        }
        if self.degraded:
            fields["degraded"] = list(self.degraded)
        if errors:
            fields["errors"] = [error[:MAX_TEXT] for error in errors]
        if principal is not None:
            fields["principal"] = principal.to_record()
        if masks:
            fields["masks"] = list(masks)
        if held is not None:
            fields["hold"] = hold_summary(held, grant)
        if head is None:
            return Record(INTENT, at, fields)
        headers = head.headers
        fields["request"] = self._request(head, body)
        if not keep_payload:
            return Record(INTENT, at, fields)
        kept = self._payload(headers, body, headers.get("content-encoding"), limit, strip)
        return Record(INTENT, at, fields, {"request": kept})

    def outcome(
        self,
        at: float,
        *,
        executed: bool | None,
        end: str,
        code: int = 0,
        inspected: str = "none",
        size: int | None = None,
        raw: bytes | None = None,
        masked: Mapping[str, int] | None = None,
        residual: Mapping[str, int] | None = None,
        mask_digest: str = "",
        reason: str = "",
        payload: bytes | None = None,
        matched: tuple[Matched, ...] = (),
    ) -> Record:
        """How it ended. `executed` None means nobody here can know."""
        response: dict[str, Any] = {"code": code, "inspected": inspected}
        fields: dict[str, Any] = {
            "decision_id": self.decision_id,
            "session_id": self.session_id,
            "target": self.target,
            "protocol": "http",
            "span_id": self.span_id,
            "trace": {"trace_id": self.trace_id, "parent_span_id": self.parent_span_id},
            "executed": executed,
            "end": end,
            "duration_us": max(0, int((at - self.started) * 1_000_000)),
            "response": response,
        }
        if self.degraded:
            fields["degraded"] = list(self.degraded)
        if size is not None:
            response["size"] = size
        if raw is not None:
            response["digest"] = keyed_digest(self.key, raw)
        if masked:
            response["masked"] = dict(masked)
        if residual is not None:
            response["residual"] = dict(residual)
        if mask_digest:
            response["mask_digest"] = mask_digest
        if matched:
            fields["rules"] = [match.to_record() for match in matched]
        if reason:
            fields["reason"] = reason
        return Record(OUTCOME, at, fields, {"response": payload} if payload is not None else NO_PAYLOADS)

    def response_payload(self, headers: Headers, body: bytes | None, coding: str, limit: int) -> bytes:
        """A response as it is kept: headers and body through the record plan, cut at `limit` bytes."""
        return self._payload(headers, body, coding, limit, frozenset())

    def _request(self, head: RequestHead, body: bytes | None) -> dict[str, Any]:
        headers = head.headers
        host, path = headers.get(":authority"), headers.get(":path")
        request: dict[str, Any] = {
            "method": headers.get(":method")[:64],
            "scheme": headers.get(":scheme")[:16],
            "host": self._masked_text(host),
            "path": self._masked_url(path),
        }
        if request["host"] != host or request["path"] != path:
            # whoever judges the record anew must know which parts are not what was sent
            request["altered"] = [
                name for name, sent in (("host", host), ("path", path)) if request[name] != sent
            ]
        if head.route:
            request["route"] = head.route[:MAX_TEXT]
        if head.source.address:
            request["source"] = head.source.address[:MAX_TEXT]
        if "content-type" in headers:
            request["content_type"] = self._masked_text(headers.get("content-type"))
        if body:
            request["size"] = len(body)
            request["digest"] = keyed_digest(self.key, body)
        return request

    def _masked_text(self, text: str) -> str:
        if self.masker is None:
            return "[not recorded: no target]"
        try:
            # masked first: a cut could leave half a value, which no recognizer knows
            return self.masker.text(text)[0][:MAX_TEXT]
        except MaskingError as error:
            return f"[not recorded: {error.code}]"

    def _masked_url(self, path: str) -> str:
        if self.masker is None:
            return "[not recorded: no target]"
        try:
            return self.masker.url(path)[0][:MAX_TEXT]
        except MaskingError as error:
            return f"[not recorded: {error.code}]"

    def _payload(
        self, headers: Headers, body: bytes | None, coding: str, limit: int, strip: frozenset[str]
    ) -> bytes:
        kept: dict[str, Any] = {}
        if self.masker is None:
            return orjson.dumps({"omitted": "no target"})
        shown = [
            (name, value)
            for name, value in headers
            if name not in SECRET_HEADERS and name not in strip and name != ":path"
        ]
        try:
            kept["headers"] = [list(pair) for pair in self.masker.headers(shown)[0]]
        except MaskingError as error:
            kept["headers_omitted"] = error.code
        if body:
            try:
                plain = decode(body, coding, max(len(body) * 64, 1 << 20))
                text = self.masker.body(plain, headers.get("content-type", "text/plain"))
                kept["body"] = text.data[:limit].decode("utf-8", "replace")
                if len(text.data) > limit:
                    kept["cut_at"] = limit
                    kept["size"] = len(text.data)
            except (MaskingError, ProtocolError) as unread:
                kept["body_omitted"] = unread.code
        return orjson.dumps(kept)


def hold_summary(held: HeldRequest, grant: Grant | None = None) -> dict[str, Any]:
    """Which hold let it go or stopped it, and who decided; with `grant`, which of its uses this one is."""
    kept: dict[str, Any] = {
        "id": held.id,
        "state": str(held.state),
        "binding": held.ask.binding,
        "rules_digest": held.ask.demand.digest,
        "votes": [
            {
                "person": vote.person,
                "subject": vote.approver.subject,
                "issuer": vote.approver.issuer,
                "approve": vote.approve,
                "at": rfc3339(vote.at),
            }
            for vote in held.votes
        ],
    }
    if held.glass is not None:
        kept["break_glass"] = {
            "person": held.glass.by.person,
            "reason": held.glass.reason,
            "at": rfc3339(held.glass.at),
            "review_by": rfc3339(held.glass.review_by),
        }
    if grant is not None:
        kept["grant"] = {
            "id": grant.id,
            "use": grant.used,
            "uses": grant.terms.uses,
            "scope": grant.terms.scope,
        }
    return kept
