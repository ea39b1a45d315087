"""One Postgres connection between a client and a server: bytes in, events and bytes out. No I/O, no clock.

connection.receive_from_client(chunk)
while (event := connection.next_event()) is not None:
    ...  # answer it, now or later
send(connection.bytes_to_server())
send(connection.bytes_to_client())
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from extproc.domain.errors import ProtocolError
from extproc.protocols.connection import Connection
from extproc.protocols.endings import ClientLeft, Ended
from extproc.protocols.postgres.buffer import Buffer
from extproc.protocols.postgres.client_side import ClientSide
from extproc.protocols.postgres.events import BackendKey, CancelReceived, Event, LoginReceived
from extproc.protocols.postgres.front_filter import FrontFilter
from extproc.protocols.postgres.limits import Limits, Refusal, UpstreamLogin
from extproc.protocols.postgres.login import ServerLogin
from extproc.protocols.postgres.messages import (
    AUTHENTICATION_CLEARTEXT,
    AUTHENTICATION_OK,
    UINT32,
    build_cancel,
    build_error,
    build_negotiate,
    cstring,
    malformed,
)
from extproc.protocols.postgres.server_side import LoginFailedError, ServerSide, login_failure
from extproc.protocols.postgres.session import Session
from extproc.protocols.postgres.startup import NEWEST_MINOR, EncryptionRequest, Startup, parse_opening
from extproc.protocols.postgres.tls import ClientTls, ServerTls
from extproc.protocols.tls import ServerTlsPlan


class Stage(Enum):
    """How far the conversation has come."""

    OPENING = "opening"
    FILTER = "filter"
    PASSWORD = "password"  # noqa: S105 - the stage's name
    ASKED = "asked"
    UPSTREAM = "upstream"
    SESSION = "session"
    CANCEL = "cancel"
    ENDED = "ended"


_SQLSTATES = {
    "unsupported-version": "0A000",
    "replication": "0A000",
    "no-user": "28000",
    "tls-required": "28000",
    "too-long": "54000",
    "row-too-long": "54000",
    "too-much-waiting": "53400",
    "upstream-login": "58000",
    "upstream-tls-refused": "58000",
    "upstream-tls-failed": "58000",
    "upstream-tls-unverified": "58000",
}
"""What the client is told of a ProtocolError by its code; others are protocol violations."""
_VIOLATION = "08P01"
TLS_HANDSHAKE = b"\x16"
"""The first byte of a TLS record of the handshake; no startup packet is that long."""


class PostgresConnection(Connection[Event]):
    """Messages of protocol 3.0 and 3.2. Whatever breaks it ends it: `Ended`, with a FATAL error for the client.

    After every call (receive or answer) drain `next_event()` and both `bytes_to_*`.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        ask_password: Callable[[], bool] | None = None,
        read_messages: bool = False,
        tls: ssl.SSLContext | None = None,
        require_tls: bool = False,
        upstream_tls: ServerTlsPlan | None = None,
        front_filter: FrontFilter | None = None,
    ) -> None:
        """`ask_password` is called when the startup message is there; False raises LoginReceived at once (identity by
        certificate). Without it every client is asked.

        `read_messages` raises MessageReceived for every error, notice and notification of the server.
        With `tls`, SSLRequest and direct TLS are answered and ended here; `require_tls` refuses everything else.
        With `upstream_tls` nothing is said to the server before TLS, asked for by SSLRequest, has proven it.
        With `front_filter` a filter in front of us ends TLS, and what it says for itself passes as it is.
        """
        self._filter = front_filter
        self._tls_context = tls
        self._require_tls = require_tls
        self._limits = limits = limits or Limits()
        self._ask_password = ask_password
        self._session = Session(limits, read_messages=read_messages)
        super().__init__(self._session)
        self._server_tls: ServerTls | None = ServerTls(upstream_tls) if upstream_tls is not None else None
        self._client = ClientSide(self._session)
        self._server = ServerSide(self._session)
        self._stage = Stage.OPENING
        self._opening = Buffer()
        self._from_server = Buffer()
        self._startup: Startup | None = None
        self._login: ServerLogin | None = None
        self._upstream: UpstreamLogin | None = None
        self._cancel_key: BackendKey | None = None
        self._encryption_requests = 0
        self._client_ended = False
        self._server_ended = False

    # bytes in

    def _receive_plain(self, data: bytes) -> None:
        if self._stage is Stage.SESSION:
            self._client.receive(data)
            self._pump()
        else:
            self._opening.append(data)
            self._open()

    def receive_from_server(self, data: bytes, end: bool = False) -> None:
        """Bytes of the server; `end` when it closed."""
        if self._stage is Stage.ENDED:
            return
        try:
            if self._server_tls is not None:
                data = self._receive_tls(self._server_tls, data)
                end = end or self._server_tls.has_ended
            if self._stage is Stage.SESSION:
                self._server.receive(data)
                self._pump()
            elif data and self._stage is Stage.FILTER:
                self._filter_answered(data)
            elif data and self._stage is not Stage.UPSTREAM:
                raise ProtocolError("unexpected-message", "the server spoke before it was spoken to")
            elif data:
                self._from_server.append(data)
                self._log_in()
        except ProtocolError as error:
            self._fail(error)
        except LoginFailedError as failed:
            self._login_failed(failed)
        if end:
            self._server_end()

    # answers to LoginReceived

    def accept_login(self, login: UpstreamLogin) -> None:
        """Log in upstream; the client hears of it when the server has let us in (LoggedIn)."""
        if self._stage is not Stage.ASKED or self._startup is None:
            return
        self._upstream = login
        self._stage = Stage.UPSTREAM
        if self._server_tls is not None:
            self._server_tls.begin()
        else:
            self._begin_login(login, None)

    def refuse_login(self, sqlstate: str, message: str, detail: str = "", hint: str = "") -> None:
        """FATAL ErrorResponse, then `Ended(by="us")`. Nothing went to the server."""
        if self._stage is Stage.ASKED:
            self._say_fatal(Refusal(sqlstate, message, detail, hint))
            self._finish(Ended("us", "login-refused", message))

    # answers to StatementReceived. False: it is no longer waiting (client gone, batch skipped)

    def forward(
        self, id: int, *, rows: bool = False, copy: bool = False, tap: Callable[[bytes], None] | None = None
    ) -> bool:
        """Let it go on. `rows` raises RowsDescribed for each of its result sets, otherwise rows pass untouched.

        `copy` raises CopyReceived for COPY data towards the client; with `rows` alone COPY ends the connection.
        `tap` is given every byte of DataRow and CopyData messages that goes to the client, as it goes.
        """
        try:
            done = self._client.forward(id, rows=rows, copy=copy, tap=tap)
        except ProtocolError as error:
            self._fail(error)
            return False
        self._go_on()
        return done

    def deny(self, id: int, sqlstate: str, message: str, detail: str = "", hint: str = "") -> bool:
        """The server is given a statement it must refuse, and its ErrorResponse becomes this one."""
        try:
            done = self._client.deny(id, Refusal(sqlstate, message, detail, hint))
        except ProtocolError as error:
            self._fail(error)
            return False
        self._go_on()
        return done

    def inquire(self, id: int, text: str, *, runs: bool) -> bool:
        """Ask the server `text` first; InquiryAnswered brings the answer, and the statement waits on.

        `runs` False only asks for the columns that `text` would return. Where the server refuses, its error becomes
        the statement's. Raises ValueError for a text that the client's encoding cannot say.
        """
        done = self._client.inquire(id, text, runs=runs)
        self._go_on()
        return done

    # answers to RowsDescribed, RowsReceived, CopyReceived, MessageReceived

    def pass_rows(self, id: int) -> None:
        """This result set goes on untouched."""
        self._server.decide_columns(id, read=False)
        self._go_on()

    def read_rows(self, id: int) -> None:
        """Raise RowsReceived for this result set."""
        self._server.decide_columns(id, read=True)
        self._go_on()

    def replace_rows(self, id: int, rows: Sequence[Sequence[bytes | None] | None]) -> None:
        """One item per row of the event, in order: its new values, or None to let that row pass as it is."""
        self._server.replace_rows(id, rows)
        self._go_on()

    def replace_copy(self, id: int, pieces: Sequence[bytes]) -> None:
        """The COPY data to send in place of the event's, each piece as a message of its own."""
        self._server.replace_copy(id, pieces)
        self._go_on()

    def replace_message(self, fields: dict[str, str] | None) -> None:
        """The fields to send instead; None lets the message pass as it is."""
        self._server.replace_message(fields)
        self._go_on()

    # answers to CancelReceived

    def forward_cancel(self) -> None:
        """Send the CancelRequest on; then `Ended`."""
        if self._stage is not Stage.CANCEL:
            return
        if self._server_tls is not None:
            self._server_tls.begin()
        else:
            self._send_cancel()

    def drop_cancel(self) -> None:
        """Send nothing (the held statement was found here); then `Ended`."""
        if self._stage is Stage.CANCEL:
            self._finish(Ended("client"))

    # at any time

    def notice(self, message: str, detail: str = "", hint: str = "", sqlstate: str = "00000") -> None:
        """A NoticeResponse of ours at the next message boundary, for instance while a statement waits."""
        if self._stage is Stage.SESSION:
            self._session.notice(Refusal(sqlstate, message, detail, hint))

    def terminate(self, sqlstate: str, message: str, detail: str = "", hint: str = "") -> None:
        """End it: FATAL for the client where a message boundary allows, Terminate for the server, `Ended`."""
        if self._stage is not Stage.ENDED:
            self._say_fatal(Refusal(sqlstate, message, detail, hint))
            self._finish(Ended("us", "terminated", message))

    @property
    def backend_key(self) -> BackendKey | None:
        """The session's cancel key, once the server told it."""
        return self._session.backend_key

    @property
    def settings(self) -> Mapping[str, str]:
        """Parameters the server reported (ParameterStatus), the latest values; another mapping when one changes."""
        return self._session.settings

    @property
    def is_idle(self) -> bool:
        """Logged in, nothing outstanding at the server, nothing half read, no transaction."""
        return (
            self._stage is Stage.SESSION
            and self._session.transaction == "I"
            and self._session.head() is None
            and self._session.waiting is None
            and not self._session.skipping
            and self._client.is_empty
            and self._server.is_empty
        )

    @property
    def is_quiet(self) -> bool:
        """Logged in and nothing runs or is asked about, though a transaction may be open: it can be ended here."""
        return (
            self._stage is Stage.SESSION
            and self._session.head() is None
            and self._session.waiting is None
            and self._server.is_empty
        )

    @property
    def has_ended(self) -> bool:
        """`Ended` was raised."""
        return self._stage is Stage.ENDED

    @property
    def end_to_server(self) -> bool:
        """After the bytes to the server, say that no more will come (the client ended its side)."""
        return self._stage is Stage.ENDED or (self._client_ended and self._stage is not Stage.CANCEL)

    @property
    def end_to_client(self) -> bool:
        """After the bytes to the client, say that no more will come (the server ended its side, or we do)."""
        return self._server_ended or self._stage is Stage.ENDED

    # before the session

    def _open(self) -> None:
        while self._stage is Stage.OPENING and self._read_opening():
            pass
        if self._stage is Stage.PASSWORD:
            self._read_password()
        if (
            self._stage in (Stage.FILTER, Stage.ASKED, Stage.UPSTREAM, Stage.CANCEL)
            and len(self._opening) > self._limits.token
        ):
            raise ProtocolError("too-much-waiting", "the client sent more than may wait for its login")

    def _read_opening(self) -> bool:
        if len(self._opening) < 4:
            return False
        if self._opening.peek(1) == TLS_HANDSHAKE and self._tls is None and self._tls_context is not None:
            self._start_tls(self._tls_context, direct=True)
            return True
        size = UINT32.unpack(self._opening.peek(4))[0]
        if not 8 <= size <= self._limits.startup:
            raise ProtocolError("malformed-message", "malformed startup message")
        if len(self._opening) < size:
            return False
        opening = parse_opening(self._opening.take(size))
        if isinstance(opening, EncryptionRequest) and self._filter is not None:
            self._session.to_server.append(self._filter.request(opening))
            self._stage = Stage.FILTER
            return False
        if isinstance(opening, EncryptionRequest):
            self._encryption_requests += 1
            if self._encryption_requests > 2:  # SSLRequest and GSSENCRequest, each once
                raise ProtocolError("malformed-message", "too many encryption requests")
            if opening.is_ssl and self._tls is None and self._tls_context is not None:
                if len(self._opening):  # it would be taken for something said under TLS
                    raise ProtocolError("early-plaintext", "the client sent more before TLS began")
                self._session.to_client.append(b"S")
                self._start_tls(self._tls_context, direct=False)
                return False
            self._session.to_client.append(b"N")
        elif isinstance(opening, BackendKey):
            self._stage, self._cancel_key = Stage.CANCEL, opening
            self._session.events.append(CancelReceived(opening))
        else:
            self._start(opening)
        return True

    def _start_tls(self, context: ssl.SSLContext, *, direct: bool) -> None:
        early = self._opening.take(len(self._opening))
        self._opening.append(self._begin_tls(ClientTls(context, direct=direct), early))

    def _filter_answered(self, data: bytes) -> None:
        assert self._filter is not None  # noqa: S101 - its request began this stage
        answer = self._filter.answer(data)
        self._session.to_client.append(answer)
        if answer == b"S":
            self._stage = Stage.OPENING
            self._open()
        else:  # the filter hears it and ends the connection
            self._finish(Ended("server", "upstream-tls-refused", "the database does not speak TLS"))

    def _start(self, startup: Startup) -> None:
        if self._filter is not None:
            self._filter.check_started()
        if self._require_tls and self._tls is None:
            raise ProtocolError("tls-required", "this connection needs TLS (sslmode=require)")
        self._startup = startup
        if startup.minor > NEWEST_MINOR or startup.unknown:
            self._session.to_client.append(build_negotiate(min(startup.minor, NEWEST_MINOR), startup.unknown))
        if self._ask_password is None or self._ask_password():
            self._session.to_client.append(AUTHENTICATION_CLEARTEXT)
            self._stage = Stage.PASSWORD
        else:
            self._ask("")

    def _read_password(self) -> None:
        head = self._opening.head()
        if head is None:
            return
        kind, size = head
        if kind != b"p" or not 6 <= size <= self._limits.token + 6:
            raise ProtocolError("malformed-message", "a password message was expected")
        if len(self._opening) < size:
            return
        token, at = cstring(self._opening.take(size), 5, "Password")
        if at != size or not token.isascii():
            raise malformed("Password")
        self._ask(token.decode())

    def _ask(self, token: str) -> None:
        startup = self._startup
        assert startup is not None  # noqa: S101 - set one line before
        self._stage = Stage.ASKED
        self._session.events.append(
            LoginReceived(
                startup.user,
                startup.database,
                startup.parameters,
                token,
                (3, startup.agreed_minor),
                encrypted=self._tls is not None,
            )
        )

    def _receive_tls(self, tls: ServerTls, data: bytes) -> bytes:
        """Plaintext of the server; what waited for TLS goes out as soon as it is there."""
        was_open = tls.is_open
        plain = tls.receive(data)
        if tls.is_open and not was_open:
            if self._stage is Stage.CANCEL:
                self._send_cancel()
            elif self._upstream is not None:
                self._begin_login(self._upstream, tls.end_point)
        return plain

    def _begin_login(self, login: UpstreamLogin, end_point: bytes | None) -> None:
        assert self._startup is not None  # noqa: S101 - a login was asked for with it
        self._login = ServerLogin(login, self._startup.agreed_minor, self._limits.scram_iterations, end_point)
        self._session.to_server.append(self._login.startup())

    def _send_cancel(self) -> None:
        assert self._cancel_key is not None  # noqa: S101 - this stage begins with it
        self._session.to_server.append(build_cancel(self._cancel_key))
        self._finish(Ended("client"))

    def _log_in(self) -> None:
        login, buffer = self._login, self._from_server
        assert login is not None  # noqa: S101 - this stage begins with it
        while not login.is_done:
            head = buffer.head()
            if head is None:
                return
            kind, size = head
            if not 5 <= size <= self._limits.token:
                raise ProtocolError("upstream-login", "the server's login message has an impossible length")
            if len(buffer) < size:
                return
            body = buffer.take(size)[5:]
            if kind == b"R":
                reply = login.answer(body)
                if reply:
                    self._session.to_server.append(reply)
            elif kind == b"E":
                raise login_failure(body)
            elif kind not in (b"N", b"v"):  # an older minor version differs in nothing we pass on
                raise ProtocolError("upstream-login", "the server sent something else than its login")
        self._session.to_client.append(AUTHENTICATION_OK)
        self._stage = Stage.SESSION
        self._server.receive(buffer.take(len(buffer)))
        self._client.receive(self._opening.take(len(self._opening)))
        self._pump()

    # the session

    def _go_on(self) -> None:
        if self._stage is not Stage.SESSION:
            return
        try:
            self._pump()
        except ProtocolError as error:
            self._fail(error)
        except LoginFailedError as failed:
            self._login_failed(failed)

    def _pump(self) -> None:
        """The server first: its answers may be what the client's next message waits for."""
        self._server.pump()
        self._client.pump()
        if self._client.has_left:
            self._client_ended = True

    # the end

    def _client_end(self) -> None:
        self._client_ended = True
        if self._stage is Stage.SESSION and not self._client.is_between:
            # half a message can never be completed; what follows it would be taken for its rest
            self._session.events.append(ClientLeft())
            self._finish(Ended("client"))
        elif self._stage is Stage.SESSION:
            if not self._client.has_left:  # an end without Terminate, which means the same
                self._client.leave()
                self._client.say_goodbye()
        elif self._stage not in (Stage.ENDED, Stage.CANCEL):  # nobody waits for the answer to a CancelRequest
            self._session.events.append(ClientLeft())
            self._finish(Ended("client"))

    def _server_end(self) -> None:
        self._server_ended = True
        if self._stage is Stage.ENDED:
            return
        if self._stage is Stage.UPSTREAM:
            self._say_fatal(Refusal("08006", "extproc: the database closed the connection during login"))
            self._finish(Ended("server", "upstream-login", "the database closed the connection during login"))
        else:
            self._finish(Ended("client" if self._client_ended else "server"))

    def _login_failed(self, error: LoginFailedError) -> None:
        self._say_fatal(error.refusal)
        self._finish(Ended("server", "upstream-login", error.refusal.message))

    def _fail(self, error: ProtocolError) -> None:
        sqlstate = _SQLSTATES.get(error.code, _VIOLATION)
        self._say_fatal(Refusal(sqlstate, f"extproc: {error.message}"))
        self._finish(Ended("us", error.code, error.message))

    def _say_fatal(self, refusal: Refusal) -> None:
        session = self._session
        if session.client_boundary and self._stage is not Stage.CANCEL:
            codec = session.codec or "utf-8"
            session.to_client.append(build_error(refusal, severity="FATAL", codec=codec))

    def _finish(self, ended: Ended) -> None:
        session = self._session
        if self._stage is Stage.SESSION and not self._client_ended and not self._server_ended:
            self._client.say_goodbye()
        session.end_everything()
        session.events.append(ended)
        self._stage = Stage.ENDED
