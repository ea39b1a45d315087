"""Envoy's network external processing: one `NetworkStream` per database connection, the same for every transport.

What Envoy shows is bytes in two directions; what they mean is a `Conversation`'s business. Here are the rules of this
hop, each one tried on Envoy 1.40 (docs/envoy.md):

* bytes that are not sent back are dropped, so everything that goes on is sent explicitly;
* one direction per message: of two in one message Envoy takes the first alone;
* the end of a direction is handed on, or both connections leak;
* CLOSE comes in a message of its own, after the last bytes: with data in the same message the data is lost;
* after CLOSE we read on until Envoy ends the stream; we never end it with OK first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import structlog
from google.protobuf.message import DecodeError

from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.nouns import noun
from extproc.domain.record import Record
from extproc.domain.request import Source
from extproc.servers.envoy_proto import METADATA_NAMESPACE, CallMetadata, struct_values
from extproc.servers.service import Service
from extproc.servers.wire import network_ext_proc_pb2 as pb

log = structlog.get_logger()

NETWORK_METHOD = "/envoy.service.network_ext_proc.v3.NetworkExternalProcessor/Process"
ATTRIBUTES_KEY = "envoy.filters.network.ext_proc"
LARGEST = 1 << 20
"""Bytes in one message to Envoy; more is sent in several."""


class NetworkChannel(Protocol):
    """The way back to Envoy. Messages keep their order; `abort` ends the RPC with a non-OK status."""

    def send(self, reply: bytes) -> None: ...

    def abort(self, reason: str) -> None: ...


@noun(slots=True, init=False, unsafe_hash=True)
class Output:
    """What a conversation wants to happen, in this order: bytes and ends of both directions, then the close."""

    to_server: Final[bytes]
    to_client: Final[bytes]
    end_server: Final[bool]
    end_client: Final[bool]
    close: Final[bool]
    reach_server: Final[bool]
    """The server is to be reached although there is nothing to say to it: it speaks first."""
    records: Final[tuple[Record, ...]]
    """Written before any of it happens."""

    def __init__(
        self,
        to_server: bytes = b"",
        to_client: bytes = b"",
        end_server: bool = False,
        end_client: bool = False,
        close: bool = False,
        reach_server: bool = False,
        records: tuple[Record, ...] = (),
    ) -> None:
        self.to_server = to_server
        self.to_client = to_client
        self.end_server = end_server
        self.end_client = end_client
        self.close = close
        self.reach_server = reach_server
        self.records = records


class Conversation(Protocol):
    """What two ends of a connection say to each other. Errors of the peers are its own business; it never raises
    for them."""

    session_id: str

    def opened(self) -> Output:
        """The connection is there, and nobody has said anything yet. Not asked where Envoy shows the first bytes."""

    def client_data(self, data: bytes, end: bool) -> Output:
        """Bytes of the client; `end` when it will say no more."""

    def server_data(self, data: bytes, end: bool) -> Output:
        """Bytes of the server; `end` when it will say no more."""

    def unrecorded(self) -> bytes:
        """Nothing can be written down, so nothing may happen: the last bytes to the client before the close."""

    def gone(self, reason: str) -> tuple[Record, ...]:
        """The connection is no more: what is left to be recorded."""

    def go_away(self, *, at_once: bool) -> None:
        """We are about to stop: say so and close, as soon as nothing runs or now."""


Opener = Callable[[Service, CallMetadata, Source, Callable[[Output], None]], Conversation | None]
"""Opens the conversation for a new connection, or None when its target is none of ours. The last argument takes what
the conversation has to say later, outside of a call."""


class Carrier(Protocol):
    """Whoever carries a conversation's outputs."""

    def carry_out(self, output: Output) -> None:
        """Its records are written: do it."""

    def unrecorded(self) -> None:
        """They could not be: none of it happens, and the connection ends."""


class Posted:
    """An output in the outbox: carried out once its records are written, or the end of the connection."""

    __slots__ = ("_carrier", "_output")

    def __init__(self, carrier: Carrier, output: Output) -> None:
        self._carrier = carrier
        self._output = output

    def send(self) -> None:
        self._carrier.carry_out(self._output)

    def refuse(self) -> None:
        self._carrier.unrecorded()


class NetworkStream:
    """One `Process` RPC: one connection between a client and its server."""

    __slots__ = (
        "_call", "_channel", "_client_ended", "_conversation", "_named", "_open", "_server_ended", "_service",
        "closing", "ended",
    )  # fmt: skip

    def __init__(self, service: Service, call: CallMetadata, channel: NetworkChannel, opener: Opener) -> None:
        self._service = service
        self._call = call
        self._channel = channel
        self._open = opener
        self._conversation: Conversation | None = None
        self._named = False
        self._client_ended = False
        self._server_ended = False
        self.closing = False
        """CLOSE is on its way: nothing that comes any more goes anywhere."""
        self.ended = False
        service.connections.add(self)

    def receive(self, data: bytes) -> None:
        """One message from Envoy. Never raises: what goes wrong closes the connection."""
        if self.ended or self.closing:
            return
        try:
            message = pb.ProcessingRequest.FromString(data)
        except DecodeError:
            self._abort("the message does not parse")
            return
        try:
            self._handle(message)
        except Exception:
            log.exception("conversation.failed")
            self._abort("internal error")

    def closed(self, reason: str) -> None:
        """Envoy ended the stream, in whatever way: nothing can be said any more."""
        self._service.connections.discard(self)
        if self.ended:
            return
        self.ended = True
        if self._conversation is not None:
            self._service.note(self._conversation.gone(reason))

    def go_away(self, *, at_once: bool) -> None:
        """We are about to stop: say so and close, as soon as nothing runs or now."""
        if self.ended or self.closing:
            return
        if self._conversation is None:
            self._post(Output(close=True))
            self._service.flush()
        else:
            self._conversation.go_away(at_once=at_once)

    # ------------------------------------------------------------------

    def _handle(self, message: pb.ProcessingRequest) -> None:
        conversation = self._conversation
        if conversation is None:
            conversation = self._open(self._service, self._call, _source(message), self._later)
            if conversation is None:
                log.warning("connection.without_target", target=self._call.target)
                self._post(Output(close=True))
                return
            self._conversation = conversation
        # Envoy sets one of them; both would be a message we do not know
        if message.HasField("read_data") == message.HasField("write_data"):
            self._abort("the message has no direction")
            return
        if message.HasField("read_data"):
            if not self._client_ended:
                part = message.read_data
                self._client_ended = part.end_of_stream
                self._post(conversation.client_data(part.data, part.end_of_stream))
        elif not self._server_ended:
            part = message.write_data
            self._server_ended = part.end_of_stream
            self._post(conversation.server_data(part.data, part.end_of_stream))

    def _later(self, output: Output) -> None:
        """What a conversation says by itself: an approval came, a notice is due."""
        if self.ended or self.closing:
            self._service.note(output.records)
            return
        self._post(output)
        self._service.flush()

    def _post(self, output: Output) -> None:
        append = self._service.ledger.append
        try:
            for record in output.records:
                append(record)
        except LedgerUnavailableError:
            self.unrecorded()
            return
        self._service.post(Posted(self, output))

    def carry_out(self, output: Output) -> None:
        """Send what was decided; its records are written."""
        if self.ended or self.closing:
            return
        self._say("read_data", output.to_server, output.end_server)
        self._say("write_data", output.to_client, output.end_client)
        if output.close:
            self._close()

    def unrecorded(self) -> None:
        """What this connection decided could not be written down, so none of it happens."""
        if self.ended or self.closing:
            return
        farewell = self._conversation.unrecorded() if self._conversation is not None else b""
        self._say("write_data", farewell, False)
        self._close()

    def _say(self, direction: str, data: bytes, end: bool) -> None:
        if not data and not end:
            return
        for start in range(0, len(data) or 1, LARGEST):
            reply = pb.ProcessingResponse()
            part = reply.read_data if direction == "read_data" else reply.write_data
            part.data = data if len(data) <= LARGEST else data[start : start + LARGEST]
            part.end_of_stream = end and start + LARGEST >= len(data)
            if not self._named and self._conversation is not None:
                self._named = True
                inner = reply.dynamic_metadata.fields[METADATA_NAMESPACE].struct_value
                inner.fields["session_id"].string_value = self._conversation.session_id
            self._channel.send(reply.SerializeToString())

    def _close(self) -> None:
        self.closing = True
        reply = pb.ProcessingResponse()
        reply.connection_status = pb.ProcessingResponse.CLOSE
        self._channel.send(reply.SerializeToString())
        if self._conversation is not None:
            self._service.note(self._conversation.gone("closed"))

    def _abort(self, reason: str) -> None:
        self.ended = True
        self._service.connections.discard(self)
        if self._conversation is not None:
            self._service.note(self._conversation.gone(reason))
        self._channel.abort(reason)


def _source(message: pb.ProcessingRequest) -> Source:
    """Where the connection comes from; Envoy says it with the first bytes only."""
    if ATTRIBUTES_KEY not in message.attributes:
        return Source()
    values = struct_values(message.attributes[ATTRIBUTES_KEY])
    address, san = values.get("source.address"), values.get("connection.uri_san_peer_certificate")
    return Source(
        address=address if isinstance(address, str) else "",
        mtls=values.get("connection.mtls") is True,
        peer_uri_san=san if isinstance(san, str) else "",
    )
