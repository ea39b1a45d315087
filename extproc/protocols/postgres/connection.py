"""One Postgres connection between a client and a server: bytes in, events and bytes out. No I/O, no clock.

connection.receive_from_client(chunk)
while (event := connection.next_event()) is not None:
    ...  # answer it, now or later
send(connection.bytes_to_server())
send(connection.bytes_to_client())
"""

from __future__ import annotations

from collections.abc import Sequence

from extproc.protocols.postgres.events import BackendKey, Event
from extproc.protocols.postgres.limits import Limits, UpstreamLogin


class PostgresConnection:
    """Messages of protocol 3.0 and 3.2. Whatever breaks it ends it: `Ended`, with a FATAL error for the client.

    After every call (receive or answer) drain `next_event()` and both `bytes_to_*`.
    """

    def __init__(
        self, limits: Limits | None = None, *, ask_password: bool = True, read_messages: bool = False
    ) -> None:
        """`ask_password=False` raises LoginReceived at once (identity by mTLS).

        `read_messages` raises MessageReceived for every error, notice and notification of the server.
        """
        raise NotImplementedError

    def receive_from_client(self, data: bytes, end: bool = False) -> None:
        """Bytes of the client; `end` when it will send no more (its close looks the same)."""
        raise NotImplementedError

    def receive_from_server(self, data: bytes, end: bool = False) -> None:
        """Bytes of the server; `end` when it closed."""
        raise NotImplementedError

    def next_event(self) -> Event | None:
        """The oldest event not yet taken."""
        raise NotImplementedError

    def bytes_to_client(self) -> bytes:
        """What to send to the client now. Taking it empties it."""
        raise NotImplementedError

    def bytes_to_server(self) -> bytes:
        """What to send to the server now. Taking it empties it."""
        raise NotImplementedError

    # answers to LoginReceived

    def accept_login(self, login: UpstreamLogin) -> None:
        """Log in upstream; the client hears of it when the server has let us in (LoggedIn)."""
        raise NotImplementedError

    def refuse_login(self, sqlstate: str, message: str, detail: str = "", hint: str = "") -> None:
        """FATAL ErrorResponse, then `Ended(by="us")`. Nothing went to the server."""
        raise NotImplementedError

    # answers to StatementReceived. False: it is no longer waiting (client gone, batch skipped)

    def forward(self, id: int, *, rows: bool = False) -> bool:
        """Let it go on. `rows` raises RowsDescribed for each of its result sets, otherwise rows pass untouched."""
        raise NotImplementedError

    def deny(self, id: int, sqlstate: str, message: str, detail: str = "", hint: str = "") -> bool:
        """The server is given a statement it must refuse, and its ErrorResponse becomes this one."""
        raise NotImplementedError

    # answers to RowsDescribed, RowsReceived, MessageReceived

    def pass_rows(self, id: int) -> None:
        """This result set goes on untouched."""
        raise NotImplementedError

    def read_rows(self, id: int) -> None:
        """Raise RowsReceived for this result set."""
        raise NotImplementedError

    def replace_rows(self, id: int, rows: Sequence[Sequence[bytes | None] | None]) -> None:
        """One item per row of the event, in order: its new values, or None to let that row pass as it is."""
        raise NotImplementedError

    def replace_message(self, fields: dict[str, str] | None) -> None:
        """The fields to send instead; None lets the message pass as it is."""
        raise NotImplementedError

    # answers to CancelReceived

    def forward_cancel(self) -> None:
        """Send the CancelRequest on; then `Ended`."""
        raise NotImplementedError

    def drop_cancel(self) -> None:
        """Send nothing (the held statement was found here); then `Ended`."""
        raise NotImplementedError

    # at any time

    def notice(self, message: str, detail: str = "", hint: str = "", sqlstate: str = "00000") -> None:
        """A NoticeResponse of ours at the next message boundary, for instance while a statement waits."""
        raise NotImplementedError

    def terminate(self, sqlstate: str, message: str, detail: str = "", hint: str = "") -> None:
        """End it: FATAL for the client where a message boundary allows, Terminate for the server, `Ended`."""
        raise NotImplementedError

    @property
    def backend_key(self) -> BackendKey | None:
        """The session's cancel key, once the server told it."""
        raise NotImplementedError

    @property
    def settings(self) -> dict[str, str]:
        """Parameters the server reported (ParameterStatus), the latest values."""
        raise NotImplementedError

    @property
    def waiting_for(self) -> int | None:
        """The id of the statement that waits for an answer, if one does."""
        raise NotImplementedError

    @property
    def is_idle(self) -> bool:
        """Logged in, nothing outstanding at the server, nothing half read, no transaction."""
        raise NotImplementedError

    @property
    def has_ended(self) -> bool:
        """`Ended` was raised."""
        raise NotImplementedError

    @property
    def end_to_server(self) -> bool:
        """After the bytes to the server, say that no more will come (the client ended its side)."""
        raise NotImplementedError

    @property
    def end_to_client(self) -> bool:
        """After the bytes to the client, say that no more will come (the server ended its side, or we do)."""
        raise NotImplementedError
