"""A conversation as a list of lines, played whole, byte by byte, and with one cut at every place.

transcript(
    PostgresConnection,
    Client(build_query(b"DROP TABLE t")),
    Sees(StatementReceived, kind="simple", text="DROP TABLE t"),
    Forwards(b""),
    Answers("forward", 1),
    Forwards(build_query(b"DROP TABLE t")),
)

Where the network cuts makes no difference: every playing must give the same events and the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Client:
    """The client sends this."""

    data: bytes
    end: bool = False


@dataclass(frozen=True)
class Server:
    """The server sends this."""

    data: bytes
    end: bool = False


@dataclass(frozen=True)
class Forwards:
    """Since the last such line, exactly these bytes went to the server."""

    data: bytes


@dataclass(frozen=True)
class ToClient:
    """Since the last such line, exactly these bytes went to the client."""

    data: bytes


class Sees:
    """The next event is of this type and has these fields."""

    def __init__(self, kind: type, /, **fields: Any) -> None:
        self.kind = kind
        self.fields = fields

    def check(self, event: object) -> None:
        assert isinstance(event, self.kind), f"expected {self.kind.__name__}, got {event!r}"
        for name, expected in self.fields.items():
            assert getattr(event, name) == expected, f"{name} of {event!r} is not {expected!r}"


class Answers:
    """Calls a method of the connection; what it returns is compared when `returns` is given."""

    def __init__(self, method: str, /, *args: Any, **kwargs: Any) -> None:
        self.method = method
        self.args = args
        self.returns = kwargs.pop("returns", None)
        self.kwargs = kwargs

    def on(self, connection: Any) -> None:
        result = getattr(connection, self.method)(*self.args, **self.kwargs)
        if self.returns is not None:
            assert result == self.returns


@dataclass(frozen=True)
class Always:
    """From here on events of this type are answered at once and not seen (how many there are depends on the cuts)."""

    kind: type
    answer: Callable[[Any, Any], None]


Line = Client | Server | Forwards | ToClient | Sees | Answers | Always


@dataclass
class Playing:
    """One run through the lines."""

    connection: Any
    events: list[Any] = field(default_factory=list)
    to_client: bytearray = field(default_factory=bytearray)
    to_server: bytearray = field(default_factory=bytearray)
    always: dict[type, Callable[[Any, Any], None]] = field(default_factory=dict)

    def drain(self) -> None:
        while (event := self.connection.next_event()) is not None:
            answer = self.always.get(type(event))
            if answer is None:
                self.events.append(event)
            else:
                answer(self.connection, event)
        self.to_client += self.connection.bytes_to_client()
        self.to_server += self.connection.bytes_to_server()

    def hear(
        self, receive: Callable[[bytes, bool], None], data: bytes, end: bool, cuts: Sequence[int]
    ) -> None:
        at = 0
        for cut in cuts:
            receive(data[at:cut], False)
            self.drain()
            at = cut
        receive(data[at:], end)
        self.drain()

    def play(self, line: Line, cuts: Sequence[int]) -> None:
        match line:
            case Client(data, end):
                self.hear(self.connection.receive_from_client, data, end, cuts)
            case Server(data, end):
                self.hear(self.connection.receive_from_server, data, end, cuts)
            case Forwards(data):
                assert bytes(self.to_server) == data
                self.to_server.clear()
            case ToClient(data):
                assert bytes(self.to_client) == data
                self.to_client.clear()
            case Sees():
                assert self.events, f"expected {line.kind.__name__}, got no event"
                line.check(self.events.pop(0))
            case Answers():
                line.on(self.connection)
                self.drain()
            case Always(kind, answer):
                self.always[kind] = answer

    def is_over(self) -> None:
        assert not self.events
        assert bytes(self.to_client) == b""
        assert bytes(self.to_server) == b""


def _ways(lines: Sequence[Line]) -> Iterator[dict[int, Sequence[int]]]:
    """Cuts by line number: none, everywhere, and each single one."""
    sent = {number: line.data for number, line in enumerate(lines) if isinstance(line, Client | Server)}
    yield {}
    yield {number: range(1, len(data)) for number, data in sent.items()}
    for number, data in sent.items():
        for cut in range(1, len(data)):
            yield {number: (cut,)}


def transcript(make: Callable[[], Any], *lines: Line, prologue: Sequence[Line] = ()) -> Any:
    """Plays the lines in every way. `prologue` is played whole and first, each time. Returns the last connection."""
    playing: Playing | None = None
    for cuts in _ways(lines):
        playing = Playing(make())
        for line in prologue:
            playing.play(line, ())
        for number, line in enumerate(lines):
            try:
                playing.play(line, cuts.get(number, ()))
            except AssertionError as error:
                error.add_note(f"line {number}: {type(line).__name__}, cuts {dict(cuts)}")
                raise
        playing.is_over()
    assert playing is not None
    return playing.connection
