"""A MySQL or MariaDB connection under governance: the wire's events go to the session, its steps come back as
answers."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from extproc.domain.request import Source
from extproc.domain.statement import Parameter, Statement
from extproc.domain.steps import NeedKeys, Wait
from extproc.pipeline.database_session import DatabaseSession
from extproc.pipeline.database_steps import (
    CANNOT_CONNECT_NOW,
    FEATURE_NOT_SUPPORTED,
    AcceptLogin,
    Asked,
    Inquire,
    RefuseLogin,
    Run,
    Stop,
)
from extproc.pipeline.governance import DatabasePlan
from extproc.pipeline.listeners import ListenerPlan
from extproc.pipeline.mysql_catalogue import MysqlCatalogues, Tables
from extproc.pipeline.mysql_rows import mysql_rows
from extproc.pipeline.statements import GovernedStatement
from extproc.protocols.mysql import (
    ClientLeft,
    Ended,
    Event,
    InquiryAnswered,
    Limits,
    LoggedIn,
    LoginReceived,
    MessageReceived,
    MysqlConnection,
    Refused,
    RowsDescribed,
    RowsReceived,
    SessionReset,
    StatementEnded,
    StatementReceived,
    UpstreamLogin,
)
from extproc.protocols.mysql.charsets import CODECS
from extproc.protocols.mysql.handshake import NONCE_BYTES
from extproc.protocols.postgres import BackendKey
from extproc.servers.database_conversation import DatabaseConversation, plans_of
from extproc.servers.envoy_proto import CallMetadata
from extproc.servers.live_sessions import Found
from extproc.servers.mysql_words import PlacedColumn, is_wide, refusal, value_kind
from extproc.servers.network_ext_proc import Output
from extproc.servers.service import Service
from extproc.sql.mysql.analysis import TextFacts, analyze
from extproc.sql.mysql.session import Session as Reading

READING = (
    "SELECT @@session.sql_mode, @@session.character_set_client, @@session.character_set_results, DATABASE(),"
    " @@global.lower_case_table_names"
)
"""What changes how the server reads a text, and how its answers are read."""
_catalogues = MysqlCatalogues()
"""What this process knows of its servers' tables."""
KILL = re.compile(
    r"\s*KILL\s+(?:(?P<what>QUERY|CONNECTION)\s+)?(?P<thread>\d{1,10})\s*;?\s*\Z", re.ASCII | re.IGNORECASE
)
BOUND_SETTINGS = ("database", "sql_mode", "character_set_client")


@dataclass(frozen=True, slots=True)
class Understood:
    """A text as the server reads it: when it comes, or when it is prepared, whatever is set until it runs."""

    texts: TextFacts
    reading: Reading
    settings: Mapping[str, str]


def open_mysql(
    service: Service, call: CallMetadata, source: Source, later: Callable[[Output], None]
) -> MysqlConversation | None:
    """A new connection to the target that Envoy's configuration names; None when its listener is none of ours."""
    plans = plans_of(service, call)
    return MysqlConversation(service, *plans, source, later) if plans is not None else None


class MysqlConversation(DatabaseConversation):
    """One connection. Not thread-safe; the event loop owns it."""

    going_away: ClassVar[str] = CANNOT_CONNECT_NOW

    def __init__(
        self,
        service: Service,
        plan: DatabasePlan,
        listener: ListenerPlan,
        source: Source,
        later: Callable[[Output], None],
    ) -> None:
        session = DatabaseSession(
            service.current, service.new_hex, listener.target, source, service.now(), _catalogues
        )
        session.reads_messages = session.masks_rows
        needs_tls = listener.needs_tls(source)
        self._wire = MysqlConnection(
            bytes(1 + secrets.randbelow(127) for _ in range(NONCE_BYTES)),
            Limits(statement=plan.statement_limit, waiting=plan.waiting_limit),
            ask_password=lambda: self._caller() is None,
            read_messages=session.reads_messages,
            takes_cleartext=not needs_tls,
            tls=listener.tls,
            require_tls=needs_tls and listener.rsa_key is None,
            rsa_key=listener.rsa_key,
            upstream_tls=plan.upstream_tls,
        )
        self._wire.doubt_codec()
        super().__init__(service, plan, listener, session, self._wire, later)
        self._login: LoginReceived | None = None
        self._reading: Reading | None = None
        """How the server reads the next text; None: it has to be asked."""
        self._sql_mode = ""
        self._unread = 0
        """What waits for that answer."""
        self._texts: dict[int, Understood] = {}

    def opened(self) -> Output:
        """The server speaks first."""
        return Output(reach_server=True)

    # ------------------------------------------------------------------ events

    def _handle(self, event: Event) -> None:
        now = self._service.now()
        match event:
            case StatementReceived():
                self._statement(event, now)
            case StatementEnded() if event.id == self._unread:
                self._unread = 0
                self._refused(Refused(event.sqlstate, "how it is to be read is not known"), now)
            case StatementEnded():
                self._follow(event)
                self._statement_ended(event, now)
            case Refused():
                self._refused(event, now)
            case RowsDescribed():
                self._rows_described(event)
            case RowsReceived():
                self._rows_received(event.id, event.rows)
            case LoginReceived():
                if self._login is not None:  # COM_CHANGE_USER
                    self._begin_anew(now)
                    self._texts.clear()
                    self._forget_reading()
                self._login = event
                application = event.attributes.get("program_name", "")
                self._log_in(event.user, event.database, application, event.token, now)
            case LoggedIn():
                self._open_to_others(now)
            case ClientLeft():
                self._client_left()
            case Ended():
                self._end = ("complete" if not event.code else "aborted", event.code or f"by-{event.by}")
            case MessageReceived():
                self._message(event)
            case SessionReset():
                self._forget_reading()
            case InquiryAnswered():
                self._inquiry_answered(event, now)

    # ------------------------------------------------------------------ login

    def _answer_login(self, step: AcceptLogin | RefuseLogin | NeedKeys) -> None:
        match step:
            case NeedKeys():
                self._spawn(0, self._fetch_keys(step))
            case RefuseLogin():
                self._records += step.records
                self._wire.refuse_login(refusal(step.sqlstate, step.message, "", step.hint))
            case AcceptLogin():
                self._records += step.records
                asked = self._login
                assert asked is not None  # noqa: S101  (set before it was answered)
                role = step.role
                self._wire.accept_login(
                    UpstreamLogin(role.user, role.password, asked.database, protected=step.protected)
                )

    # ------------------------------------------------------------------ how texts are read

    def _read(self, rows: Sequence[Sequence[bytes | None]]) -> None:
        """The answer to `READING`; any other answer means that no text can be read."""
        if len(rows) != 1 or len(rows[0]) != 5:
            self._reading = Reading(readable=False)
            self._wire.use_codec("latin-1")
            return
        mode, client, results, database, folding = [
            None if value is None else value.decode("utf-8", "replace") for value in rows[0]
        ]
        self._sql_mode = mode or ""
        reading = Reading(database=database or "", folds_tables=folding not in ("0", None))
        reading = reading.greeted(self._wire.version).with_mode(mode).with_charset(client)
        codec = CODECS.get(client or "")
        if codec is None or CODECS.get(results or client or "") != codec:
            # not one that is read here, or texts come in one and answers go in another
            reading, codec = reading.with_charset(None), "latin-1"
        self._wire.use_codec(codec)
        self._reading = reading

    def _forget_reading(self) -> None:
        """How the server reads the next text is not known; neither is the character set it comes in."""
        self._reading = None
        self._wire.doubt_codec()

    def _understand(self, text: str) -> Understood:
        reading = self._reading or Reading()
        settings = {
            "database": reading.database,
            "sql_mode": self._sql_mode,
            "character_set_client": reading.charset,
        }
        return Understood(analyze(text, reading), reading, settings)

    def _follow(self, event: StatementEnded) -> None:
        """A statement is over: how the server reads the next one may be another way now."""
        known = self._texts.pop(event.id, None)
        if known is None or event.end == "denied" or not event.executed:
            return
        texts = known.texts
        if all(sql.complete for sql in texts.facts) and all(after == known.reading for after in texts.after):
            return
        self._forget_reading()

    # ------------------------------------------------------------------ statements

    def _statement(self, event: StatementReceived, now: float) -> None:
        if self._reading is None and event.kind != "command":
            self._unread = event.id
            self._wire.inquire(event.id, READING)
            return
        understood = event.note if isinstance(event.note, Understood) else self._understand(event.text)
        texts = understood.texts
        statement = Statement(
            text=event.text,
            facts=texts.facts,
            parameters=tuple(Parameter(p.type, 1, p.value, p.text) for p in event.parameters),
            kind="bound" if event.kind == "bound" else "simple",
        )
        governed = self._session.statement(
            Asked(
                statement,
                "T" if event.in_transaction else "I",
                event.kind != "parse",
                "",
                understood.settings,
                BOUND_SETTINGS,
                self._wire.codec,
            ),
            now,
        )
        self._running[event.id] = governed
        if event.kind == "command":
            self._answer(event.id, governed.never(now, event.text))
            return
        self._texts[event.id] = understood
        kill = KILL.match(event.text) if event.kind == "simple" else None
        if kill is not None:
            self._kill(event.id, kill, now)
            return
        step = self._decide(event.id, governed, now)
        if event.kind == "parse" and isinstance(step, Run):
            del self._running[event.id]  # nothing runs, so nothing ends
            self._texts.pop(event.id, None)

    def _decide(self, number: int, governed: GovernedStatement, now: float) -> Run | Stop | Inquire | Wait:
        step = governed.decide(now)
        if isinstance(step, Wait):
            self._spawn(number, self._wait(number, governed, step))
        else:
            self._answer(number, step)
        return step

    # ------------------------------------------------------------------ KILL

    def _kill(self, number: int, kill: re.Match[str], now: float) -> None:
        """Of the caller's own session it is a cancel, as clients send it; of any other it is judged."""
        key = self._key_of(int(kill["thread"]))
        found = self._service.sessions.cancel_here(self._session.target, key) if key is not None else ""
        if found or key is None:
            self._killed(number, kill, found, now)
        else:
            self._spawn(number, self._kill_elsewhere(number, kill, key))

    async def _kill_elsewhere(self, number: int, kill: re.Match[str], key: BackendKey) -> None:
        found = await self._service.sessions.cancel_elsewhere(self._session.target, key)
        self._tasks.pop(number, None)
        self._killed(number, kill, found, self._service.now())
        self._later(self._take())

    def _killed(self, number: int, kill: re.Match[str], found: Found, now: float) -> None:
        governed = self._running.get(number)
        if governed is None:
            return
        if not found:
            self._decide(number, governed, now)
            return
        allowed = governed.cancels_own(now)
        if found == "held" and (kill["what"] or "").upper() == "QUERY" and isinstance(allowed, Run):
            self._records += allowed.records
            self._wire.complete(number)  # what waited is stopped, and the server knows nothing of it
        else:
            self._answer(number, allowed)

    def _key_of(self, thread: int) -> BackendKey | None:
        """What names a session of this caller: its number, and who it is."""
        principal = self._session.principal
        if principal is None or not 0 < thread < 1 << 32:
            return None
        who = f"{principal.issuer}\0{principal.subject}".encode()
        return BackendKey(thread, hashlib.sha256(who).digest())

    @property
    def _cancel_key(self) -> BackendKey | None:
        return self._key_of(self._wire.thread)

    # ------------------------------------------------------------------ answers

    def _answer(self, number: int, step: Run | Stop | Inquire) -> None:
        if isinstance(step, Inquire):
            self._wire.inquire(number, step.text)
            return
        self._records += step.records
        if isinstance(step, Run):
            statement = self._running.get(number)
            sample = statement.sample if statement is not None else None
            self._wire.forward(
                number,
                rows=step.reads != "" or sample is not None,
                note=self._texts.get(number),
                tap=sample.tap if sample is not None else None,
            )
            return
        self._wire.deny(
            number,
            refusal(
                step.sqlstate,
                f"extproc: {step.message}",
                step.detail,
                step.hint,
                is_admin=self._is_admin(number),
            ),
        )
        if step.ends_session:
            self._end_when_idle(step)

    def _is_admin(self, number: int) -> bool:
        known = self._texts.get(number)
        return known is not None and any(sql.complete and "admin" in sql.effects for sql in known.texts.facts)

    def _inquiry_answered(self, event: InquiryAnswered, now: float) -> None:
        if event.id == self._unread:
            self._unread = 0
            self._read(event.rows)
            self._wire.read_again(event.id)  # in that character set it may be another text
            return
        statement = self._running.get(event.id)
        if statement is not None:
            self._answer(event.id, statement.answered((), event.rows, self._wire.codec, now))

    def _rows_described(self, event: RowsDescribed) -> None:
        statement = self._running.get(event.id)
        tables = self._session.catalogue.current
        assert isinstance(tables, Tables)  # noqa: S101  (ours are)
        columns = [
            PlacedColumn(
                column.name, *tables.place(column.schema, column.table, column.origin), *value_kind(column)
            )
            for column in event.columns
        ]
        mask = statement.rows(columns, self._wire.codec) if statement is not None else None
        self._count_masked(event.id)
        sample = statement.sample if statement is not None else None
        if (mask is not None or sample is not None) and any(is_wide(column) for column in event.columns):
            # a statement in front of it changed character_set_results: what is looked for would not be found
            self._end = ("aborted", "rows-not-maskable")
            self._terminate(FEATURE_NOT_SUPPORTED, "extproc: rows in this character set cannot be masked")
            return
        if sample is not None:
            sample.described(columns, mysql_rows(event.columns))
        if mask is None:
            self._wire.pass_rows(event.id)
            return
        self._results[event.id] = mask
        self._wire.read_rows(event.id)

    def _message(self, event: MessageReceived) -> None:
        masked = self._masked_message(event.id, {"C": event.sqlstate, "M": event.text})
        self._wire.replace_message(masked["M"] if masked is not None else None)

    # ------------------------------------------------------------------ waiting, and the end

    def _terminate(self, sqlstate: str, message: str, hint: str = "") -> None:
        self._wire.terminate(refusal(sqlstate, message, "", hint))
