"""One MySQL or MariaDB connection between a client and a server: bytes in, events and bytes out. No I/O, no clock.

connection.receive_from_server(greeting)
while (event := connection.next_event()) is not None:
    ...  # answer it, now or later
send(connection.bytes_to_client())
send(connection.bytes_to_server())
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from enum import Enum

from cryptography.hazmat.primitives.asymmetric import rsa

from extproc.domain.errors import ProtocolError
from extproc.protocols.connection import Connection
from extproc.protocols.endings import ClientLeft, Ended
from extproc.protocols.mysql.capabilities import SSL
from extproc.protocols.mysql.charsets import codec_of
from extproc.protocols.mysql.client_login import Ask, ClientLogin, Told
from extproc.protocols.mysql.client_side import ClientSide
from extproc.protocols.mysql.events import Event, LoggedIn, LoginReceived
from extproc.protocols.mysql.handshake import (
    Greeting,
    Response,
    agreed,
    build_greeting,
    is_ssl_request,
    parse_change_user,
    parse_greeting,
    parse_response,
)
from extproc.protocols.mysql.limits import Limits, Refusal, UpstreamLogin
from extproc.protocols.mysql.packets import PacketBuffer, build_packets
from extproc.protocols.mysql.passwords import CACHING_SHA2
from extproc.protocols.mysql.replies import ERR, build_error, build_ok, parse_error, parse_ok
from extproc.protocols.mysql.running import Run, Session
from extproc.protocols.mysql.server_login import LoginFailedError, ServerLogin
from extproc.protocols.mysql.server_side import ServerSide
from extproc.protocols.tls import ClientTls, ServerTls, ServerTlsPlan


class Stage(Enum):
    """How far the conversation has come."""

    GREETING = "greeting"
    RESPONSE = "response"
    PASSWORD = "password"  # noqa: S105 - the stage's name
    ASKED = "asked"
    UPSTREAM = "upstream"
    SESSION = "session"
    ENDED = "ended"


_REFUSALS: dict[str, tuple[int, str]] = {
    "unsupported-version": (1251, "08004"),
    "tls-required": (3159, "HY000"),
    "charset": (1115, "42000"),
    "too-long": (1153, "08S01"),
    "too-much-waiting": (1153, "08S01"),
    "upstream-login": (1105, "HY000"),
    "upstream-tls-refused": (1105, "HY000"),
    "upstream-tls-failed": (1105, "HY000"),
    "upstream-tls-unverified": (1105, "HY000"),
    "upstream-gone": (1105, "HY000"),
    "local-infile": (1148, "42000"),
}
"""What the client is told of a ProtocolError by its code; others are malformed packets."""
_MALFORMED = (1835, "HY000")


class MysqlConnection(Connection[Event]):
    """After every call (receive or answer) drain `next_event()` and both `bytes_to_*`.

    Whatever breaks it ends it: `Ended`, with an ERR packet for the client where one can be said.
    """

    def __init__(
        self,
        nonce: bytes,
        limits: Limits | None = None,
        *,
        ask_password: Callable[[], bool] | None = None,
        read_messages: bool = False,
        takes_cleartext: bool = False,
        tls: ssl.SSLContext | None = None,
        require_tls: bool = False,
        rsa_key: rsa.RSAPrivateKey | None = None,
        upstream_tls: ServerTlsPlan | None = None,
    ) -> None:
        """`nonce` is 20 fresh random bytes, none of them 0.

        `ask_password` is called when the client said who it wants to be; False raises LoginReceived at once (identity
        by certificate). `takes_cleartext`: the way from the client is protected by others, or local.
        With `tls` clients may begin TLS, which ends here; `require_tls` refuses those that do not. `rsa_key` lets
        clients without TLS encrypt their token under it. With `upstream_tls` nothing but the request for TLS is said
        to the server before TLS has proven it. `read_messages` raises MessageReceived for every error of the server.
        """
        self._nonce = nonce
        self._limits = limits = limits or Limits()
        self._ask_password = ask_password
        self._takes_cleartext = takes_cleartext
        self._tls_context = tls
        self._require_tls = require_tls
        self._rsa_key = rsa_key
        self._upstream_tls = upstream_tls
        self._session = Session(limits, read_messages=read_messages)
        super().__init__(self._session)
        self._server = ServerSide(self._session)
        self._client = ClientSide(self._session, self._server.expect)
        self._stage = Stage.GREETING
        self._from_client = PacketBuffer()
        self._from_server = PacketBuffer()
        self._client_sequence = 0
        self._server_sequence = 0
        self._is_change = False
        """The login is not the connection's first (COM_CHANGE_USER)."""
        self._greeting: Greeting | None = None
        self._response: Response | None = None
        self._client_login: ClientLogin | None = None
        self._server_login: ServerLogin | None = None
        self._client_ended = False
        self._server_ended = False

    # bytes in

    def _receive_plain(self, data: bytes) -> None:
        if self._stage is Stage.SESSION:
            self._client.receive(data)
            self._pump()
            return
        if data and self._stage is Stage.GREETING:
            raise ProtocolError("unexpected-message", "the client spoke before it was greeted")
        self._from_client.append(data)
        while self._stage in (Stage.RESPONSE, Stage.PASSWORD) and self._read_login():
            pass
        if self._stage in (Stage.ASKED, Stage.UPSTREAM) and len(self._from_client) > self._limits.token:
            raise ProtocolError("too-much-waiting", "the client sent more than may wait for its login")

    def receive_from_server(self, data: bytes, end: bool = False) -> None:
        """Bytes of the server; `end` when it closed."""
        if self._stage is Stage.ENDED:
            return
        try:
            if self._server_tls is not None:
                data = self._server_tls.receive(data)
                end = end or self._server_tls.has_ended
            if self._stage is Stage.SESSION:
                self._server.receive(data)
                self._pump()
            elif data:
                self._from_server.append(data)
                self._hear_server()
            if self._server_tls is not None and self._server_tls.is_open:
                self._say_opening()
        except ProtocolError as error:
            self._fail(error)
        except LoginFailedError as failed:
            self._login_failed(failed)
        if end:
            self._server_end()

    # answers to LoginReceived

    def accept_login(self, login: UpstreamLogin) -> None:
        """Log in upstream; the client hears of it when the server has let us in (LoggedIn)."""
        greeting, response = self._greeting, self._response
        if self._stage is not Stage.ASKED or greeting is None or response is None:
            return
        self._stage = Stage.UPSTREAM
        self._server_login = ServerLogin(
            login,
            greeting,
            capabilities=self._session.capabilities,
            charset=response.charset,
            tls=self._upstream_tls is not None,
        )
        self._server_sequence = 1
        if self._is_change:
            self._server_login.has_begun = True
            self._session.to_server.append(build_packets(self._server_login.change_user(), 0))
        elif self._upstream_tls is None:
            self._say_opening()
        elif not greeting.capabilities & SSL:
            self._fail(ProtocolError("upstream-tls-refused", "the database does not speak TLS"))
        else:
            self._clear_to_server.append(build_packets(self._server_login.ssl_request(), 1))
            self._server_sequence = 2
            self._server_tls = ServerTls(self._upstream_tls)
            try:
                self._server_tls.receive(b"")
            except ProtocolError as error:
                self._fail(error)

    def refuse_login(self, refusal: Refusal) -> None:
        """ERR, then `Ended(by="us")`. Nothing was said to the server."""
        if self._stage is Stage.ASKED:
            self._say_error(refusal)
            self._finish(Ended("us", "login-refused", refusal.message))

    # answers to StatementReceived. False: it is no longer waiting (client gone)

    def forward(
        self,
        id: int,
        *,
        rows: bool = False,
        note: object = None,
        tap: Callable[[bytes], None] | None = None,
    ) -> bool:
        """Let it go on. `rows` raises RowsDescribed for each of its result sets, otherwise rows pass untouched.

        `note` comes back with every execution of what is prepared here. `tap` is given every byte of rows that goes
        to the client, as it goes.
        """
        done = self._client.forward(id, rows=rows, note=note, tap=tap)
        self._go_on()
        return done

    def deny(self, id: int, refusal: Refusal) -> bool:
        """ERR in the place of the server's answer. A transaction that is open stays open."""
        done = self._client.deny(id, refusal)
        self._go_on()
        return done

    def complete(self, id: int) -> bool:
        """OK in the place of the server's answer; nothing is sent to it."""
        done = self._client.complete(id, build_ok(self._session.status))
        self._go_on()
        return done

    def inquire(self, id: int, text: str) -> bool:
        """Ask the server `text` (ASCII) first; InquiryAnswered brings the answer, and the statement waits on."""
        session = self._session
        if session.waiting is None or session.waiting.id != id or session.running is not None:
            return False
        session.to_server.append(build_packets(b"\x03" + text.encode("ascii"), 0))
        self._server.expect(Run(id=id, answer="result", kind="inquiry", inquiry=[]), 1)
        return True

    def read_again(self, id: int) -> bool:
        """Raise StatementReceived for the waiting command once more, read in the character set that is known now."""
        done = self._client.read_again(id)
        self._go_on()
        return done

    # answers to RowsDescribed, RowsReceived, MessageReceived

    def pass_rows(self, id: int) -> None:
        """This result set goes on untouched."""
        if self._stage is Stage.SESSION:
            self._server.decide_columns(id, read=False)
            self._go_on()

    def read_rows(self, id: int) -> None:
        """Raise RowsReceived for this result set."""
        if self._stage is Stage.SESSION:
            self._server.decide_columns(id, read=True)
            self._go_on()

    def replace_rows(self, id: int, rows: Sequence[Sequence[bytes | None] | None]) -> None:
        """One item per row of the event, in order: its new values, or None to let that row pass as it is."""
        if self._stage is Stage.SESSION:
            self._server.replace_rows(id, rows)
            self._go_on()

    def replace_message(self, text: str | None) -> None:
        """The text to send instead; None lets the error pass as it is."""
        if self._stage is Stage.SESSION:
            self._server.replace_message(text)
            self._go_on()

    # at any time

    def terminate(self, refusal: Refusal) -> None:
        """End it: ERR for the client where an answer is due or none has begun, `Ended`."""
        if self._stage is not Stage.ENDED:
            self._say_error(refusal)
            if self._stage is Stage.SESSION and self._session.running is None:
                self._session.to_server.append(build_packets(b"\x01", 0))
            self._finish(Ended("us", "terminated", refusal.message))

    def use_codec(self, codec: str) -> None:
        """The session's character set is this one now: how texts are read and written."""
        self._session.codec, self._session.codec_is_doubted = codec, False

    def doubt_codec(self) -> None:
        """The character set may have changed: what comes is kept as it is until `use_codec` and `read_again`."""
        self._session.codec_is_doubted = True

    @property
    def codec(self) -> str:
        """How texts of this session are read and written."""
        return self._session.codec

    @property
    def version(self) -> str:
        """The server's own word."""
        return self._greeting.version.decode("ascii", "replace") if self._greeting is not None else ""

    @property
    def thread(self) -> int:
        """The server's number for this session; 0 before it greeted."""
        return self._greeting.thread if self._greeting is not None else 0

    @property
    def is_idle(self) -> bool:
        """Logged in, nothing outstanding at the server, nothing half read, no transaction."""
        return self.is_quiet and not self._session.in_transaction and self._client.is_empty

    @property
    def is_quiet(self) -> bool:
        """Logged in and nothing runs or is asked about, though a transaction may be open: it can be ended here."""
        session = self._session
        return (
            self._stage is Stage.SESSION
            and session.running is None
            and session.waiting is None
            and self._server.is_empty
        )

    @property
    def has_ended(self) -> bool:
        """`Ended` was raised."""
        return self._stage is Stage.ENDED

    @property
    def end_to_server(self) -> bool:
        """After the bytes to the server, say that no more will come."""
        return self._stage is Stage.ENDED

    @property
    def end_to_client(self) -> bool:
        """After the bytes to the client, say that no more will come."""
        return self._stage is Stage.ENDED

    # before the session

    def _hear_server(self) -> None:
        if self._stage is Stage.GREETING:
            found = self._from_server.payload(0, self._limits.token)
            if found is not None:
                self._greet(found[0])
        elif self._stage is Stage.UPSTREAM:
            while self._log_in():
                pass
        elif self._from_server.head() is not None:
            # it gave up waiting for us (connect_timeout)
            raise ProtocolError("upstream-gone", "the database did not wait for this login")

    def _greet(self, payload: bytes) -> None:
        if payload[:1] == bytes((ERR,)):
            code, _, _ = parse_error(payload)
            raise ProtocolError("upstream-gone", f"the database takes no connections now (error {code})")
        self._greeting = greeting = parse_greeting(payload)
        if len(self._from_server):
            raise ProtocolError("unexpected-message", "the server spoke before it was spoken to")
        self._stage = Stage.RESPONSE
        self._client_sequence = 1
        self._session.status = greeting.status
        hello = build_greeting(greeting, self._nonce, CACHING_SHA2, tls=self._tls_context is not None)
        self._session.to_client.append(build_packets(hello, 0))

    def _read_login(self) -> bool:
        found = self._from_client.payload(self._client_sequence, self._limits.token)
        if found is None:
            return False
        payload, self._client_sequence = found
        if self._stage is Stage.PASSWORD:
            assert self._client_login is not None  # noqa: S101  (begun with the response)
            self._go_along(self._client_login.receive(payload))
            return True
        if self._tls is None and is_ssl_request(payload):
            if self._tls_context is None:
                raise ProtocolError("unexpected-message", "TLS was not offered here")
            early = self._from_client.take(len(self._from_client))
            self._from_client.append(self._begin_tls(ClientTls(self._tls_context), early))
            return True
        response = parse_response(payload)
        greeting = self._greeting
        assert greeting is not None  # noqa: S101  (the client is not heard before)
        self._session.capabilities = agreed(response, greeting)
        self._begin_login(response)
        return True

    def _begin_again(self, payload: bytes, sequence: int) -> None:
        """COM_CHANGE_USER: somebody logs in on a connection that is open, and nothing of what was is left."""
        self._session.drop_all()
        self._is_change = True
        self._client_sequence = sequence
        self._stage = Stage.PASSWORD
        self._begin_login(parse_change_user(payload, self._session.capabilities))
        self._receive_plain(self._client.take_rest())

    def _begin_login(self, response: Response) -> None:
        self._response = response
        codec = codec_of(response.charset)
        if codec is None:
            raise ProtocolError(
                "charset", "the client's character set is not one that can be read: use utf8mb4"
            )
        self._session.codec = codec
        if self._require_tls and self._tls is None:
            raise ProtocolError("tls-required", "this listener needs TLS: connect with ssl-mode=REQUIRED")
        if self._ask_password is not None and not self._ask_password():
            self._ask_who("")
            return
        self._client_login = ClientLogin(
            self._nonce,
            under_tls=self._tls is not None,
            is_protected=self._takes_cleartext,
            rsa_key=self._rsa_key,
        )
        self._stage = Stage.PASSWORD
        self._go_along(self._client_login.begin(response, again=self._is_change))

    def _go_along(self, step: Ask | Told) -> None:
        if isinstance(step, Told):
            self._ask_who(step.token)
            return
        self._session.to_client.append(build_packets(step.payload, self._client_sequence))
        self._client_sequence += 1

    def _ask_who(self, token: str) -> None:
        response = self._response
        assert response is not None  # noqa: S101  (set when the login began)
        self._stage = Stage.ASKED
        self._session.events.append(
            LoginReceived(
                user=response.user.decode("utf-8", "replace"),
                database=response.database.decode("utf-8", "replace"),
                attributes=response.attributes,
                token=token,
                encrypted=self._tls is not None,
            )
        )

    # the login upstream

    def _say_opening(self) -> None:
        """Once, when the way to the server is ready for it."""
        login = self._server_login
        if self._stage is Stage.UPSTREAM and login is not None and not login.has_begun:
            login.has_begun = True
            self._session.to_server.append(build_packets(login.opening(), self._server_sequence))
            self._server_sequence += 1

    def _log_in(self) -> bool:
        login = self._server_login
        assert login is not None  # noqa: S101  (set with the stage)
        found = self._from_server.payload(self._server_sequence, self._limits.token)
        if found is None:
            return False
        payload, self._server_sequence = found
        answers = login.receive(payload)
        if answers is None:
            self._let_in(payload)
            return False
        for answer in answers:
            self._session.to_server.append(build_packets(answer, self._server_sequence))
            self._server_sequence += 1
        return True

    def _let_in(self, payload: bytes) -> None:
        self._session.status = parse_ok(payload).status
        self._session.to_client.append(build_packets(payload, self._client_sequence))
        self._stage = Stage.SESSION
        self._session.events.append(LoggedIn(self.thread))
        self._server.receive(self._from_server.take(len(self._from_server)))
        self._client.receive(self._from_client.take(len(self._from_client)))
        self._pump()

    def _login_failed(self, error: LoginFailedError) -> None:
        """Its own words could name its users and hosts."""
        message = f"the database refused the login that extproc has for it (error {error.code})"
        self._say_error(Refusal(1105, "HY000", f"extproc: {message}"))
        self._finish(Ended("server", "upstream-login", message))

    # the session

    def _pump(self) -> None:
        while True:
            before = self._session.running, self._session.waiting, len(self._session.events)
            self._server.pump()
            self._client.pump()
            if self._client.login is not None:
                asked, self._client.login = self._client.login, None
                self._begin_again(*asked)
                return
            if self._client.has_quit:
                self._session.events.append(ClientLeft())
                self._finish(Ended("client"))
                return
            if before == (self._session.running, self._session.waiting, len(self._session.events)):
                return

    def _go_on(self) -> None:
        if self._stage is Stage.SESSION:
            try:
                self._pump()
            except ProtocolError as error:
                self._fail(error)

    # the end

    def _client_end(self) -> None:
        if self._stage is Stage.ENDED:
            return
        self._client.abandon()
        self._session.events.append(ClientLeft())
        self._finish(Ended("client"))

    def _server_end(self) -> None:
        if self._stage is Stage.ENDED:
            return
        if self._stage is Stage.SESSION:
            self._finish(Ended("server"))
            return
        self._fail(ProtocolError("upstream-gone", "the database cannot be reached"))

    def _fail(self, error: ProtocolError) -> None:
        code, sqlstate = _REFUSALS.get(error.code, _MALFORMED)
        self._say_error(Refusal(code, sqlstate, f"extproc: {error.message}"))
        self._finish(Ended("us", error.code, error.message))

    def _say_error(self, refusal: Refusal) -> None:
        """Where a packet of ours can stand: before and in the login, or when an answer is due and none has begun."""
        session = self._session
        if self._stage is Stage.GREETING:
            packet = build_error(refusal, codec=session.codec, is_greeting=True)
            session.to_client.append(build_packets(packet, 0))
        elif self._stage is Stage.SESSION:
            sequence = self._server.place_for_error
            if session.running is None:
                sequence = session.waiting.sequence if session.waiting is not None else 0
            if sequence is not None:
                session.refuse(refusal, sequence)
        elif self._stage is not Stage.ENDED:
            session.refuse(refusal, self._client_sequence)

    def _finish(self, ended: Ended) -> None:
        session = self._session
        waiting, session.waiting = session.waiting, None
        if waiting is not None:
            session.end(waiting.run, "abandoned", executed=False)
        running, session.running = session.running, None
        if running is not None and running.inquiry is None:
            session.end(running, "aborted", executed=True)
        for made in session.prepared.values():
            session.close_cursor(made)
        self._stage = Stage.ENDED
        session.events.append(ended)
