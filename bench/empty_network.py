"""A network processor that decides nothing: `python -m bench.empty_network --listen unix:/path`.

Every chunk goes back as it came, over the lean transport. What it costs is what Envoy's filter and the transport cost.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from bench.empty import idle_service
from extproc.protocols.h2 import CallHead
from extproc.protocols.h2.blocks import OK, UNAVAILABLE
from extproc.servers.lean_calls import METHODS, Call, Context, Wire
from extproc.servers.lean_transport import LeanServer
from extproc.servers.network_ext_proc import NETWORK_METHOD
from extproc.servers.service import Service
from extproc.servers.wire import network_ext_proc_pb2 as pb


class EchoCall:
    """One connection. Chunks have the same fields in both directions; only the first message has more, so it alone
    is read."""

    __slots__ = ("_is_first", "_stream_id", "_wire")

    def __init__(self, wire: Wire, stream_id: int) -> None:
        self._wire = wire
        self._stream_id = stream_id
        self._is_first = True

    def message(self, data: bytes) -> None:
        if self._is_first:
            self._is_first = False
            request, reply = pb.ProcessingRequest.FromString(data), pb.ProcessingResponse()
            for side in ("read_data", "write_data"):
                if request.HasField(side):
                    part = getattr(reply, side)
                    part.data = getattr(request, side).data
                    part.end_of_stream = getattr(request, side).end_of_stream
            data = reply.SerializeToString()
        self._wire.reply(self._stream_id, data)

    def half_closed(self) -> None:
        self._wire.finish(self._stream_id, OK)

    def gone(self) -> None:
        """Nothing is left behind."""

    def cut(self, reason: str) -> None:
        self._wire.finish(self._stream_id, UNAVAILABLE, reason)

    def expire(self) -> None:
        self.cut("the deadline has passed")


async def serve(address: str, service: Service) -> None:
    """Until SIGTERM."""

    def process(_: Context, wire: Wire, stream_id: int, head: CallHead) -> Call:
        return EchoCall(wire, stream_id)

    METHODS[NETWORK_METHOD] = process
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = LeanServer(service)
    server.listen(address)
    await server.start()
    print("ready", flush=True)
    await stopping.wait()
    await server.stop(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.empty_network", description=__doc__)
    parser.add_argument("--listen", required=True, help="unix:/path")
    given = parser.parse_args()
    with idle_service() as service:
        asyncio.run(serve(given.listen, service))
    return 0


if __name__ == "__main__":
    sys.exit(main())
