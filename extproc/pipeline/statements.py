"""One statement from its arrival to its end: decide, hold, run or stop, record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from extproc.domain.decision import NO_OBLIGATIONS, Allow, Deny, Hold, Phase, Ruling
from extproc.domain.errors import ProtocolError
from extproc.domain.grant import Grant
from extproc.domain.hold import HeldRequest, HoldAsk
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.domain.request import NO_TRACE
from extproc.domain.statement import CHANGES_READING, Statement, StatementFacts
from extproc.domain.steps import Wait
from extproc.domain.tracing import parse_traceparent
from extproc.masking.rows import RowMasks
from extproc.pipeline.catalogue import FIRST_USER_OID
from extproc.pipeline.copy_masking import CopyMask, copied, copied_columns, copy_mask
from extproc.pipeline.copy_masking import refusal as copying_refusal
from extproc.pipeline.coverage import hides_origins, knows_all
from extproc.pipeline.database_facts import DatabaseFacts, SessionFacts, StatementView
from extproc.pipeline.database_records import statement_binding
from extproc.pipeline.database_steps import (
    FEATURE_NOT_SUPPORTED,
    INSUFFICIENT_PRIVILEGE,
    QUERY_CANCELED,
    Asked,
    Ended,
    Inquire,
    Login,
    Run,
    Stop,
)
from extproc.pipeline.database_view import statement_view
from extproc.pipeline.database_words import ENDS, HINTS, OVER, WAIT_ENDS
from extproc.pipeline.governance import DatabasePlan, DatabaseRole, Governance, TargetPlan
from extproc.pipeline.row_masking import ResultColumn, ResultMask, masked_message, result_mask
from extproc.pipeline.row_sample import RowSample
from extproc.pipeline.settled import HoldSettled
from extproc.pipeline.statement_shapes import statement_shape
from extproc.pipeline.verdicts import Verdict
from extproc.policy.statements import combine_rulings
from extproc.sql.comments import traceparent

if TYPE_CHECKING:
    from extproc.pipeline.database_session import DatabaseSession


class GovernedStatement:
    """One statement from its arrival to its end."""

    __slots__ = (
        "_asked", "_checked", "_code", "_described", "_grant", "_held", "_hides_all", "_ids", "_login", "_obligations",
        "_plan", "_principal", "_role", "_rulings", "_run_code", "_session", "_started", "_statement", "_trace",
        "_verdict", "_written", "copy_mask", "masks", "row_masks", "sample",
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
        self._obligations = NO_OBLIGATIONS
        self._held: HeldRequest | None = None
        self._grant: Grant | None = None
        self._written = False
        self._verdict, self._code = "error", "abandoned"
        self.masks: tuple[str, ...] = ()
        self.copy_mask: CopyMask | None = None
        self._run_code = ""
        self._checked = False
        """The catalogue was looked at for this statement."""
        self._described: tuple[ResultColumn, ...] | None = None
        """What a COPY copies, once the server said so."""
        self._hides_all = False
        named = traceparent(asked.statement.text)
        self._trace = parse_traceparent(named) if named else NO_TRACE
        self.sample: RowSample | None = None
        """What a record is to keep of its rows."""

    # ------------------------------------------------------------------ decide

    def decide(self, now: float) -> Run | Stop | Wait | Inquire:
        """Judge every statement of the text; deny beats hold beats allow."""
        asked = self._asked
        governed = self._session.governed()
        if governed is None:
            return self._stop(now, "target-gone", "this database is not governed any more", ends_session=True)
        gov, plan, database = governed
        self._plan = plan
        if over := self._session.over(now):
            return self._over(over, now)
        given = asked.statement
        self._statement = Statement(
            given.text, self._session.names.understood(given), given.parameters, given.kind
        )
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

    def cancels_own(self, now: float) -> Run | Stop:
        """It stops what the same caller runs on another connection, which nobody's rule has to allow."""
        governed = self._session.governed()
        if governed is None:
            return self._stop(now, "target-gone", "this database is not governed any more", ends_session=True)
        self._plan = governed[1]
        if over := self._session.over(now):
            return self._over(over, now)
        self._run_code = "cancels-own"
        return self._go(now)

    def never(self, now: float, name: str) -> Stop:
        """A command that no rule can let through."""
        return self._stop(
            now, "command-refused", f"{name} is not let through", sqlstate=FEATURE_NOT_SUPPORTED,
            hint="Do not send it again.",
        )  # fmt: skip

    def turned_away(self, now: float, sqlstate: str, message: str) -> tuple[Record, ...]:
        """Both records of what never came as far as a rule; the client was told already."""
        stop = self._stop(now, "not-read", message, sqlstate=sqlstate)
        return stop.records + self.ended(Ended("denied", executed=False, sqlstate=sqlstate), now)

    def _judge(self, plan: TargetPlan, now: float) -> Verdict:
        asked, known = self._asked, self._session.verdicts
        verdict = known.find(plan, self._statement, asked.transaction, asked.is_bound)
        if verdict is None:
            rulings = tuple(self._rulings_of(plan, now))
            verdict = rulings, combine_rulings(rulings).decision or UNDECIDED
            known.keep(plan, self._statement, asked.transaction, asked.is_bound, verdict)
        return verdict

    def _rulings_of(self, plan: TargetPlan, now: float) -> Iterator[Ruling]:
        asked, scribe, login = self._asked, self._session.scribe, self._login
        session = SessionFacts(
            scribe.session_id, self._principal, plan, scribe.source, login.user, login.database, self._role.user,
            login.application,
        )  # fmt: skip
        for sql in self._statement.facts:
            facts = DatabaseFacts(
                StatementView(session, self._statement, sql, asked.transaction, now, asked.is_bound)
            )
            ruling = plan.rules.judge(Phase.HEADERS, facts, None)
            for phase in (Phase.BODY, Phase.RESPONSE, Phase.ROW):
                if ruling.decision is None and plan.rules.has_phase(phase):
                    ruling = plan.rules.judge(phase, facts, ruling)
            yield ruling

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
        if self._session.ends_at:
            wait = min(wait, max(0.0, self._session.ends_at - now))
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
            *(asked.settings.get(name, "") for name in asked.bound),
            *(sql.underlying for sql in self._statement.facts),
        )
        self._verdict, self._code = "hold", "abandoned"
        self._session.count("held")
        shape = None
        if demand.grant.scope != "exact":
            shape = statement_shape(
                gov.binding_key, self._principal, plan.name, where, self._statement, asked.transaction, demand.digest
            )  # fmt: skip
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
                shape=shape,
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
        if over := self._session.over(now):
            return over
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

    def hold_settled(self, settled: HoldSettled, now: float) -> Run | Stop | Inquire:
        """The wait is over, one way or another."""
        outcome, held = settled.outcome, settled.held
        self._held = held or self._held
        if outcome == "released" and held is not None:
            self._grant = settled.grant
            return self._run(now, settled.code)
        if over := self._session.over(now) or ("token-expired" if outcome == "token_expired" else ""):
            return self._over(over, now, "hold")  # the wait was capped by it
        message, code, sqlstate = WAIT_ENDS[outcome]
        if outcome == "rejected" and held is not None and held.votes and held.votes[-1].reason:
            message = f"{message}: {self._session.scribe.shown_text(held.votes[-1].reason, ())}"
        return self._stop(
            now, code, message, sqlstate=sqlstate, verdict="error" if outcome == "unavailable" else "hold",
            hint=HINTS.get(code, ""),
        )  # fmt: skip

    def _over(self, code: str, now: float, verdict: str = "deny") -> Stop:
        """The session is over, and so is this statement."""
        sqlstate, message, _ = OVER[code]
        return self._stop(now, code, message, sqlstate=sqlstate, verdict=verdict, ends_session=True)

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

    def _run(self, now: float, code: str = "allowed") -> Run | Stop | Inquire:
        self._session.names.remember(self._asked.statement)
        self._run_code = code
        self.masks = self._obligations.masks
        if not self.masks:
            return self._go(now)
        governed = self._session.governed()
        compile_masks = governed[2].row_masks if governed is not None else None
        self.row_masks = compile_masks(self.masks) if compile_masks is not None else None
        if self.row_masks is None or not self._session.reads_messages:
            return self._unmaskable(now, "this connection began before the policy; connect again")
        self._session.catalogue.begin(self._asked.transaction)
        return self._cover(now)

    def _cover(self, now: float) -> Run | Stop | Inquire:
        """Find out how its rows are masked, asking the server where that is not known yet."""
        facts, masks, catalogue = self._statement.facts, self.row_masks, self._session.catalogue
        assert masks is not None  # noqa: S101  (set before)
        if all(sql.complete or sql.incomplete_reason == CHANGES_READING for sql in facts):
            # a rule let it run although it is not complete; what it computes is not shown
            quotes = any(sql.normalised.upper().startswith(QUOTING) for sql in facts) and bool(masks.rules)
            self._hides_all = self._hides_all or quotes or bool(_not_understood(facts))
            why = copying_refusal(facts)
        else:
            why = "it cannot be judged"
        if why:
            return self._unmaskable(now, why)
        copy = copied(facts)
        if masks.rules or copy is not None:
            tables = [name for sql in facts for name in (*sql.tables_read, *sql.tables_written)]
            question = catalogue.question(tables, now, checked=self._checked) if tables or copy else ""
            if question:
                self._checked = True
                return Inquire(question)
            why = self._used_masked(masks)
            if why:
                return self._unmaskable(now, why)
        if copy is None:
            return self._go(now, "rows")
        if self._described is None:
            return Inquire(copy.source, runs=False)
        codec = self._asked.codec
        columns = copied_columns(copy, self._described, catalogue.current)
        mask = self.rows(columns, codec)
        if mask is None:
            return self._go(now)
        made = copy_mask(copy, columns, mask, codec)
        if isinstance(made, str):
            return self._unmaskable(now, made, sqlstate=FEATURE_NOT_SUPPORTED)
        self.copy_mask = made
        return self._go(now, "copy")

    def _used_masked(self, masks: RowMasks) -> str:
        """Why its columns cannot be masked one by one; empty when they can, or are all hidden instead."""
        coverage = self._session.coverage(masks)
        why = next((why for sql in self._statement.facts if (why := coverage.touches(sql))), "")
        governed = self._session.governed()
        hides = governed is not None and governed[2].masked_use == "whole"
        # only where its result is all that it does
        if (
            why
            and hides
            and all(set(sql.effects) <= {"read"} and not sql.keeps for sql in self._statement.facts)
        ):
            self._hides_all = True
            return ""
        return why

    def answered(
        self,
        columns: Sequence[ResultColumn],
        rows: Sequence[Sequence[bytes | None]],
        codec: str,
        now: float,
    ) -> Run | Stop | Inquire:
        """What the server said to the last `Inquire`."""
        catalogue = self._session.catalogue
        if not catalogue.is_asking:
            self._described = tuple(columns)
            return self._cover(now)
        try:
            catalogue.answered(rows, codec, now, self._asked.transaction)
        except (ValueError, LookupError):
            return self._unmaskable(now, "the database's catalogue cannot be read")
        return self._cover(now)

    def _unmaskable(self, now: float, why: str, *, sqlstate: str = INSUFFICIENT_PRIVILEGE) -> Stop:
        return self._stop(
            now, "rows-not-maskable", f"policy masks what this statement returns: {why}", sqlstate=sqlstate,
            hint="Name the columns you need, each as it is.",
        )  # fmt: skip

    def _go(self, now: float, reads: Literal["", "rows", "copy"] = "") -> Run:
        self._session.count("statements")
        plan = self._plan
        if plan is not None and "masked" in (plan.record_response, self._obligations.record_response):
            self.sample = RowSample(
                self._session.scribe.key, plan.record_masker, plan.record_max, self._asked.codec
            )
        return Run(self.masks, (self._intent(now, "allow", self._run_code),), reads)

    def message(self, fields: Mapping[str, str]) -> dict[str, str] | None:
        """What the server says of it besides rows, masked; None where nothing is."""
        if self.row_masks is None:
            return None
        return masked_message(self.row_masks, fields, hides_all=self._hides_all)

    @property
    def is_copy(self) -> bool:
        """Whether COPY data may be its answer."""
        return any(sql.copy is not None for sql in self._statement.facts)

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
            grant=self._grant,
            trace=self._trace,
            transaction=self._asked.transaction,
            keep_payload=plan is not None
            and "masked" in (plan.record_request, self._obligations.record_request),
            limit=plan.record_max if plan is not None else 0,
        )

    def rows(self, columns: Sequence[ResultColumn], codec: str) -> ResultMask | None:
        """How the rows of one result are masked; None when they may pass untouched."""
        masks, reader = self.row_masks, self._session.catalogue
        if masks is None:
            return None
        coverage, facts = self._session.coverage(masks), self._statement.facts
        known = coverage.catalogue.relations
        if any(column.table_oid >= FIRST_USER_OID and column.table_oid not in known for column in columns):
            reader.doubted = True
        return result_mask(
            masks,
            coverage,
            columns,
            codec,
            names_masked=any(coverage.names(sql) for sql in facts),
            hides_computed=bool(masks.rules)
            and (not knows_all(coverage.catalogue, facts) or hides_origins(coverage, facts)),
            hides_all=self._hides_all,
        )

    # ------------------------------------------------------------------ record

    def ended(self, ended: Ended, now: float) -> tuple[Record, ...]:
        """How it ended; whatever was never decided gets both records here."""
        self._tell_catalogue(now)
        records = [] if self._written else [self._intent(now, self._verdict, self._code)]
        rows = ended.rows + (self.copy_mask.rows if self.copy_mask is not None else 0)
        response: dict[str, Any] = {
            "rows": rows,
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
        payload = None
        if self.sample is not None and self.sample.size:
            response["digest"] = self.sample.digest
            payload = self.sample.payload()
        self._session.count("rows", rows)
        self._session.count("bytes", ended.bytes_returned)
        if ended.end == "error":
            self._session.count("errors")
        records.append(
            self._session.scribe.outcome(
                now, *self._ids, started=self._started, executed=ended.executed,
                end=ENDS.get(ended.end, "aborted"), response=response,
                trace=self._trace, payload=payload,
                reason=self._code if ended.end == "denied" else "" if ended.end in ("complete", "error") else ended.end,
            )
        )  # fmt: skip
        return tuple(records)

    def _tell_catalogue(self, now: float) -> None:
        """What may have changed tables or views is looked for before rows are masked again."""
        catalogue = self._session.catalogue
        for sql in self._statement.facts:
            if not sql.complete or not _HARMLESS.issuperset(sql.effects):
                catalogue.changed(now)
            elif sql.transaction in ("commit", "prepared"):
                catalogue.committed(now)


QUOTING = ("SHOW WARNINGS", "SHOW ERRORS", "SHOW ENGINE")
"""What tells of statements and their errors, which quote values."""
_HARMLESS = frozenset({"read", "write"})
UNDECIDED = Deny("no-rule-matched", "No rule allows this statement.")


def _not_understood(facts: tuple[StatementFacts, ...]) -> str:
    """Why the text cannot be judged; empty when it can."""
    for sql in facts:
        if not sql.complete:
            return sql.incomplete_reason or "it could not be read"
    return ""
