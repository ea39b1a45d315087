"""One governed database session: identify at login; then, per statement, decide, hold, run, record.

Every method takes one event and returns one step; the server carries it out and brings the next.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from extproc.domain.errors import TokenError
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.domain.request import Source
from extproc.domain.steps import NeedKeys
from extproc.masking.rows import RowMasks
from extproc.pipeline.catalogue_reading import CatalogueReader, Catalogues, Reader, Readers, SharedCatalogue
from extproc.pipeline.coverage import Coverage
from extproc.pipeline.database_records import SessionScribe
from extproc.pipeline.database_steps import (
    CANNOT_CONNECT_NOW,
    INVALID_AUTHORIZATION,
    INVALID_PASSWORD,
    AcceptLogin,
    Asked,
    Login,
    RefuseLogin,
)
from extproc.pipeline.database_words import OVER
from extproc.pipeline.governance import DatabasePlan, DatabaseRole, Governance, TargetPlan
from extproc.pipeline.statement_names import StatementNames
from extproc.pipeline.statements import GovernedStatement
from extproc.pipeline.verdicts import Verdicts


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
        catalogues: Readers | None = None,
    ) -> None:
        """`catalogues` are shared with other connections to the same databases."""
        self._catalogues: Readers = catalogues or Catalogues()
        self._current = current
        self._new_hex = new_hex
        gov = current()
        self._login: Login | None = None
        self._principal: Principal | None = None
        self._role: DatabaseRole | None = None
        self.catalogue: Reader = CatalogueReader(SharedCatalogue())
        """What the server said of its tables, where policy masks columns."""
        self._coverage: Coverage | None = None
        self.names = StatementNames()
        self.verdicts = Verdicts()
        self.reads_messages = True
        """Whether errors and notices of the server are read on this connection."""
        self._counts = {"statements": 0, "denied": 0, "held": 0, "rows": 0, "bytes": 0, "errors": 0}
        self.ends_at = 0.0
        """When nothing more may run here, in Unix seconds; 0 is never."""
        self._end_code = ""
        self.stage = Stage.START
        self.target = target
        self.scribe = SessionScribe(
            target=target, key=gov.record_key, session_id="ses_" + new_hex(16), decision_id="dec_" + new_hex(16),
            trace_id=new_hex(16), span_id=new_hex(8), started=now, source=source, degraded=list(gov.degraded),
            policy=gov.policy_digest,
        )  # fmt: skip
        plan = gov.targets.get(target)
        if plan is not None:
            self.scribe.protocol = plan.kind
            self.scribe.masker = plan.record_masker
            self.scribe.degraded.extend(plan.degraded)

    def successor(self, source: Source, now: float) -> DatabaseSession:
        """The session of whoever logs in next on the same connection; this one is over."""
        session = DatabaseSession(self._current, self._new_hex, self.target, source, now, self._catalogues)
        session.reads_messages = self.reads_messages
        return session

    def over(self, now: float) -> str:
        """Why nothing may run on this connection any more, as a code; empty while it may."""
        principal = self._principal
        if principal is not None and self._current().locks.find(principal, self.scribe.session_id, now):
            return "locked"
        return self._end_code if 0 < self.ends_at <= now else ""

    # ------------------------------------------------------------------ identify

    def login(self, login: Login, now: float) -> AcceptLogin | RefuseLogin | NeedKeys:
        """Who is it, and which database user stands behind that name?"""
        self._login = login
        self.scribe.user, self.scribe.database = login.user, login.database
        self.catalogue = self._catalogues.reader(self.target, login.database, login.user)
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
            principal = login.caller or gov.identifier.identify_token(login.token, now)
        except TokenError as error:
            code = f"token-{error.code}".replace("_", "-")
            return self._refuse_login(
                now, INVALID_PASSWORD, code, error.message, "Give a valid token (JWT) as the password."
            )
        if isinstance(principal, NeedKeys):
            self.stage = Stage.KEYS
            return principal
        self._principal = self.scribe.principal = principal
        if gov.locks.find(principal, self.scribe.session_id, now) is not None:
            return self._refuse_login(now, INVALID_AUTHORIZATION, "locked", *OVER["locked"][1:])
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
        self._set_end(principal, database, gov, now)
        return AcceptLogin(role, database.protected, (self.scribe.login(now, "allow", "allowed"),))

    def _set_end(self, principal: Principal, database: DatabasePlan, gov: Governance, now: float) -> None:
        """A session ends with its token, at its largest age, or with whichever comes first."""
        ends = []
        if database.on_expiry == "close" and principal.expires_at:
            ends.append((principal.expires_at + gov.skews.get(principal.provider, 0.0), "token-expired"))
        if database.max_age:
            ends.append((now + database.max_age, "session-too-old"))
        self.ends_at, self._end_code = min(ends, default=(0.0, ""))

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

    @property
    def principal(self) -> Principal | None:
        """Who is logged in."""
        return self._principal

    def governed(self) -> tuple[Governance, TargetPlan, DatabasePlan] | None:
        """What governs this session now; None when its target went away with a reload."""
        gov = self._current()
        plan = gov.targets.get(self.target)
        if plan is None or plan.database is None:
            return None
        self.scribe.policy = gov.policy_digest
        return gov, plan, plan.database

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

    def coverage(self, masks: RowMasks) -> Coverage:
        """What these masks cover in the catalogue as it is known now."""
        catalogue = self.catalogue.current
        known = self._coverage
        if known is None or known.masks is not masks or known.catalogue is not catalogue:
            known = self._coverage = Coverage(catalogue, masks)
        return known

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
