"""One governed database session: identify at login; then, per statement, decide, hold, run, record.

Read top to bottom. Every method takes one event and returns one step; the server carries it out and brings the next.
Records of a step are written before anything of it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from extproc.domain.decision import Allow, Deny, Hold, Obligations, Phase, Ruling
from extproc.domain.errors import ProtocolError, TokenError
from extproc.domain.hold import HeldRequest, HoldAsk
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.domain.request import Source
from extproc.domain.statement import Statement, StatementFacts
from extproc.domain.steps import NeedKeys, Wait
from extproc.masking.rows import RowMasks
from extproc.pipeline.catalogue import Catalogue, ResultColumn, ResultMask, objection, result_mask
from extproc.pipeline.database_facts import DatabaseFacts, SessionFacts, StatementView
from extproc.pipeline.database_records import SessionScribe, statement_binding
from extproc.pipeline.database_view import statement_view
from extproc.pipeline.governance import DatabasePlan, DatabaseRole, Governance, TargetPlan
from extproc.pipeline.settled import HoldSettled
from extproc.policy.statements import combine_rulings

INSUFFICIENT_PRIVILEGE = "42501"
INVALID_AUTHORIZATION = "28000"
INVALID_PASSWORD = "28P01"  # noqa: S105  (a SQLSTATE)
QUERY_CANCELED = "57014"
CONFIGURATION_LIMIT = "53400"
CANNOT_CONNECT_NOW = "57P03"
FEATURE_NOT_SUPPORTED = "0A000"
SYSTEM_ERROR = "58000"

BOUND_SETTINGS = (
    "search_path",
    "session_authorization",
    "is_superuser",
    "client_encoding",
    "DateStyle",
    "TimeZone",
)
"""Settings the server reports that change what a text means or who runs it: part of what is approved."""


@dataclass(frozen=True, slots=True)
class Login:
    """What a client said before anything was decided. `token` is what it gave as its password."""

    user: str
    database: str
    application: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AcceptLogin:
    """Log in upstream as `role`."""

    role: DatabaseRole
    protected: bool
    """Passwords may cross the way to the server as they are."""
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class RefuseLogin:
    """End the connection with an error."""

    sqlstate: str
    message: str
    hint: str
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """The statement may go on. `masks` are owed on its rows."""

    masks: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Stop:
    """The statement may not go on; the connection lives unless `ends_session`."""

    sqlstate: str
    message: str
    detail: str
    hint: str
    records: tuple[Record, ...] = ()
    ends_session: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """One statement that waits for a decision. `is_bound` is False at Parse: nothing runs yet."""

    statement: Statement
    transaction: str
    is_bound: bool = True
    name: str = ""
    """The name a Parse gives it."""
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a statement that was judged. `end` is the wire's word for it."""

    end: str
    executed: bool | None
    sqlstate: str = ""
    tags: tuple[str, ...] = ()
    rows: int = 0
    affected: int = 0
    bytes_returned: int = 0
    copied_in: int = 0
    masked: Mapping[str, int] = field(default_factory=dict)


class Stage(Enum):
    """Where a session stands."""

    START = auto()
    KEYS = auto()
    OPEN = auto()
    DONE = auto()


class DatabaseSession:
    """The state of one connection. Not thread-safe; one stream owns it."""

    def __init__(
        self,
        current: Callable[[], Governance],
        new_hex: Callable[[int], str],
        target: str,
        source: Source,
        now: float,
    ) -> None:
        self._current = current
        self._new_hex = new_hex
        gov = current()
        self._login: Login | None = None
        self._principal: Principal | None = None
        self._role: DatabaseRole | None = None
        self.catalogue = Catalogue()
        """What the server said of its tables, where policy masks columns."""
        self._prepared: dict[tuple[str, str], tuple[StatementFacts, ...]] = {}
        self._remembered = 0
        self._names_lost = False
        self.reads_messages = True
        """Whether errors and notices of the server are read on this connection."""
        self._counts = {"statements": 0, "denied": 0, "held": 0, "rows": 0, "bytes": 0, "errors": 0}
        self.stage = Stage.START
        self.target = target
        self.scribe = SessionScribe(
            target=target, key=gov.record_key, session_id="ses_" + new_hex(16), decision_id="dec_" + new_hex(16),
            trace_id=new_hex(16), span_id=new_hex(8), started=now, source=source, degraded=list(gov.degraded),
            policy=gov.policy_digest,
        )  # fmt: skip
        plan = gov.targets.get(target)
        if plan is not None:
            self.scribe.masker = plan.record_masker
            self.scribe.degraded.extend(plan.degraded)

    @property
    def expires_at(self) -> float:
        """When the caller's token ends, in Unix seconds; 0 while nobody is in, or never."""
        return self._principal.expires_at if self._principal is not None else 0.0

    # ------------------------------------------------------------------ identify

    def login(self, login: Login, now: float) -> AcceptLogin | RefuseLogin | NeedKeys:
        """Who is it, and which database user stands behind that name?"""
        self._login = login
        self.scribe.user, self.scribe.database = login.user, login.database
        return self._identify(now)

    def keys_ready(self, now: float) -> AcceptLogin | RefuseLogin:
        """The keys asked for were fetched, or could not be."""
        step = self._identify(now)
        if isinstance(step, NeedKeys):
            return self._refuse_login(
                now,
                CANNOT_CONNECT_NOW,
                "keys-unavailable",
                "the issuer's keys cannot be had now",
                "Try again.",
            )
        return step

    def _identify(self, now: float) -> AcceptLogin | RefuseLogin | NeedKeys:
        login, gov = self._login, self._current()
        assert login is not None  # noqa: S101  (set by login)
        plan = gov.targets.get(self.target)
        database = plan.database if plan is not None else None
        if database is None:
            return self._refuse_login(
                now,
                INVALID_AUTHORIZATION,
                "no-target",
                "this listener has no database that extproc governs",
                "",
            )
        try:
            principal = gov.identifier.identify_token(login.token, now)
        except TokenError as error:
            code = f"token-{error.code}".replace("_", "-")
            return self._refuse_login(
                now, INVALID_PASSWORD, code, error.message, "Give a valid token (JWT) as the password."
            )
        if isinstance(principal, NeedKeys):
            self.stage = Stage.KEYS
            return principal
        self._principal = self.scribe.principal = principal
        role = database.role(login.user)
        if role is None or (role.groups and role.groups.isdisjoint(principal.groups)):
            code = "role-unknown" if role is None else "role-not-yours"
            return self._refuse_login(
                now,
                INVALID_AUTHORIZATION,
                code,
                "you may not log in under this user name",
                "Ask for another user.",
            )
        self._role = role
        self.scribe.role = role.user
        self.stage = Stage.OPEN
        return AcceptLogin(role, database.protected, (self.scribe.login(now, "allow", "allowed"),))

    def _refuse_login(self, now: float, sqlstate: str, code: str, message: str, hint: str) -> RefuseLogin:
        self.stage = Stage.DONE
        verdict = "error" if sqlstate == CANNOT_CONNECT_NOW else "deny"
        records = (
            self.scribe.login(now, verdict, code),
            self.scribe.logout(now, executed=False, end="refused", reason=code, counts={}),
        )
        return RefuseLogin(sqlstate, f"extproc: {message}", hint, records)

    # ------------------------------------------------------------------ one statement

    def statement(self, asked: Asked, now: float) -> GovernedStatement:
        """A statement that waits for a decision; ask its `decide`."""
        assert self._login is not None and self._principal is not None and self._role is not None  # noqa: S101
        return GovernedStatement(self, asked, self._login, self._principal, self._role, now)

    def governed(self) -> tuple[Governance, TargetPlan, DatabasePlan] | None:
        """What governs this session now; None when its target went away with a reload."""
        gov = self._current()
        plan = gov.targets.get(self.target)
        if plan is None or plan.database is None:
            return None
        self.scribe.policy = gov.policy_digest
        return gov, plan, plan.database

    @property
    def masks_columns(self) -> bool:
        """Whether any rule may mask columns, so that the catalogue must be known."""
        masks = self.all_masks()
        return masks is not None and bool(masks.rules)

    @property
    def masks_rows(self) -> bool:
        """Whether any rule may mask anything the server sends, its messages included."""
        return self.all_masks() is not None

    def all_masks(self) -> RowMasks | None:
        """What any rule may mask; None where none does."""
        governed = self.governed()
        if governed is None:
            return None
        _, plan, database = governed
        names = plan.rules.all_obligations.masks
        return database.row_masks(names) if names and database.row_masks is not None else None

    def understood(self, statement: Statement) -> tuple[StatementFacts, ...]:
        """The facts to judge: what runs a prepared statement or cursor is judged as what was prepared under that
        name. A name may have stood for several texts (a failed PREPARE leaves the first): all of them count."""
        found: list[StatementFacts] = []
        for sql in statement.facts or (NOTHING,):
            known = self._prepared.get((RUNS.get(sql.verb, ""), sql.refers_to)) if sql.refers_to else None
            found.extend([sql.running(made, made.underlying) for made in known] if known else (sql,))
        return tuple(found)

    def remember(self, statement: Statement, name: str = "") -> None:
        """A statement that goes on names others that may run later: `name` at Parse, or PREPARE and DECLARE.

        A connection that has named too much is not followed any more: what runs by name is then not understood.
        """
        for sql in statement.facts:
            kind, called = (MAKES.get(sql.verb, ""), sql.refers_to) if not name else ("prepared", name)
            if not kind or not called or self._names_lost:
                continue
            before = self._prepared.get((kind, called), ())
            named = replace(sql, underlying=statement.text)
            if named in before:
                continue
            self._prepared[kind, called] = (*before, named)
            self._remembered += NAME_COST + len(statement.text)
            if self._remembered > MAX_REMEMBERED:
                self._names_lost = True
                self._prepared.clear()

    def new_id(self, size: int) -> str:
        """Random hex."""
        return self._new_hex(size)

    def count(self, name: str, number: int = 1) -> None:
        """Sum up for the session's own record."""
        self._counts[name] += number

    # ------------------------------------------------------------------ the end

    def closed(self, now: float, end: str, reason: str) -> tuple[Record, ...]:
        """The connection is over. Statements were ended one by one before."""
        stage, self.stage = self.stage, Stage.DONE
        if stage is Stage.OPEN:
            return (self.scribe.logout(now, executed=True, end=end, reason=reason, counts=self._counts),)
        if stage is Stage.KEYS:
            return (
                self.scribe.login(now, "error", "abandoned"),
                self.scribe.logout(now, executed=False, end="aborted", reason=reason, counts={}),
            )
        return ()


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
        self._statement = replace(asked.statement, facts=self._session.understood(asked.statement))
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
                self._session.remember(asked.statement, asked.name)
                return Run()  # a rule wants the parameters, which come with Bind
            return self._denied(decision, now)
        self._obligations = decision.obligations
        if not asked.is_bound:
            self._session.remember(asked.statement, asked.name)
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
        self._session.remember(self._asked.statement)
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


RUNS = {"EXECUTE": "prepared", "FETCH": "cursor", "MOVE": "cursor"}
MAKES = {"PREPARE": "prepared", "DECLARE": "cursor"}
MAX_REMEMBERED = 8 << 20
"""Characters of all texts that one connection has named, with what each name costs."""
NAME_COST = 2048
NOTHING = StatementFacts(statements=0)
"""An empty text: the server answers EmptyQueryResponse."""


UNDECIDED = Deny("no-rule-matched", "No rule allows this statement.")


def _not_understood(facts: tuple[StatementFacts, ...]) -> str:
    """Why the text cannot be judged; empty when it can."""
    for sql in facts:
        if not sql.complete:
            return sql.incomplete_reason or "it could not be read"
    return ""


ENDS = {
    "complete": "complete",
    "error": "error",
    "denied": "refused",
    "skipped": "skipped",
    "unexecuted": "skipped",
    "abandoned": "aborted",
    "aborted": "aborted",
}
"""The wire's word for an end, and the ledger's."""

HINTS = {
    "rule-denied": "A rule forbids this statement. Do not send it again unchanged.",
    "no-rule-matched": "No rule allows this statement. Ask the policy's owner if it should.",
    "rule-error": "A rule could not be evaluated for this statement, so it was refused.",
    "held": "The hold stays. Wait for a person to decide, then send the same statement again.",
    "hold-rejected": "A person decided against it. Do not send it again unchanged.",
    "hold-closed": "Send it again to ask anew.",
    "hold-void": "Policy changed since this was approved. Send it again to ask anew.",
    "too-many-holds": "Wait until some of the pending holds are decided.",
    "token-expired": "Connect again with a fresh token.",
    "holds-unavailable": "Try again later.",
}

WAIT_ENDS: dict[str, tuple[str, str, str]] = {
    "waiting": ("this statement waits for a person's approval", "held", QUERY_CANCELED),
    "rejected": ("a person decided against this statement", "hold-rejected", INSUFFICIENT_PRIVILEGE),
    "closed": ("the hold ended without a decision", "hold-closed", QUERY_CANCELED),
    "void": ("the approval no longer fits the policy in force", "hold-void", INSUFFICIENT_PRIVILEGE),
    "released": ("the approval was already used", "hold-closed", QUERY_CANCELED),
    "too_many": (
        "too many statements are already waiting for approval",
        "too-many-holds",
        CONFIGURATION_LIMIT,
    ),
    "unavailable": ("holds cannot be kept right now", "holds-unavailable", SYSTEM_ERROR),
    "token_expired": (
        "your token expired while the statement waited",
        "token-expired",
        INVALID_AUTHORIZATION,
    ),
}
"""What a client reads when a wait did not end in release."""
