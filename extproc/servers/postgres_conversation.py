"""A Postgres connection under governance: the wire's events go to the session, its steps come back as answers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace

from extproc.domain.hold import HeldRequest
from extproc.domain.principal import Principal
from extproc.domain.request import Source
from extproc.domain.statement import Statement
from extproc.domain.steps import NeedKeys, Wait
from extproc.pipeline.catalogue import QUERY, masked_message
from extproc.pipeline.database_session import DatabaseSession
from extproc.pipeline.database_steps import (
    AcceptLogin,
    Asked,
    Login,
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
    CopyStarted,
    Ended,
    Event,
    Limits,
    LoggedIn,
    LoginReceived,
    MessageReceived,
    PostgresConnection,
    RowsDescribed,
    RowsReceived,
    StatementEnded,
    StatementReceived,
    UpstreamLogin,
)
from extproc.protocols.postgres.encodings import codec_for
from extproc.protocols.postgres.limits import LoginMethod
from extproc.servers.database_conversation import DatabaseConversation
from extproc.servers.envoy_proto import CallMetadata
from extproc.servers.network_ext_proc import Output
from extproc.servers.service import Service
from extproc.sql import analyze

SCRAM_ONLY: frozenset[LoginMethod] = frozenset({"trust", "scram-sha-256"})
ANY_METHOD: frozenset[LoginMethod] = frozenset({"trust", "scram-sha-256", "password", "md5"})

_sessions: dict[tuple[str, BackendKey], PostgresConversation] = {}
"""Live sessions of this process by target and cancel key: a CancelRequest comes on a connection of its own."""


def open_postgres(
    service: Service, call: CallMetadata, source: Source, later: Callable[[Output], None]
) -> PostgresConversation | None:
    """A new connection to the target that Envoy's configuration names; `open_conversation` checked its kind.

    None when it came by a listener that is none of ours.
    """
    governance = service.current()
    plan = governance.targets[call.target].database
    assert plan is not None  # noqa: S101  (targets of this kind have one)
    listener = governance.listener(call.listener, call.target)
    if listener is None:
        return None
    return PostgresConversation(service, plan, listener, source, later)


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
        self._listener = listener
        self._source = source
        session = DatabaseSession(service.current, service.new_hex, listener.target, source, service.now())
        session.reads_messages = session.masks_rows
        self._wire = PostgresConnection(
            Limits(statement=plan.statement_limit, waiting=plan.waiting_limit),
            ask_password=lambda: self._caller() is None,
            read_messages=session.reads_messages,
            tls=listener.tls,
            require_tls=listener.needs_tls(source),
            upstream_tls=plan.upstream_tls,
        )
        super().__init__(service, plan, session, self._wire, later)
        self._reads_catalogue = False
        """The catalogue is to be asked for as soon as the client was told that it is in."""
        self._catalogue_id: int | None = None
        """The id of our own statement; 0 once it has ended."""
        self._behind: bytearray | None = None
        """What the client says while we ask; None when nothing waits for that."""
        self._behind_end = False
        self._catalogue_index = 0
        self._login: LoginReceived | None = None

    # ------------------------------------------------------------------ Conversation

    def client_data(self, data: bytes, end: bool) -> Output:
        if self._behind is not None:
            return self._keep_behind(data, end)
        self._wire.receive_from_client(data, end)
        return self._take()

    def server_data(self, data: bytes, end: bool) -> Output:
        self._wire.receive_from_server(data, end)
        output = self._take()
        if self._reads_catalogue and self._behind is None and not self._wire.has_ended:
            return self._ask_catalogue(output)
        if self._behind is not None and self._catalogue_id == 0 and self._wire.is_idle:
            return self._catalogue_read(output)
        return output

    # ------------------------------------------------------------------ the catalogue

    def _ask_catalogue(self, before: Output) -> Output:
        """Our own first statement, as if the client had sent it; what it answers is for us alone.

        `before` goes out first: the client is told that it is in, and what it says next waits.
        """
        self._reads_catalogue = False
        self._behind = bytearray()
        self._wire.say_for_client(QUERY)
        after = self._take()
        return replace(
            before,
            to_server=before.to_server + after.to_server,
            to_client=before.to_client + after.to_client,
            records=before.records + after.records,
            close=before.close or after.close,
        )

    def _keep_behind(self, data: bytes, end: bool) -> Output:
        assert self._behind is not None  # noqa: S101
        self._behind += data
        self._behind_end = self._behind_end or end
        if len(self._behind) > self._plan.waiting_limit:
            self._behind = None
            self._wire.terminate("53400", "extproc: too much was sent before the session was ready")
            return self._take()
        return Output()

    def _catalogue_read(self, output: Output) -> Output:
        """It is known (or could not be read, and what needs it is refused). Whoever waited goes on."""
        behind, self._behind = self._behind, None
        if not behind and not self._behind_end:
            return output
        self._wire.receive_from_client(bytes(behind or b""), self._behind_end)
        after = self._take()
        return replace(
            after,
            to_server=output.to_server + after.to_server,
            to_client=output.to_client + after.to_client,
            records=output.records + after.records,
        )

    # ------------------------------------------------------------------ events

    def _take(self) -> Output:
        """While we ask the server for ourselves, its answers are not the client's."""
        self._drain()
        if self._behind is not None and not self._wire.has_ended:
            self._wire.drop_to_client()
        return super()._take()

    def _handle(self, event: Event) -> None:
        now = self._service.now()
        match event:
            case StatementReceived():
                self._statement(event, now)
            case StatementEnded():
                self._statement_ended(event, now)
            case RowsDescribed():
                self._rows_described(event)
            case RowsReceived():
                self._rows_received(event)
            case LoginReceived():
                self._login_received(event, now)
            case LoggedIn():
                self._logged_in(event, now)
            case CancelReceived():
                self._cancel(event.key)
            case ClientLeft():
                for number in list(self._tasks):
                    self._stop_waiting(number)
            case Ended():
                self._end = ("complete" if not event.code else "aborted", event.code or f"by-{event.by}")
            case MessageReceived():
                self._message(event)
            case CopyStarted():
                pass

    # ------------------------------------------------------------------ login

    def _caller(self) -> Principal | None:
        """Whom the client's certificate names, if it has one that somebody verified."""
        source = self._verified_source()
        uris = self._wire.peer_uris if self._listener.tls is not None else (source.peer_uri_san,)
        return self._listener.caller(uris) if source.mtls else None

    def _verified_source(self) -> Source:
        wire = self._wire
        return self._listener.verified(self._source, wire.peer_certificate is not None, wire.peer_uris)

    def _login_received(self, event: LoginReceived, now: float) -> None:
        self._login = event
        self._session.scribe.source = self._verified_source()
        application = event.parameters.get("application_name", "")
        login = Login(event.user, event.database, application, event.token, self._caller())
        self._answer_login(self._session.login(login, now))

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
        self._reads_catalogue = self._session.masks_columns
        if event.backend_key is not None:
            _sessions[self._session.target, event.backend_key] = self
        self._watch_expiry(now)

    # ------------------------------------------------------------------ statements

    def _statement(self, event: StatementReceived, now: float) -> None:
        if self._behind is not None and self._catalogue_id is None:
            if event.text != QUERY:  # the client did not wait for the end of its login
                self._end = ("aborted", "too-early")
                self._wire.terminate("08P01", "extproc: a statement came before the login was over")
                return
            self._catalogue_id = event.id
            self._wire.forward(event.id, rows=True)
            return
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
            Asked(statement, transaction, event.kind != "parse", event.name, event.settings), now
        )
        self._running[event.id] = governed
        step = governed.decide(now)
        if isinstance(step, Wait):
            self._spawn(event.id, self._wait(event.id, governed, step))
            return
        self._answer(event.id, step)
        if event.kind == "parse" and isinstance(step, Run):
            del self._running[event.id]  # nothing runs, so nothing ends

    def _answer(self, number: int, step: Run | Stop) -> None:
        self._records += step.records
        if isinstance(step, Run):
            self._wire.forward(number, rows=bool(step.masks))
            return
        self._wire.deny(number, step.sqlstate, f"extproc: {step.message}", step.detail, step.hint)
        if step.ends_session:
            self._end_when_idle(step)

    def _rows_described(self, event: RowsDescribed) -> None:
        if event.id == self._catalogue_id:
            self._catalogue_index = event.index
            self._wire.read_rows(event.id)
            return
        statement = self._running.get(event.id)
        mask = (
            statement.rows(event.columns, self._codec(self._wire.settings)) if statement is not None else None
        )
        self._count_masked(event.id)
        if mask is None:
            self._wire.pass_rows(event.id)
            return
        self._results[event.id] = mask
        self._wire.read_rows(event.id)

    def _rows_received(self, event: RowsReceived) -> None:
        if event.id == self._catalogue_id:
            for row in event.rows:
                self._session.catalogue.add(self._catalogue_index, row)
            self._wire.replace_rows(event.id, [None] * len(event.rows))
            return
        mask = self._results[event.id]
        self._wire.replace_rows(event.id, [mask.row(row) for row in event.rows])

    def _message(self, event: MessageReceived) -> None:
        """What the server says beside rows; what answers no statement of ours may come from any."""
        statement = self._running.get(event.id) if event.id is not None else None
        masks = statement.row_masks if statement is not None else self._session.all_masks()
        self._wire.replace_message(masked_message(masks, event.fields) if masks is not None else None)

    @staticmethod
    def _codec(settings: Mapping[str, str]) -> str:
        return codec_for(settings.get("client_encoding", "UTF8")) or "utf-8"

    def _statement_ended(self, event: StatementEnded, now: float) -> None:
        if event.id == self._catalogue_id:
            self._catalogue_id = 0
            self._session.catalogue.is_loaded = event.end == "complete"
            return
        super()._statement_ended(event, now)

    # ------------------------------------------------------------------ waiting, and the end

    def _tell_it_waits(self, held: HeldRequest) -> bool:
        self._wire.notice(
            "extproc: this statement waits for a person's approval",
            f"hold {held.id}",
            "It runs when it is approved. Cancel it to stop waiting.",
        )
        return True

    def _cancel(self, key: BackendKey) -> None:
        session = _sessions.get((self._session.target, key))
        if session is not None and session.cancel_waiting():
            self._wire.drop_cancel()
        else:
            # running, or of another worker: the server knows its own keys and ignores the others
            self._wire.forward_cancel()

    def _terminate(self, sqlstate: str, message: str, hint: str = "") -> None:
        self._wire.terminate(sqlstate, message, "", hint)

    def _forget(self) -> None:
        key = self._wire.backend_key
        if key is not None and _sessions.get((self._session.target, key)) is self:
            del _sessions[self._session.target, key]
