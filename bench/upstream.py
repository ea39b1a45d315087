"""A lean HTTP/1.1 server, so that the upstream is not what is measured: `python -m bench.upstream`.

It finds the end of a request, skips its body and writes a prepared reply in the same callback: no task, no parsing
of headers. Any path it does not know gets an empty 200, which is also what an OTLP collector answers.
An Envoy with `direct_response` would be leaner still, but it answers a POST before its body came and then closes
the connection, so that connecting would be measured instead.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from bench.cases import BODIES


def reply_of(body: bytes) -> bytes:
    """A whole 200 with this JSON body."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


REPLIES = {path.encode(): reply_of(body) for path, body in BODIES.items()}
EMPTY = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"


class LeanServer(asyncio.Protocol):
    """One connection."""

    __slots__ = ("_buffer", "_transport")

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._buffer = buffer = self._buffer + data if self._buffer else data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            whole = end + 4 + self._body_size(buffer, end)
            if len(buffer) < whole:
                break
            path = buffer[buffer.find(b" ") + 1 : buffer.find(b" HTTP/1.1")]
            self._transport.write(REPLIES.get(path, EMPTY))
            self._buffer = buffer = buffer[whole:]

    def _body_size(self, buffer: bytes, end: int) -> int:
        """Bytes after the head. Envoy and the exporter both send a length, with names in any case."""
        head = buffer[: end + 2].lower()
        if (at := head.find(_LENGTH)) >= 0:
            return int(head[at + len(_LENGTH) : head.find(b"\r\n", at + 2)])
        return 0


async def serve(port: int) -> None:
    """Until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    server = await loop.create_server(LeanServer, "127.0.0.1", port)
    print("ready", flush=True)
    await stopping.wait()
    server.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.upstream")
    parser.add_argument("--port", type=int, required=True)
    asyncio.run(serve(parser.parse_args().port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
