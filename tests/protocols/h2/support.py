"""A client for the sans-io connection: the `h2` library, and frames by hand where h2 is too well-behaved."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import h2.config
import h2.connection
import h2.events
import hpack

from extproc.protocols.h2 import Connection, Event, Limits

PATH = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "extproc"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("x-extproc-target", "api"),
]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS_FRAME, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def ack() -> bytes:
    return frame(SETTINGS, 1)


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW, 0, stream, struct.pack(">I", increment))


def rst(stream: int, code: int = 8) -> bytes:
    return frame(RST, 0, stream, struct.pack(">I", code))


def block(headers: Iterable[tuple[str, str]] = HEADERS) -> bytes:
    """A header block as a peer sends it that heeds our table size: no dynamic table."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(list(headers))


BLOCK = block()


def head(stream: int = 1, flags: int = 4, headers: bytes = BLOCK) -> bytes:
    return frame(HEADERS_FRAME, flags, stream, headers)


def message(data: bytes) -> bytes:
    return struct.pack(">BI", 0, len(data)) + data


def data(stream: int, payload: bytes, *, end: bool = False) -> bytes:
    return frame(DATA, 1 if end else 0, stream, payload)


def greeted(limits: Limits | None = None) -> Connection:
    """A connection after the handshake, its own greeting taken."""
    connection = Connection(limits)
    assert connection.receive(PREFACE + settings() + ack()) == []
    connection.bytes_to_send()
    return connection


def frames_in(output: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream, payload of each frame we sent."""
    found = []
    while output:
        length = int.from_bytes(output[:3], "big")
        kind, flags = output[3], output[4]
        stream = int.from_bytes(output[5:9], "big")
        found.append((kind, flags, stream, output[9 : 9 + length]))
        assert len(output) >= 9 + length
        output = output[9 + length :]
    return found


def sent(connection: Connection, *kinds: int) -> list[tuple[int, int, int, bytes]]:
    """Frames waiting to be sent, of these kinds (all without any)."""
    return [f for f in frames_in(connection.bytes_to_send()) if not kinds or f[0] in kinds]


def goaway_code(connection: Connection) -> int:
    """The error code of the GOAWAY we sent."""
    (goaway,) = sent(connection, GOAWAY)
    return int.from_bytes(goaway[3][4:8], "big")


def rst_codes(connection: Connection) -> dict[int, int]:
    """Error code by stream of each RST_STREAM we sent."""
    return {f[2]: int.from_bytes(f[3], "big") for f in sent(connection, RST)}


class Client:
    """The h2 library wired to a `Connection`; everything it receives is kept."""

    def __init__(self, limits: Limits | None = None, *, chunk: int | None = None) -> None:
        self.server = Connection(limits)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.h2.initiate_connection()
        self.events: list[Event] = []
        self.seen: list[h2.events.Event] = []
        self.bodies: dict[int, bytes] = {}
        self._chunk = chunk
        self.auto_ack = True

    def exchange(self) -> list[Event]:
        """Carry bytes both ways until both are silent; the new events of the server."""
        fresh: list[Event] = []
        while True:
            up = self.h2.data_to_send()
            step = self._chunk or max(1, len(up))
            for start in range(0, len(up), step):
                fresh += self.server.receive(up[start : start + step])
            down = self.server.bytes_to_send()
            if not up and not down:
                self.events += fresh
                return fresh
            for event in self.h2.receive_data(down) if down else []:
                self.seen.append(event)
                if isinstance(event, h2.events.DataReceived):
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
                    if self.auto_ack:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def call(
        self, stream: int = 1, headers: Iterable[tuple[str, str]] = HEADERS, *, end: bool = False
    ) -> None:
        self.h2.send_headers(stream, list(headers), end_stream=end)

    def say(self, stream: int, payload: bytes, *, end: bool = False) -> None:
        """One message, in as many DATA frames as the windows and the frame size ask for."""
        rest = message(payload)
        while True:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(rest))
            self.h2.send_data(stream, rest[:room], end_stream=end and room == len(rest))
            rest = rest[room:]
            if not rest:
                return
            self.exchange()

    def of(self, kind: type, stream: int | None = None) -> list[Any]:
        """What the client saw."""
        return [
            e for e in self.seen if isinstance(e, kind) and stream in (None, getattr(e, "stream_id", None))
        ]

    def status(self, stream: int = 1) -> str:
        """The grpc-status a call ended with."""
        for event in self.of(h2.events.TrailersReceived, stream) + self.of(
            h2.events.ResponseReceived, stream
        ):
            found = dict(event.headers).get("grpc-status")
            if found is not None:
                return str(found)
        return ""
