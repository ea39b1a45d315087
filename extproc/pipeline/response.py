"""The response side of an exchange: judge it, mask it, keep what was seen, and only then let it go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from extproc.domain.decision import Deny, HeaderChange, Obligations, Phase, Ruling
from extproc.domain.errors import MaskingError, ProtocolError
from extproc.domain.record import Record
from extproc.domain.request import NO_HEADERS, Headers
from extproc.domain.steps import UNSEEN, BodyMode, BodyModes, Forward, Refuse, Step
from extproc.masking import Masker
from extproc.masking.literal_stream import GrpcFrames, LiteralStream
from extproc.pipeline.facts import HttpFacts
from extproc.pipeline.governance import TargetPlan
from extproc.pipeline.problems import problem
from extproc.pipeline.scribe import Scribe
from extproc.protocols.http.body import decode, is_json

STREAMED_TYPES: Final = ("text/event-stream", "application/grpc", "multipart/x-mixed-replace")
"""Media types whose body has no useful end: never buffered."""
KEPT_MARGIN: Final = 4096
"""Bytes of a stream that are masked beyond those that are kept, so that the cut falls into no value."""
VALIDATORS: Final = ("etag", "content-md5", "digest", "content-digest", "repr-digest", "accept-ranges")
"""Fields that describe the bytes the upstream sent, so they go when we change them."""


class ResponseSide:
    """One response. `finished` once its outcome is written and nothing more is to be seen."""

    __slots__ = (
        "_answered", "_facts", "_fields", "_frames", "_headers", "_in_force", "_judged", "_known", "_local",
        "_masker", "_mode", "_opaque", "_plan", "_ruling", "_scribe", "_seen", "_size", "_stream", "code",
        "finished", "method", "owed",
    )  # fmt: skip

    def __init__(
        self, *, plan: TargetPlan, scribe: Scribe, facts: HttpFacts | None, ruling: Ruling | None,
        obligations: Obligations, method: str, opaque: bool, local: bool, answered: bool, in_force: BodyMode,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._scribe = scribe
        self._facts = facts
        self._ruling = ruling
        self._known = len(ruling.matched) if ruling is not None else 0
        self.owed = obligations
        self.method = method
        self._opaque = opaque
        self._local = local
        self._answered = answered
        self._in_force = in_force
        self._mode = BodyMode.NONE
        self._headers = NO_HEADERS
        self._masker: Masker | None = None
        self._stream: LiteralStream | None = None
        self._frames: GrpcFrames | None = None
        self._fields: tuple[Masker | None, list[tuple[str, str]], dict[str, int]] | None = None
        self._seen = bytearray()
        self._size = 0
        self._judged = False
        self.code = 0
        self.finished = False

    @property
    def is_local(self) -> bool:
        """Envoy answered in the upstream's place, before the request went on."""
        return self._local

    @property
    def executed(self) -> bool | None:
        """Whether the upstream did what was asked; None when Envoy answered for it after the request had gone on."""
        if self._local:
            return False
        return True if self._answered else None

    # ------------------------------------------------------------------ headers

    def headers(self, headers: Headers, end_of_stream: bool, now: float) -> Step:
        """Decide how much of the body must be seen, and let the headers go or wait for it."""
        self.code = status_code(headers)
        self._headers = headers
        plan = self._plan
        if self.owed.masks or plan.credential is not None:
            self._masker = plan.masker_for(self.owed.masks)
        if self._facts is not None:
            self._facts.response_headers = headers
            self._facts.response_code = self.code
        if end_of_stream:
            # only this says that no body comes: Envoy passes one on with a 205, whatever the status promises
            return self._whole(b"", b"", now)
        if self._opaque:
            if self.code == 101 or (self.method == "CONNECT" and self.code < 300):
                return self._unseen("opaque", now)
            self._in_force = BodyMode.NONE  # lowered when the upgrade went on; the upstream declined it
        if not plan.rules.reads_response_body:
            # nothing more can become known, and masks decide how the body must come
            refusal = self._judge_now(now)
            if refusal is not None:
                return refusal
        self._mode, obstacle = self._needed_mode(headers)
        if obstacle:
            return self._withhold(502, obstacle, WITHHELD[obstacle], now)
        if self._mode > self._in_force:
            return self._withhold(502, "response-not-sent", WITHHELD["response-not-sent"], now)
        if self._mode is BodyMode.NONE:
            return self._unseen("uninspected" if self._wants_any() else "none", now)
        modes = BodyModes(BodyMode.NONE, self._mode) if self._mode is not self._in_force else None
        if self._mode is BodyMode.STREAMED:
            verdict = self._judge_now(now)
            if isinstance(verdict, Refuse):
                return verdict
            change = self._header_change()
            if plan.credential is not None:
                media = headers.get("content-type").partition(";")[0].strip().lower()
                if media.startswith("application/grpc") and "text" not in media:
                    self._frames = GrpcFrames()
                self._stream = LiteralStream(plan.credential.literals, same_length=self._frames is not None)
                # what is taken out changes the length, and Envoy leaves this header to whoever lowers the mode
                change = replace(change, remove=(*change.remove, "content-length"))
            return Forward(headers=change, modes=modes)
        # the body's reply says it again, framing included; but a response of trailers alone has no such reply
        return Forward(headers=self._header_change(), modes=modes)

    def _wants_any(self) -> bool:
        plan = self._plan
        return bool(
            self.owed.masks or plan.credential or plan.rules.reads_response_body
            or "masked" in (plan.record_response, self.owed.record_response)
        )  # fmt: skip

    def _needed_mode(self, headers: Headers) -> tuple[BodyMode, str]:
        """How the body must come, or the code of the refusal when it cannot come that way."""
        plan = self._plan
        must_buffer = bool(self.owed.masks) or (plan.rules.reads_response_body and not self._local)
        if not must_buffer and not self._wants_any():
            return BodyMode.NONE, ""
        media = headers.get("content-type").partition(";")[0].strip().lower()
        length = headers.get("content-length")
        known = int(length) if length.isascii() and length.isdigit() and len(length) < 16 else None
        streamed = media.startswith(STREAMED_TYPES)
        if self.code == 206 and must_buffer:
            # a value or a word that a rule looks for may be cut in two, one half in each of two answers
            return BodyMode.BUFFERED, "partial-not-maskable"
        if must_buffer:
            if streamed and self.owed.masks:
                return BodyMode.BUFFERED, "stream-not-maskable"
            if known is not None and known > plan.response_limit:
                return BodyMode.BUFFERED, "response-too-large"
            if not streamed:
                return BodyMode.BUFFERED, ""
            # rules that read the body of a stream count as not evaluated
        is_long = known is not None and known > plan.response_limit
        if plan.credential is not None and headers.get("content-encoding", "identity").lower() != "identity":
            # nobody can look for the credential in coded pieces: the whole, or nothing
            return BodyMode.BUFFERED, "stream-unreadable" if streamed or is_long else ""
        return BodyMode.STREAMED if streamed or known is None or is_long else BodyMode.BUFFERED, ""

    # ------------------------------------------------------------------ body

    def body(self, body: bytes, end_of_stream: bool, now: float) -> Step:
        """The whole body, or the next piece of a streamed one."""
        if self._mode is BodyMode.STREAMED:
            return self._piece(body, end_of_stream, now)
        plan = self._plan
        limit = plan.response_limit
        if len(body) > limit and (self.owed.masks or plan.rules.reads_response_body):
            return self._withhold(502, "response-too-large", WITHHELD["response-too-large"], now)
        try:
            plain = decode(body, ",".join(self._headers.all("content-encoding")), limit)
        except ProtocolError as error:
            # nothing can be said of bytes that cannot be read: not that the credential is absent either
            return self._withhold(
                502, "response-unreadable", f"The response cannot be read: {error.code}.", now
            )
        return self._whole(body, plain, now)

    def _piece(self, piece: bytes, last: bool, now: float) -> Step:
        self._size += len(piece)
        sent = piece
        if self._stream is not None:
            whole = last
            if self._frames is not None:
                whole = self._frames.ends_whole(piece) or last
                if self._frames.compressed:
                    return self._withhold(502, "stream-unreadable", WITHHELD["stream-unreadable"], now)
            sent = self._stream.feed(piece, last=whole)
        room = self._plan.record_max + KEPT_MARGIN - len(self._seen)
        if room > 0:
            self._seen += sent[:room]
        records: tuple[Record, ...] = ()
        if last:
            records = (self._stream_outcome(now, {}),)
        return Forward(body=sent if sent is not piece else None, records=records)

    def _stream_outcome(self, now: float, masked: dict[str, int]) -> Record:
        if self._stream is not None and self._stream.count:
            masked["LITERAL"] = masked.get("LITERAL", 0) + self._stream.count
        coded = self._headers.get("content-encoding") not in ("", "identity")
        self.finished = True
        return self._outcome(now, "uninspected" if coded else "streamed", size=self._size, masked=masked)

    def trailers(self, trailers: Headers, now: float) -> Step:
        """Trailers end a response as its headers began it; a stream that has them is finished only here."""
        if self._stream is not None and self._stream.holds_back and not self.finished:
            # the tail could begin the credential, and no body can follow any more
            return self._withhold(502, "stream-unreadable", WITHHELD["stream-unreadable"], now)
        counts: dict[str, int] = {}
        records: tuple[Record, ...] = ()
        if not self.finished and self._mode is BodyMode.STREAMED:
            change = self._trailer_change(trailers, counts)
            return Forward(headers=change, records=(self._stream_outcome(now, counts),))
        if not self.finished:
            step = self._whole(b"", b"", now)  # trailers and no body before them: now that is known
            if not isinstance(step, Forward):
                return step
            records = step.records
        return Forward(headers=self._trailer_change(trailers, counts), records=records)

    def _trailer_change(self, trailers: Headers, counts: dict[str, int]) -> HeaderChange:
        return HeaderChange(set=tuple(self._masked_fields(trailers, counts)))

    def _whole(self, raw: bytes, plain: bytes, now: float) -> Step:
        """The body is complete: judge, mask, record, forward."""
        if self._facts is not None:
            self._facts.response_body = plain
            if self._masker is not None:
                self._facts.response_findings = self._find(plain)
        refusal = self._judge_now(now)
        if isinstance(refusal, Refuse):
            return refusal
        out, counts, residual = plain, dict[str, int](), None
        inspected = "none"
        if plain:
            inspected = "full"
            try:
                masked = self._masked(plain)
            except MaskingError as error:
                return self._withhold(
                    502, "response-not-maskable", f"The response cannot be masked: {error.code}.", now
                )
            if masked is not None:
                out, counts, residual = masked
        changed = out is not plain and out != plain
        headers = self._header_change(counts, changed=changed, length=len(out))
        payload = None
        if "masked" in (self._plan.record_response, self.owed.record_response):
            payload = self._scribe.response_payload(self._kept_headers(), out, "", self._plan.record_max)
        record = self._outcome(
            now, inspected, size=len(plain), raw=plain, masked=counts, residual=residual, payload=payload
        )
        self.finished = True
        return Forward(headers=headers, body=out if changed else None, records=(record,))

    def _find(self, plain: bytes) -> Callable[[], dict[str, int]]:
        masker, content_type = self._masker, self._headers.get("content-type")
        assert masker is not None  # noqa: S101
        return lambda: masker.findings(plain, content_type)

    def _masked(self, plain: bytes) -> tuple[bytes, dict[str, int], dict[str, int] | None] | None:
        """Masked body, counts and what a second look still finds; None when nothing is owed."""
        masker = self._masker
        if masker is None:
            return None
        content_type = self._headers.get("content-type")
        if self.owed.masks:
            try:
                result = masker.body(plain, content_type)
            except MaskingError as error:
                allowed = self._plan.unparsable_json == "allow" and error.code == "unparsable-body"
                if not (allowed and is_json(content_type)):
                    raise
                self._scribe.degraded.append("unparsable-json-allowed")
                content_type = "text/plain"
                result = masker.body(plain, content_type, without_paths=True)
            residual = masker.residual(result.data, content_type) if result.changed else {}
            return result.data, dict(result.counts), residual
        assert self._plan.credential is not None  # noqa: S101  (a masker without masks exists for its literal)
        stream = LiteralStream(self._plan.credential.literals)
        out = stream.feed(plain, last=True)
        return (out, {"LITERAL": stream.count}, {}) if stream.count else None

    # ------------------------------------------------------------------ judge

    def _judge_now(self, now: float) -> Refuse | None:
        """Response rules, once all that can be known is known."""
        rules = self._plan.rules
        if self._judged or self._facts is None or not rules.has_phase(Phase.RESPONSE):
            return None
        self._judged = True
        before = self.owed
        try:
            self._ruling = ruling = rules.judge(Phase.RESPONSE, self._facts, self._ruling)
        except ProtocolError as error:
            return self._withhold(502, error.code, error.message, now)
        decision = ruling.decision
        if isinstance(decision, Deny):
            return self._withhold(decision.status, decision.code, decision.message, now, rule=decision.rule)
        if decision is not None:
            self.owed = decision.obligations
        if self.owed.masks != before.masks:
            if self._mode is BodyMode.STREAMED:
                return self._withhold(502, "stream-not-maskable", WITHHELD["stream-not-maskable"], now)
            self._masker = self._plan.masker_for(self.owed.masks)
        return None

    # ------------------------------------------------------------------ endings

    def _unseen(self, inspected: str, now: float) -> Step:
        """The body goes by without us; the record says so."""
        refusal = self._judge_now(now)
        if isinstance(refusal, Refuse):
            return refusal
        modes = UNSEEN if self._in_force is not BodyMode.NONE else None
        record = self._outcome(now, inspected)
        self.finished = True
        return Forward(headers=self._header_change(), modes=modes, records=(record,))

    def _withhold(self, status: int, code: str, detail: str, now: float, *, rule: str = "") -> Refuse:
        """The request ran, its answer does not go out."""
        scribe = self._scribe
        extra: dict[str, object] = {
            "decision_id": scribe.decision_id, "trace_id": scribe.trace_id, "executed": not self._local,
        }  # fmt: skip
        if rule:
            extra["rule"] = rule
        record = scribe.outcome(
            now, executed=self.executed, end="refused", code=self.code, inspected="withheld", reason=code,
            matched=self._ruling.matched[self._known :] if self._ruling is not None else (),
        )  # fmt: skip
        self.finished = True
        return Refuse(
            status=status,
            headers=(("content-type", "application/problem+json"), ("cache-control", "no-store")),
            body=problem(status, code, detail, extra=extra),
            details=f"extproc_{code.replace('-', '_')}",
            metadata={"session_id": scribe.session_id, "decision_id": scribe.decision_id, "verdict": "deny"},
            records=(record,),
        )

    def _outcome(
        self, now: float, inspected: str, *, size: int | None = None, raw: bytes | None = None,
        masked: Mapping[str, int] | None = None, residual: Mapping[str, int] | None = None,
        payload: bytes | None = None,
    ) -> Record:  # fmt: skip
        if self._mode is BodyMode.STREAMED and "masked" in (
            self._plan.record_response, self.owed.record_response,
        ):  # fmt: skip
            payload = self._scribe.response_payload(
                Headers((*self._kept_headers(), ("content-type", "text/plain"))), bytes(self._seen), "",
                self._plan.record_max,
            )  # fmt: skip
        return self._scribe.outcome(
            now,
            executed=self.executed,
            end="complete" if self._answered and not self._local else "local_reply",
            code=self.code,
            inspected=inspected,
            size=size,
            raw=raw or None,
            masked=masked,
            residual=residual if masked else None,
            mask_digest=self._masker.digest if self._masker is not None and self.owed.masks else "",
            payload=payload,
            matched=self._ruling.matched[self._known :] if self._ruling is not None else (),
        )

    def _kept_headers(self) -> Headers:
        """Response headers as they may be kept; the content coding was undone."""
        return Headers(tuple(pair for pair in self._headers if pair[0] != "content-encoding"))

    def _masked_fields(self, fields: Headers, counts: dict[str, int]) -> list[tuple[str, str]]:
        """The fields that masking changed, every value of a touched name; what was found is added to `counts`."""
        if self._masker is None:
            return []
        pairs = [pair for pair in fields if pair[0][0] != ":"]
        masked, found = self._masker.headers(pairs)
        for name, number in found.items():
            counts[name] = counts.get(name, 0) + number
        touched = {new[0] for old, new in zip(pairs, masked, strict=True) if old != new} if found else ()
        return [pair for pair in masked if pair[0] in touched]

    def _header_change(
        self, counts: dict[str, int] | None = None, *, changed: bool = False, length: int = 0
    ) -> HeaderChange:
        """Obligations, masked header values, and framing that fits a changed body."""
        owed = self.owed.response_headers
        if self._masker is None and not changed:
            return owed
        put, remove = list(owed.set), list(owed.remove)
        if self._fields is None or self._fields[0] is not self._masker:
            found: dict[str, int] = {}
            self._fields = (self._masker, self._masked_fields(self._headers, found), found)
        put.extend(self._fields[1])
        if counts is not None:
            for name, number in self._fields[2].items():
                counts[name] = counts.get(name, 0) + number
        if changed:
            put.append(("content-length", str(length)))
            remove.extend(n for n in ("content-encoding", *VALIDATORS) if n in self._headers)
        return HeaderChange(tuple(put), tuple(remove))


def status_code(headers: Headers) -> int:
    """The response's status; 0 when it has none."""
    status = headers.get(":status")
    known = _CODES.get(status)
    if known is not None:
        return known
    return int(status) if status.isascii() and status.isdigit() else 0


_CODES: Final = {str(code): code for code in range(100, 600)}


WITHHELD: Final[dict[str, str]] = {
    "partial-not-maskable": "A partial response cannot be judged or masked, so it is withheld.",
    "stream-not-maskable": "A streamed response cannot be masked, so it is withheld.",
    "stream-unreadable": "A stream in a content coding cannot be inspected, so it is withheld.",
    "response-too-large": "The response is over the target's limit, so it cannot be inspected.",
    "response-not-sent": "Envoy is not configured to send the response body that policy needs.",
}
