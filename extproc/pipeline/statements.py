"""One statement from its arrival to its end: decide, hold, run or stop, record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from extproc.domain.decision import Allow, Deny, Hold, Obligations, Phase, Ruling
from extproc.domain.errors import ProtocolError
from extproc.domain.hold import HeldRequest, HoldAsk
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.domain.statement import StatementFacts
from extproc.domain.steps import Wait
from extproc.masking.rows import RowMasks
from extproc.pipeline.catalogue import ResultColumn, ResultMask, objection, result_mask
from extproc.pipeline.database_facts import DatabaseFacts, SessionFacts, StatementView
from extproc.pipeline.database_records import statement_binding
from extproc.pipeline.database_steps import (
    INSUFFICIENT_PRIVILEGE,
    INVALID_AUTHORIZATION,
    QUERY_CANCELED,
    Asked,
    Ended,
    Login,
    Run,
    Stop,
)
from extproc.pipeline.database_view import statement_view
from extproc.pipeline.database_words import ENDS, HINTS, WAIT_ENDS
from extproc.pipeline.governance import DatabasePlan, DatabaseRole, Governance, TargetPlan
from extproc.pipeline.settled import HoldSettled
from extproc.policy.statements import combine_rulings

if TYPE_CHECKING:
    from extproc.pipeline.database_session import DatabaseSession

BOUND_SETTINGS = (
    "search_path",
    "session_authorization",
    "is_superuser",
    "client_encoding",
    "DateStyle",
    "TimeZone",
)
"""Settings the server reports that change what a text means or who runs it: part of what is approved."""


class GovernedStatement:
    """One statement from its arrival to its end."""

    __slots__ = (
        "_asked", "_code", "_held", "_ids", "_login", "_obligations", "_plan", "_principal", "_role",
        "_rulings", "_session", "_started", "_statement", "_verdict", "_written", "masks", "row_masks",
    )  # fmt: skip

    def __init__(
        self,
        session: DatabaseSession,
        asked: Asked,
        login: Login,
        principal: Principal,
        role: DatabaseRole,
        now: float,
    ) -> None:
        self._session = session
        self._asked = asked
        self._login = login
        self._principal = principal
        self._role = role
        self._started = now
        self._ids = ("dec_" + session.new_id(16), session.new_id(8))
        self._plan: TargetPlan | None = None
        self._statement = asked.statement
        self.row_masks: RowMasks | None = None
        self._rulings: tuple[Ruling, ...] = ()
        self._obligations = Obligations()
        self._held: HeldRequest | None = None
        self._written = False
        self._verdict, self._code = "error", "abandoned"
        self.masks: tuple[str, ...] = ()

    # ------------------------------------------------------------------ decide

    def decide(self, now: float) -> Run | Stop | Wait:
        """Judge every statement of the text; deny beats hold beats allow."""
        asked = self._asked
        governed = self._session.governed()
        if governed is None:
            return self._stop(now, "target-gone", "this database is not governed any more", ends_session=True)
        gov, plan, database = governed
        self._plan = plan
        if 0 < self._principal.expires_at <= now:
            return self._stop(
                now,
                "token-expired",
                "your token has expired",
                sqlstate=INVALID_AUTHORIZATION,
                ends_session=True,
            )
        self._statement = replace(asked.statement, facts=self._session.names.understood(asked.statement))
        incomplete = _not_understood(self._statement.facts)
        if incomplete and database.unparsed == "deny":
            return self._stop(
                now, "sql-not-understood", f"this statement cannot be judged: {incomplete}",
                hint="Write it so that what it does can be seen before it runs.",
            )  # fmt: skip
        try:
            self._rulings, decision = self._judge(plan, now)
        except ProtocolError as error:
            return self._stop(now, error.code, error.message)
        if isinstance(decision, Deny):
            if not asked.is_bound and not self._is_certain():
                self._session.names.remember(asked.statement, asked.name)
                return Run()  # a rule wants the parameters, which come with Bind
            return self._denied(decision, now)
        self._obligations = decision.obligations
        if not asked.is_bound:
            self._session.names.remember(asked.statement, asked.name)
            return Run()  # nothing runs at Parse; Bind is judged again, with its parameters
        if isinstance(decision, Hold):
            return self._hold(decision, gov, plan, database, now)
        return self._run(now)

    def _judge(self, plan: TargetPlan, now: float) -> tuple[tuple[Ruling, ...], Allow | Deny | Hold]:
        session = SessionFacts(
            self._session.scribe.session_id, self._principal, plan, self._session.scribe.source,
            self._login.user, self._login.database, self._role.user, self._login.application,
        )  # fmt: skip
        asked = self._asked
        rulings: list[Ruling] = []
        for sql in self._statement.facts:
            facts = DatabaseFacts(
                StatementView(session, self._statement, sql, asked.transaction, now, asked.is_bound)
            )
            ruling = plan.rules.judge(Phase.HEADERS, facts, None)
            for phase in (Phase.BODY, Phase.RESPONSE, Phase.ROW):
                if ruling.decision is None and plan.rules.has_phase(phase):
                    ruling = plan.rules.judge(phase, facts, ruling)
            rulings.append(ruling)
        return tuple(rulings), combine_rulings(rulings).decision or UNDECIDED

    def _is_certain(self) -> bool:
        """Whether a denial stands without the parameters: a rule that could be evaluated made it, or all could."""
        if any(
            match.effect == "deny" and not match.errored and not match.shadow
            for ruling in self._rulings
            for match in ruling.matched
        ):
            return True
        return not any(ruling.errors for ruling in self._rulings)

    def _denied(self, decision: Deny, now: float) -> Stop:
        return self._stop(
            now, decision.code, decision.message, rule=decision.rule, verdict="deny",
            hint=HINTS.get(decision.code, ""),
        )  # fmt: skip

    # ------------------------------------------------------------------ hold

    def _hold(
        self, decision: Hold, gov: Governance, plan: TargetPlan, database: DatabasePlan, now: float
    ) -> Wait:
        demand, asked, scribe = decision.demand, self._asked, self._session.scribe
        wait = min(demand.wait, gov.max_wait)
        if asked.transaction != "I":
            wait = min(wait, database.wait_in_transaction)
        if self._principal.expires_at:
            wait = min(wait, max(0.0, self._principal.expires_at - now))
        risk = tuple(
            (match.rule, match.risk)
            for ruling in self._rulings
            for match in ruling.matched
            if match.risk and not match.shadow
        )
        where = (
            self._login.database,
            self._login.user,
            self._role.user,
            *(asked.settings.get(name, "") for name in BOUND_SETTINGS),
            *(sql.underlying for sql in self._statement.facts),
        )
        self._verdict, self._code = "hold", "abandoned"
        self._session.count("held")
        return Wait(
            HoldAsk(
                binding=statement_binding(
                    gov.binding_key, self._principal, plan.name, where, self._statement, asked.transaction,
                    demand.digest,
                ),
                target=plan.name,
                requester=self._principal,
                demand=demand,
                rules=decision.rules,
                risk=risk,
                view=statement_view(scribe, self._statement, asked.transaction, risk, demand.reason),
                decision_id=self._ids[0],
                session_id=scribe.session_id,
                policy_digest=gov.policy_digest,
                trace_id=scribe.trace_id,
            ),
            wait,
        )  # fmt: skip

    def joined(self, held: HeldRequest) -> None:
        """The statement waits on this hold; from here on its records name it, however the wait ends."""
        self._held = held

    @property
    def held(self) -> HeldRequest | None:
        """The hold it waits on, or waited on."""
        return self._held

    def recheck(self, held: HeldRequest, now: float) -> str:
        """Whether an approval may be used now, under the policy in force now: "" or why not."""
        if 0 < self._principal.expires_at <= now:
            return "token-expired"
        governed = self._session.governed()
        if governed is None:
            return "target-gone"
        _, plan, database = governed
        if _not_understood(self._statement.facts) and database.unparsed == "deny":
            return "denied-now"
        try:
            rulings, decision = self._judge(plan, now)
        except ProtocolError as error:
            return error.code
        if isinstance(decision, Hold):
            if decision.demand.digest != held.ask.demand.digest:
                return "rules-changed"
        elif not isinstance(decision, Allow):
            return "denied-now"
        self._plan, self._rulings, self._obligations = plan, rulings, decision.obligations
        return ""

    def hold_settled(self, settled: HoldSettled, now: float) -> Run | Stop:
        """The wait is over, one way or another."""
        outcome, held = settled.outcome, settled.held
        self._held = held or self._held
        if outcome == "released" and held is not None:
            return self._run(now, "released")
        if outcome == "waiting" and 0 < self._principal.expires_at <= now:
            outcome = "token_expired"  # the wait was capped by the token
        message, code, sqlstate = WAIT_ENDS[outcome]
        if outcome == "rejected" and held is not None and held.votes and held.votes[-1].reason:
            message = f"{message}: {self._session.scribe.shown_text(held.votes[-1].reason, ())}"
        return self._stop(
            now, code, message, sqlstate=sqlstate, verdict="error" if outcome == "unavailable" else "hold",
            hint=HINTS.get(code, ""), ends_session=outcome == "token_expired",
        )  # fmt: skip

    def canceled(self, now: float) -> Stop:
        """The client asked to cancel it while it waited."""
        return self._stop(
            now,
            "canceled",
            "canceling statement due to user request",
            sqlstate=QUERY_CANCELED,
            verdict="hold",
        )

    # ------------------------------------------------------------------ run or stop

    def _run(self, now: float, code: str = "allowed") -> Run | Stop:
        self._session.names.remember(self._asked.statement)
        self.masks = self._obligations.masks
        governed = self._session.governed() if self.masks else None
        if governed is not None:
            compile_masks = governed[2].row_masks
            self.row_masks = compile_masks(self.masks) if compile_masks is not None else None
        if self.masks:
            why = (
                objection(self.row_masks, self._session.catalogue, self._statement.facts)
                if self.row_masks is not None and self._session.reads_messages
                else "this connection began before the policy; connect again"
            )
            if why:
                return self._stop(
                    now, "rows-not-maskable", f"policy masks what this statement returns: {why}",
                    hint="Name the columns you need, each as it is.",
                )  # fmt: skip
        self._session.count("statements")
        return Run(self.masks, (self._intent(now, "allow", code),))

    def _stop(
        self,
        now: float,
        code: str,
        message: str,
        *,
        sqlstate: str = INSUFFICIENT_PRIVILEGE,
        rule: str = "",
        hint: str = "",
        verdict: str = "deny",
        ends_session: bool = False,
    ) -> Stop:
        self._session.count("statements")
        self._session.count("denied")
        lines = [f'rule "{rule}"' if rule else "", f"code {code}", f"decision {self._ids[0]}"]
        if self._held is not None:
            lines.append(f"hold {self._held.id}")
        detail = "; ".join(line for line in lines if line)
        records = (self._intent(now, verdict, code),)
        return Stop(sqlstate, message, detail, hint or HINTS.get(code, ""), records, ends_session)

    def _intent(self, now: float, verdict: str, code: str) -> Record:
        plan = self._plan
        self._written = True
        self._verdict, self._code = verdict, code
        return self._session.scribe.intent(
            now,
            *self._ids,
            self._statement,
            verdict=verdict,
            code=code,
            rulings=self._rulings,
            masks=self._obligations.masks,
            held=self._held,
            transaction=self._asked.transaction,
            keep_payload=plan is not None
            and "masked" in (plan.record_request, self._obligations.record_request),
            limit=plan.record_max if plan is not None else 0,
        )

    def rows(self, columns: Sequence[ResultColumn], codec: str) -> ResultMask | None:
        """How the rows of one result are masked; None when they may pass untouched."""
        if self.row_masks is None:
            return None
        return result_mask(self.row_masks, self._session.catalogue, self._statement.facts, columns, codec)

    # ------------------------------------------------------------------ record

    def ended(self, ended: Ended, now: float) -> tuple[Record, ...]:
        """How it ended; whatever was never decided gets both records here."""
        records = [] if self._written else [self._intent(now, self._verdict, self._code)]
        response: dict[str, Any] = {
            "rows": ended.rows,
            "affected": ended.affected,
            "bytes": ended.bytes_returned,
        }
        if ended.sqlstate:
            response["sqlstate"] = ended.sqlstate
        if ended.tags:
            response["tags"] = [tag[:64] for tag in ended.tags[:64]]
        if ended.copied_in:
            response["copied_in"] = ended.copied_in
        if ended.masked:
            response["masked"] = dict(ended.masked)
        if self.row_masks is not None:
            response["mask_digest"] = self.row_masks.digest
            response["inspected"] = "full"
        self._session.count("rows", ended.rows)
        self._session.count("bytes", ended.bytes_returned)
        if ended.end == "error":
            self._session.count("errors")
        records.append(
            self._session.scribe.outcome(
                now, *self._ids, started=self._started, executed=ended.executed,
                end=ENDS.get(ended.end, "aborted"), response=response,
                reason=self._code if ended.end == "denied" else "" if ended.end in ("complete", "error") else ended.end,
            )
        )  # fmt: skip
        return tuple(records)


UNDECIDED = Deny("no-rule-matched", "No rule allows this statement.")


def _not_understood(facts: tuple[StatementFacts, ...]) -> str:
    """Why the text cannot be judged; empty when it can."""
    for sql in facts:
        if not sql.complete:
            return sql.incomplete_reason or "it could not be read"
    return ""
