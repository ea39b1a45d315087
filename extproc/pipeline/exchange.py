"""One HTTP request and its response, from the first message to the last.

Read top to bottom: identify, decide, hold, forward; then the response: judge, mask, record.
Every method takes one event and returns one `Step`; the server carries it out and brings the next event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum, auto
from typing import Final

from extproc.domain.decision import NO_CHANGE, Allow, Deny, HeaderChange, Hold, Obligations, Phase, Ruling
from extproc.domain.errors import ProtocolError, TokenError
from extproc.domain.grant import Grant
from extproc.domain.hold import HeldRequest, HoldAsk
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.domain.request import Headers, RequestHead
from extproc.domain.steps import UNSEEN, BodyMode, BodyModes, Forward, NeedBody, NeedKeys, Refuse, Step, Wait
from extproc.identity import http_status, token_error
from extproc.pipeline.binding import CALLERS_WORD, binding
from extproc.pipeline.facts import HttpFacts
from extproc.pipeline.governance import Governance, TargetPlan
from extproc.pipeline.problems import problem
from extproc.pipeline.response import ResponseSide, status_code
from extproc.pipeline.scribe import Scribe
from extproc.pipeline.settled import HoldSettled
from extproc.pipeline.shapes import http_shape
from extproc.pipeline.view import hold_view
from extproc.protocols.http.body import readable_codings
from extproc.protocols.http.head import RequestLine, check_override_param, read_request_line
from extproc.protocols.http.prefer import wait_asked

NOTHING: Final = Obligations()
PASS: Final = Forward()
ALL_BUFFERED: Final = BodyModes(BodyMode.BUFFERED, BodyMode.BUFFERED)


class Stage(Enum):
    """Where the exchange stands."""

    START = auto()
    KEYS = auto()
    BODY = auto()
    WAITING = auto()
    FORWARDED = auto()
    RESPONDING = auto()
    DONE = auto()


class HttpExchange:
    """The state of one exchange. Not thread-safe; one stream owns it."""

    __slots__ = (
        "_current", "_facts", "_gov", "_grant", "_head", "_held", "_in_force", "_line", "_obligations", "_plan",
        "_principal", "_response", "_ruling", "scribe", "stage",
    )  # fmt: skip

    def __init__(
        self,
        current: Callable[[], Governance],
        new_hex: Callable[[int], str],
        in_force: BodyModes,
        now: float,
    ) -> None:
        self._current = current
        self._gov = current()
        self._in_force = in_force
        self._head: RequestHead | None = None
        self._plan: TargetPlan | None = None
        self._principal: Principal | None = None
        self._line: RequestLine | None = None
        self._facts: HttpFacts | None = None
        self._ruling: Ruling | None = None
        self._obligations = NOTHING
        self._held: HeldRequest | None = None
        self._grant: Grant | None = None
        self._response: ResponseSide | None = None
        self.stage = Stage.START
        drawn = new_hex(56)
        self.scribe = Scribe(
            "", None, self._gov.record_key, "ses_" + drawn[:32], "dec_" + drawn[32:64], drawn[64:96], "",
            drawn[96:], now, self._gov.degraded,
        )  # fmt: skip

    # ------------------------------------------------------------------ the request

    def request_headers(self, head: RequestHead, now: float) -> Step:
        """The first message of an ordinary exchange."""
        if self.stage is not Stage.START:
            raise ProtocolError("out-of-order", "Request headers came twice.")
        self._enter(head)
        if self._plan is None:
            return self._refuse(now, 403, "no-target", "This route names no target that extproc governs.")
        return self._identify(now)

    def keys_ready(self, now: float) -> Step:
        """The keys asked for were fetched, or could not be."""
        step = self._identify(now)
        if type(step) is NeedKeys:
            return self._refuse(
                now, 503, "keys-unavailable", "The issuer's keys cannot be had now.", extra={"resend": True}
            )
        return step

    def request_body(self, body: bytes, now: float) -> Step:
        """The whole request body (BUFFERED)."""
        if self.stage in (Stage.FORWARDED, Stage.RESPONDING, Stage.DONE):
            return PASS  # an override that Envoy did not take: the decision is already made
        if self.stage is not Stage.BODY or self._facts is None or self._plan is None:
            return self.misconfigured(now)  # it did not wait for the decision about the headers
        if len(body) > self._plan.request_limit:
            return self._refuse(now, 413, "body-too-large", "The request body is over the target's limit.")
        self._facts.body = body
        return self._judge_body(now)

    def recheck(self, held: HeldRequest, now: float) -> str:
        """Whether an approval may be used now, under the policy in force now: "" or why not."""
        facts, principal = self._facts, self._principal
        assert facts is not None and principal is not None  # noqa: S101  (only a decided request waits)
        if principal.expires_at and principal.expires_at <= now:
            return "token-expired"
        gov = self._current()
        if gov.locks.find(principal, "", now) is not None:
            return "locked"
        plan = gov.targets.get(self.scribe.target)
        if plan is None:
            return "target-gone"
        again = facts.judged_anew(plan, now)
        try:
            ruling = plan.rules.judge(Phase.HEADERS, again, None)
            if not isinstance(ruling.decision, Deny) and plan.rules.has_phase(Phase.BODY):
                ruling = plan.rules.judge(Phase.BODY, again, ruling)
        except ProtocolError as error:
            return error.code
        decision = ruling.decision
        if isinstance(decision, Hold):
            if decision.demand.digest != held.ask.demand.digest:
                return "rules-changed"
        elif not isinstance(decision, Allow):
            return "denied-now"
        self._gov, self._plan, self._facts, self._ruling = gov, plan, again, ruling
        self._obligations = decision.obligations
        return ""

    def joined(self, held: HeldRequest) -> None:
        """The request waits on this hold; from here on its records name it, however the wait ends."""
        self._held = held

    def hold_settled(self, settled: HoldSettled, now: float) -> Step:
        """The wait is over, one way or another."""
        outcome, held = settled.outcome, settled.held
        self._held = held or self._held
        if outcome == "released" and held is not None:
            self._grant = settled.grant
            return self._forward(now, code=settled.code)
        principal = self._principal
        if outcome == "waiting" and principal is not None and 0 < principal.expires_at <= now:
            outcome = "token_expired"  # the wait was capped by the token
        detail, code, status = WAIT_ENDS[outcome]
        headers: list[tuple[str, str]] = []
        extra: dict[str, object] = {"resend": outcome != "rejected"}
        if held is not None:
            extra["hold"] = {"id": held.id, "state": str(held.state)}
            headers.append(("location", f"/v1/holds/{held.id}"))
            if held.votes and outcome == "rejected":
                extra["reason"] = held.votes[-1].reason
        if outcome in ("waiting", "too_many", "unavailable"):
            headers.append(("retry-after", "5"))
        if outcome == "token_expired":
            headers.append(("www-authenticate", self._gov.identifier.challenge(token_error("expired"))))
        verdict = "error" if outcome == "unavailable" else "hold"
        return self._refuse(now, status, code, detail, extra=extra, headers=headers, verdict=verdict)

    # ------------------------------------------------------------------ the response

    def response_headers(
        self, headers: Headers, end_of_stream: bool, now: float, *, from_upstream: bool | None = None
    ) -> Step:
        """Response headers: from the upstream, or a local reply of Envoy in its place.

        `from_upstream` is what Envoy says of that; None when it does not say. Before the request went on it can
        only be a local reply.
        """
        if self.stage in (Stage.DONE, Stage.RESPONDING):
            return PASS
        code = status_code(headers)
        if 100 <= code < 200 and code != 101:
            return PASS  # an interim response (RFC 9110 §15.2) is not the answer
        local = self.stage is not Stage.FORWARDED
        if local and from_upstream:
            return self._ran_ungoverned(now)
        records: tuple[Record, ...] = ()
        if local:
            if self._plan is None:
                return self._refuse(now, 403, "no-target", "This route names no target that extproc governs.")
            waited = self.stage is Stage.WAITING
            records = (self._intent(now, "hold" if waited else "unseen", "local-reply"),)
            self._obligations = self._plan.rules.all_obligations
        assert self._plan is not None  # noqa: S101  (a forwarded request has a plan)
        side = ResponseSide(
            plan=self._plan, scribe=self.scribe, facts=self._facts if not local else None, ruling=self._ruling,
            obligations=self._obligations, method=self._line.method if self._line else "",
            opaque=self._line.upgrade if self._line else False, local=local, answered=from_upstream is not False,
            in_force=self._in_force.response,
        )  # fmt: skip
        self._response = side
        step = side.headers(headers, end_of_stream, now)
        self.stage = Stage.DONE if side.finished else Stage.RESPONDING
        return replace(step, records=records + step.records) if records else step

    def response_body(self, body: bytes, end_of_stream: bool, now: float) -> Step:
        """The whole response body (BUFFERED) or its next piece (STREAMED)."""
        if self.stage is Stage.DONE:
            return PASS
        if self.stage is not Stage.RESPONDING or self._response is None:
            return self.misconfigured(now)  # its headers were not shown, so nobody chose what to mask
        step = self._response.body(body, end_of_stream, now)
        if self._response.finished:
            self.stage = Stage.DONE
        return step

    def response_trailers(self, trailers: Headers, now: float) -> Step:
        """Trailers of the response; for a stream that has them they are its end."""
        if self._response is None:
            return PASS if self.stage is Stage.DONE else self.misconfigured(now)
        step = self._response.trailers(trailers, now)
        if self._response.finished:
            self.stage = Stage.DONE
        return step

    def expect_response(self, head: RequestHead) -> None:
        """The stream began with a response: an earlier filter answered. Nothing of the request was seen."""
        self._enter(head)

    def without_response(self, step: Forward, now: float) -> Forward | Refuse:
        """For ext_authz, which never shows us the response: nothing that is owed on it may be owed."""
        plan = self._plan
        assert plan is not None  # noqa: S101  (only a decided request is forwarded)
        owed = self._obligations
        on_response = owed.masks or owed.record_response != "none" or owed.response_headers != NO_CHANGE
        if on_response or plan.rules.has_phase(Phase.RESPONSE):
            self.stage = Stage.START
            return self._refuse(
                now, 500, "response-not-seen", "Policy needs the response, which ext_authz does not show."
            )
        self.stage = Stage.DONE
        if plan.credential is not None:
            # an upstream that echoes what we put in is not seen by us here
            self.scribe.degraded.append("credential-echo-unseen")
        outcome = self.scribe.outcome(now, executed=None, end="unseen", inspected="unseen")
        return replace(step, records=(*step.records, outcome))

    def aborted(self, now: float, reason: str) -> tuple[Record, ...]:
        """The stream ended before the exchange did: the client left, Envoy or we failed."""
        stage, self.stage = self.stage, Stage.DONE
        if stage in (Stage.START, Stage.DONE):
            return ()
        records: list[Record] = []
        executed: bool | None = None
        if stage in (Stage.KEYS, Stage.BODY, Stage.WAITING):
            verdict = "hold" if stage is Stage.WAITING else "error"
            records.append(self._intent(now, verdict, "abandoned"))
            executed = False
        code = 0
        if self._response is not None:
            code = self._response.code
            executed = self._response.executed
        records.append(self.scribe.outcome(now, executed=executed, end="aborted", code=code, reason=reason))
        return tuple(records)

    def _ran_ungoverned(self, now: float) -> Refuse:
        """Envoy sent the request on without asking: all that can still be done is to withhold the answer."""
        intent = self._intent(now, "error", "envoy-misconfigured")
        self.stage = Stage.FORWARDED
        step = self.misconfigured(now)
        return replace(step, records=(intent, *step.records))

    def misconfigured(self, now: float) -> Refuse:
        """Envoy's configuration shows us too little to govern this exchange."""
        return self._refuse(
            now, 500, "envoy-misconfigured", "Envoy is not configured as extproc needs it.", verdict="error"
        )

    def failed(self, now: float) -> Refuse:
        """Something unexpected broke in us: refuse, and write down what is known."""
        return self._refuse(
            now, 500, "internal-error", "extproc could not process this request.", verdict="error"
        )

    @property
    def has_run(self) -> bool:
        """The upstream answered, so it did what was asked, whatever the caller is told."""
        return self._response is not None and not self._response.is_local

    # ------------------------------------------------------------------ identify

    def _enter(self, head: RequestHead) -> None:
        self._head = head
        scribe = self.scribe
        scribe.target = head.target
        if head.trace.trace_id:
            scribe.trace_id = head.trace.trace_id
            scribe.parent_span_id = head.trace.parent_span_id
        self._plan = plan = self._gov.targets.get(head.target)
        if plan is not None:
            scribe.masker = plan.record_masker
            scribe.degraded.extend(plan.degraded)

    def _identify(self, now: float) -> Step:
        head = self._head
        assert head is not None  # noqa: S101  (set by request_headers)
        try:
            principal = self._gov.identifier.identify(head.headers, head.metadata, now)
        except TokenError as error:
            status = http_status(error)
            code = f"token-{error.code}".replace("_", "-")
            if status != 401:
                return self._refuse(
                    now, status, code, error.message, headers=[("retry-after", "5")], verdict="error"
                )
            challenge = ("www-authenticate", self._gov.identifier.challenge(error))
            return self._refuse(now, 401, code, error.message, headers=[challenge])
        if isinstance(principal, NeedKeys):
            self.stage = Stage.KEYS
            return principal
        self._principal = principal
        if self._gov.locks.find(principal, "", now) is not None:
            return self._refuse(now, 403, "locked", "Your access was locked by an operator.")
        return self._judge_headers(now)

    # ------------------------------------------------------------------ decide

    def _judge_headers(self, now: float) -> Step:
        head, plan, principal = self._head, self._plan, self._principal
        assert head is not None and plan is not None and principal is not None  # noqa: S101
        try:
            self._line = line = read_request_line(head.headers)
            if line.query:
                check_override_param(line.query)
            self._facts = facts = HttpFacts(
                head, line, principal, plan, self._secret_headers(), self.scribe.session_id, now
            )
            self._ruling = ruling = plan.rules.judge(Phase.HEADERS, facts, None)
        except ProtocolError as error:
            return self._refuse(now, error.status, error.code, error.message)
        decision = ruling.decision
        if isinstance(decision, Deny):
            return self._denied(decision, now)
        if head.end_of_stream or line.upgrade:
            return self._judge_body(now)
        if isinstance(decision, Allow) and not self._body_is_owed(decision):
            self._obligations = decision.obligations
            return self._forward(now, lower=True)
        if self._in_force.request is not BodyMode.BUFFERED:
            return self._refuse(
                now, 500, "body-not-sent", "Envoy is not configured to send the body that policy needs."
            )
        self.stage = Stage.BODY
        return NeedBody()

    def _body_is_owed(self, decision: Allow) -> bool:
        plan = self._plan
        assert plan is not None  # noqa: S101
        return "masked" in (plan.record_request, decision.obligations.record_request)

    def _judge_body(self, now: float) -> Step:
        plan, facts, ruling = self._plan, self._facts, self._ruling
        assert plan is not None and facts is not None and ruling is not None  # noqa: S101
        try:
            if plan.rules.has_phase(Phase.BODY):
                self._ruling = ruling = plan.rules.judge(Phase.BODY, facts, ruling)
            decision = ruling.decision
            if isinstance(decision, Hold):
                return self._hold(decision, now)
        except ProtocolError as error:
            return self._refuse(now, error.status, error.code, error.message)
        if isinstance(decision, Allow):
            self._obligations = decision.obligations
            return self._forward(now)
        if decision is None:
            decision = Deny("no-rule-matched", "No rule allows this request.")
        return self._denied(decision, now)

    def _denied(self, decision: Deny, now: float) -> Refuse:
        extra: dict[str, object] | None = {"rule": decision.rule} if decision.rule else None
        return self._refuse(
            now, decision.status, decision.code, decision.message, extra=extra, verdict="deny"
        )

    # ------------------------------------------------------------------ hold

    def _hold(self, decision: Hold, now: float) -> Step:
        plan, facts, principal, head = self._plan, self._facts, self._principal, self._head
        assert plan is not None and facts is not None and principal is not None and head is not None  # noqa: S101
        demand = decision.demand
        self._obligations = decision.obligations
        if self._line is not None and self._line.upgrade:
            # what follows is neither seen nor bound, so nobody can agree to it
            return self._refuse(now, 403, "opaque-request", "An upgraded connection cannot be approved.")
        ruling = self._ruling
        assert ruling is not None  # noqa: S101
        risk = tuple((match.rule, match.risk) for match in ruling.matched if match.risk and not match.shadow)
        wait = min(demand.wait, self._gov.max_wait)
        asked = wait_asked(
            head.headers.all("prefer"), honour_wait=plan.prefer_wait, honour_async=plan.prefer_async
        )
        if asked is not None:
            wait = min(wait, asked)
        if principal.expires_at:
            wait = min(wait, max(0.0, principal.expires_at - now))
        unbound = (plan.volatile_headers, self._gov.strip_headers)
        shape = None
        if demand.grant.scope != "exact":
            shape = http_shape(self._gov.binding_key, principal, facts, demand.digest, unbound, plan.wishes)
        ask = HoldAsk(
            binding=binding(
                self._gov.binding_key, principal, plan.name, head.headers, facts.body or b"", demand.digest,
                unbound, plan.wishes,
            ),
            target=plan.name,
            requester=principal,
            demand=demand,
            rules=decision.rules,
            risk=risk,
            view=hold_view(facts, risk, demand.reason),
            decision_id=self.scribe.decision_id,
            session_id=self.scribe.session_id,
            policy_digest=self._gov.policy_digest,
            trace_id=self.scribe.trace_id,
            shape=shape,
        )  # fmt: skip
        self.stage = Stage.WAITING
        return Wait(ask, wait)

    # ------------------------------------------------------------------ forward or refuse

    def _forward(self, now: float, *, lower: bool = False, code: str = "allowed") -> Step:
        plan, head, line = self._plan, self._head, self._line
        assert plan is not None and head is not None and line is not None  # noqa: S101
        owed = self._obligations
        if line.upgrade and owed.masks:
            return self._refuse(
                now, 403, "opaque-response", "An upgraded connection cannot be masked, so it is refused."
            )
        self.stage = Stage.FORWARDED
        modes = None
        if line.upgrade:
            modes = UNSEEN
        elif lower:
            modes = BodyModes(BodyMode.NONE, self._in_force.response)
        return Forward(
            headers=self._upstream_headers(head.headers, plan, owed),
            modes=modes,
            metadata=self._metadata("allow"),
            records=(self._intent(now, "allow", code),),
        )

    def _upstream_headers(self, headers: Headers, plan: TargetPlan, owed: Obligations) -> HeaderChange:
        """The caller's proof goes, the target's credential comes; codings we cannot read are negotiated off."""
        change = owed.request_headers
        remove = [*change.remove, *[name for name in self._gov.strip_headers if name in headers]]
        put = list(change.set)
        inspected = bool(
            owed.masks or plan.credential or plan.rules.needs_response_body
            or "masked" in (plan.record_response, owed.record_response)
        )  # fmt: skip
        if inspected and "accept-encoding" in headers:
            put.append(("accept-encoding", readable_codings(",".join(headers.all("accept-encoding")))))
        if inspected and "grpc-accept-encoding" in headers:
            put.append(("grpc-accept-encoding", "identity"))
        if owed.masks or plan.rules.reads_response_body:
            # a part of a body cannot be parsed, so it can be neither masked nor judged
            remove += [name for name in ("range", "if-range") if name in headers]
        if self._held is not None:
            # nobody approved these, and an upstream may believe them; Envoy's own come after us or are sanitised
            remove += [name for name in CALLERS_WORD if name in headers]
        if plan.credential is not None:
            remove = [name for name in remove if name != plan.credential.header]
            put = [pair for pair in put if pair[0] != plan.credential.header]
            put.append((plan.credential.header, plan.credential.value))
        return HeaderChange(tuple(put), tuple(remove))

    def _refuse(
        self,
        now: float,
        status: int,
        code: str,
        detail: str,
        *,
        extra: dict[str, object] | None = None,
        headers: list[tuple[str, str]] | None = None,
        verdict: str = "deny",
    ) -> Refuse:
        """Answer the client ourselves; both records are written before the answer goes out."""
        forwarded = self.stage in (Stage.FORWARDED, Stage.RESPONDING)
        scribe = self.scribe
        shown: dict[str, object] = {"decision_id": scribe.decision_id, "trace_id": scribe.trace_id}
        if forwarded:
            shown["executed"] = True  # it went on; only its answer is withheld
        records: list[Record] = []
        if self.stage is not Stage.DONE:
            if not forwarded:
                records.append(self._intent(now, verdict, code))
            records.append(scribe.outcome(now, executed=forwarded, end="refused", code=status, reason=code))
        self.stage = Stage.DONE
        return Refuse(
            status=status,
            headers=(
                ("content-type", "application/problem+json"),
                ("cache-control", "no-store"),
                *(headers or ()),
            ),
            body=problem(status, code, detail, extra=shown | (extra or {})),
            details=f"extproc_{code.replace('-', '_')}",
            metadata=self._metadata(verdict),
            records=tuple(records),
        )

    # ------------------------------------------------------------------ record

    def _secret_headers(self) -> frozenset[str]:
        """Headers in which a caller sends secrets of its own: its proof, and a key for what we hold the key to."""
        credential = self._plan.credential if self._plan is not None else None
        strip = self._gov.strip_headers
        return strip if credential is None else strip | {credential.header}

    def _metadata(self, verdict: str) -> dict[str, str]:
        return {
            "session_id": self.scribe.session_id,
            "decision_id": self.scribe.decision_id,
            "verdict": verdict,
        }

    def _intent(self, now: float, verdict: str, code: str) -> Record:
        ruling, plan, facts = self._ruling, self._plan, self._facts
        owed = self._obligations
        keep = plan is not None and "masked" in (plan.record_request, owed.record_request)
        return self.scribe.intent(
            now,
            verdict=verdict,
            code=code,
            principal=self._principal,
            head=self._head if self._head is not None and len(self._head.headers) else None,
            body=facts.body if facts is not None else None,
            matched=ruling.matched if ruling is not None else (),
            errors=ruling.errors if ruling is not None else (),
            risk=ruling.risk if ruling is not None else 0,
            policy=self._gov.policy_digest,
            masks=owed.masks,
            held=self._held,
            grant=self._grant,
            keep_payload=keep,
            limit=plan.record_max if plan is not None else 0,
            strip=self._secret_headers(),
        )


WAIT_ENDS: Final[dict[str, tuple[str, str, int]]] = {
    "waiting": ("This request waits for a person's approval.", "held", 403),
    "rejected": ("A person decided against this request.", "hold-rejected", 403),
    "closed": ("The hold ended without a decision.", "hold-closed", 403),
    "void": ("The approval no longer fits the policy in force.", "hold-void", 403),
    "released": ("The approval was already used.", "hold-closed", 403),
    "too_many": ("Too many requests are already waiting for approval.", "too-many-holds", 429),
    "unavailable": ("Holds cannot be kept right now.", "holds-unavailable", 503),
    "token_expired": ("The token expired while the request waited.", "token-expired", 401),
}
"""What a client reads when a wait did not end in release."""
