"""A Postgres connection under governance: the wire's events go to the session, its steps come back as answers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from extproc.domain.errors import ProtocolError
from extproc.domain.hold import HeldRequest
from extproc.domain.request import Source
from extproc.domain.statement import Statement
from extproc.domain.steps import NeedKeys, Wait
from extproc.pipeline.catalogue_reading import Catalogues
from extproc.pipeline.copy_masking import CopyMask
from extproc.pipeline.database_session import DatabaseSession
from extproc.pipeline.database_steps import (
    AcceptLogin,
    Asked,
    Inquire,
    RefuseLogin,
    Run,
    Stop,
)
from extproc.pipeline.governance import DatabasePlan
from extproc.pipeline.listeners import ListenerPlan
from extproc.pipeline.parameters import read_parameter
from extproc.protocols.postgres import (
    CLIENT_CHOSEN,
    BackendKey,
    CancelReceived,
    ClientLeft,
    CopyReceived,
    CopyStarted,
    Ended,
    Event,
    FrontFilter,
    InquiryAnswered,
    Limits,
    LoggedIn,
    LoginReceived,
    MessageReceived,
    PostgresConnection,
    Refused,
    RowsDescribed,
    RowsReceived,
    StatementEnded,
    StatementReceived,
    UpstreamLogin,
)
from extproc.protocols.postgres.encodings import codec_for
from extproc.protocols.postgres.limits import LoginMethod
from extproc.servers.database_conversation import DatabaseConversation, plans_of
from extproc.servers.envoy_proto import CallMetadata
from extproc.servers.live_sessions import Found
from extproc.servers.network_ext_proc import Output
from extproc.servers.service import Service
from extproc.sql import analyze

SCRAM_ONLY: frozenset[LoginMethod] = frozenset({"trust", "scram-sha-256"})
ANY_METHOD: frozenset[LoginMethod] = frozenset({"trust", "scram-sha-256", "password", "md5"})

BOUND_SETTINGS = (
    "search_path",
    "session_authorization",
    "is_superuser",
    "client_encoding",
    "DateStyle",
    "TimeZone",
)
"""Settings the server reports that change what a text means or who runs it."""

_catalogues = Catalogues()
"""What this process knows of its databases' tables."""


def open_postgres(
    service: Service, call: CallMetadata, source: Source, later: Callable[[Output], None]
) -> PostgresConversation | None:
    """A new connection to the target that Envoy's configuration names; None when its listener is none of ours."""
    plans = plans_of(service, call)
    return PostgresConversation(service, *plans, source, later) if plans is not None else None


class PostgresConversation(DatabaseConversation):
    """One connection. Not thread-safe; the event loop owns it."""

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
        self._wire = PostgresConnection(
            Limits(statement=plan.statement_limit, waiting=plan.waiting_limit),
            ask_password=lambda: self._caller() is None,
            read_messages=session.reads_messages,
            tls=listener.tls,
            require_tls=listener.needs_tls(source),
            upstream_tls=plan.upstream_tls,
            front_filter=FrontFilter(asks_server=plan.filter_asks) if listener.filtered else None,
        )
        super().__init__(service, plan, listener, session, self._wire, later)
        self._login: LoginReceived | None = None

    # ------------------------------------------------------------------ events

    def _handle(self, event: Event) -> None:
        now = self._service.now()
        match event:
            case StatementReceived():
                self._statement(event, now)
            case StatementEnded():
                self._statement_ended(event, now)
            case Refused():
                self._refused(event, now)
            case RowsDescribed():
                self._rows_described(event)
            case RowsReceived():
                self._rows_received(event.id, event.rows)
            case LoginReceived():
                self._login_received(event, now)
            case LoggedIn():
                self._logged_in(event, now)
            case CancelReceived():
                self._cancel(event.key)
            case ClientLeft():
                self._client_left()
            case Ended():
                self._end = ("complete" if not event.code else "aborted", event.code or f"by-{event.by}")
            case MessageReceived():
                self._message(event)
            case InquiryAnswered():
                self._inquiry_answered(event, now)
            case CopyStarted():
                self._copy_started(event)
            case CopyReceived():
                self._copy_received(event)

    # ------------------------------------------------------------------ login

    def _login_received(self, event: LoginReceived, now: float) -> None:
        self._login = event
        application = event.parameters.get("application_name", "")
        self._log_in(event.user, event.database, application, event.token, now)

    def _answer_login(self, step: AcceptLogin | RefuseLogin | NeedKeys) -> None:
        match step:
            case NeedKeys():
                self._spawn(0, self._fetch_keys(step))
            case RefuseLogin():
                self._records += step.records
                self._wire.refuse_login(step.sqlstate, step.message, "", step.hint)
            case AcceptLogin():
                self._records += step.records
                asked = self._login
                assert asked is not None  # noqa: S101  (set before it was answered)
                self._wire.accept_login(
                    UpstreamLogin(
                        user=step.role.user,
                        database=asked.database,
                        password=step.role.password,
                        nonce=secrets.token_urlsafe(18),
                        parameters=tuple(
                            (name, value)
                            for name, value in asked.parameters.items()
                            if name.lower() in CLIENT_CHOSEN
                        ),
                        methods=ANY_METHOD if step.protected else SCRAM_ONLY,
                    )
                )

    def _logged_in(self, event: LoggedIn, now: float) -> None:
        self._open_to_others(now)

    # ------------------------------------------------------------------ statements

    def _statement(self, event: StatementReceived, now: float) -> None:
        codec = self._codec(event.settings)
        statement = Statement(
            text=event.text,
            facts=analyze(
                event.text,
                "postgres",
                standard_strings=event.settings.get("standard_conforming_strings", "on") != "off",
            ),
            parameters=tuple(read_parameter(p.type_oid, p.format, p.value, codec) for p in event.parameters),
            kind="simple" if event.kind == "simple" else "bound",
        )
        # while earlier messages are unanswered the status may be older than this statement
        transaction = "T" if event.transaction == "I" and event.outstanding else event.transaction
        governed = self._session.statement(
            Asked(
                statement,
                transaction,
                event.kind != "parse",
                event.name,
                event.settings,
                BOUND_SETTINGS,
                codec,
            ),
            now,
        )
        self._running[event.id] = governed
        step = governed.decide(now)
        if isinstance(step, Wait):
            self._spawn(event.id, self._wait(event.id, governed, step))
            return
        self._answer(event.id, step)
        if event.kind == "parse" and isinstance(step, Run):
            del self._running[event.id]  # nothing runs, so nothing ends

    def _answer(self, number: int, step: Run | Stop | Inquire) -> None:
        if isinstance(step, Inquire):
            self._wire.inquire(number, step.text, runs=step.runs)
            return
        self._records += step.records
        if isinstance(step, Run):
            statement = self._running.get(number)
            sample = statement.sample if statement is not None else None
            described = step.reads != "" or (
                sample is not None and statement is not None and not statement.is_copy
            )
            self._wire.forward(
                number,
                rows=described,
                copy=step.reads == "copy",
                tap=sample.tap if sample is not None else None,
            )
            return
        self._wire.deny(number, step.sqlstate, f"extproc: {step.message}", step.detail, step.hint)
        if step.ends_session:
            self._end_when_idle(step)

    def _inquiry_answered(self, event: InquiryAnswered, now: float) -> None:
        statement = self._running.get(event.id)
        if statement is not None:
            codec = self._codec(self._wire.settings)
            self._answer(event.id, statement.answered(event.columns, event.rows, codec, now))

    def _copy_started(self, event: CopyStarted) -> None:
        statement = self._running.get(event.id)
        mask = statement.copy_mask if statement is not None else None
        if event.direction == "in" or mask is None:
            return
        if event.binary or event.columns != mask.columns:
            self._break_off("copy-differs", "COPY is not what the server described")
            return
        self._results[event.id] = mask

    def _copy_received(self, event: CopyReceived) -> None:
        mask = self._results.get(event.id)
        if not isinstance(mask, CopyMask):
            self._break_off("copy-differs", "COPY data came that nobody announced")
            return
        try:
            self._wire.replace_copy(event.id, mask.pieces(event.pieces, is_last=event.is_last))
        except ProtocolError as error:
            self._break_off(error.code, error.message)

    def _break_off(self, code: str, message: str) -> None:
        """What the server sends cannot be masked: nothing of it goes on, and the connection ends."""
        self._end = ("aborted", code)
        self._wire.terminate("58000", f"extproc: {message}")

    def _rows_described(self, event: RowsDescribed) -> None:
        statement = self._running.get(event.id)
        mask = (
            statement.rows(event.columns, self._codec(self._wire.settings)) if statement is not None else None
        )
        self._count_masked(event.id)
        if statement is not None and statement.sample is not None:
            statement.sample.described(event.columns)
        if mask is None:
            self._wire.pass_rows(event.id)
            return
        self._results[event.id] = mask
        self._wire.read_rows(event.id)

    def _message(self, event: MessageReceived) -> None:
        """What the server says beside rows; what answers no statement of ours may come from any."""
        self._wire.replace_message(self._masked_message(event.id, event.fields))

    @staticmethod
    def _codec(settings: Mapping[str, str]) -> str:
        return codec_for(settings.get("client_encoding", "UTF8")) or "utf-8"

    # ------------------------------------------------------------------ waiting, and the end

    def _tell_it_waits(self, held: HeldRequest) -> bool:
        self._wire.notice(
            "extproc: this statement waits for a person's approval",
            f"hold {held.id}",
            "It runs when it is approved. Cancel it to stop waiting.",
        )
        return True

    def _cancel(self, key: BackendKey) -> None:
        """Of a session here, or of another worker. A key that nobody has goes nowhere, and gets no answer either."""
        found = self._service.sessions.cancel_here(self._session.target, key)
        if found:
            self._cancel_found(found)
        else:
            self._spawn(0, self._cancel_elsewhere(key))

    async def _cancel_elsewhere(self, key: BackendKey) -> None:
        found = await self._service.sessions.cancel_elsewhere(self._session.target, key)
        self._tasks.pop(0, None)
        self._cancel_found(found)
        self._later(self._take())

    def _cancel_found(self, found: Found) -> None:
        if found == "live":
            self._wire.forward_cancel()
        else:
            self._wire.drop_cancel()

    def _terminate(self, sqlstate: str, message: str, hint: str = "") -> None:
        self._wire.terminate(sqlstate, message, "", hint)

    @property
    def _cancel_key(self) -> BackendKey | None:
        return self._wire.backend_key
