"""TCP sockets that somebody else holds: one server after another takes them, and nobody who connects is lost."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from extproc.config.certificates import processor_context
from extproc.config.settings import ServerTls
from extproc.servers.envoy_proto import PROCESS_METHOD
from extproc.servers.lean_calls import METHODS
from extproc.servers.lean_listening import bind_tcp
from extproc.servers.lean_transport import LeanServer
from tests.protocols.h2.support import DATA, GOAWAY, PREFACE, ack, data, frames_in, head, message, settings
from tests.servers.test_lean_transport import EchoStream, a_service, open_echo, until
from tests.support.mtls import ENVOY, Mutual, run

GREETING = PREFACE + settings() + ack()


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    EchoStream.alive.clear()
    monkeypatch.setitem(METHODS, PROCESS_METHOD, open_echo)


@pytest.fixture
def held() -> Iterator[list[socket.socket]]:
    """What the holder keeps open."""
    bound = bind_tcp("127.0.0.1:0", has_tls=False)
    yield bound
    for each in bound:
        each.close()


def taken(held: list[socket.socket], tls: ssl.SSLContext | None = None) -> LeanServer:
    """Another process's server, so to speak: its file descriptors are its own, the sockets are not."""
    server = LeanServer(a_service(), client_sans=(ENVOY,))
    server.take([each.dup() for each in held], tls)
    return server


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.heard = b""

    async def says(self, words: bytes) -> None:
        self._writer.write(words)
        await self._writer.drain()

    async def hears(self, payload: bytes) -> None:
        while payload not in self.heard:
            heard = await self._reader.read(1 << 16)
            assert heard, "the connection is closed"
            self.heard += heard

    @property
    def frames(self) -> list[tuple[int, int, int, bytes]]:
        return frames_in(self.heard)


@asynccontextmanager
async def connected(held: list[socket.socket], tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    name = "localhost" if tls is not None else None
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", held[0].getsockname()[1], ssl=tls, server_hostname=name
    )
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


def test_who_connects_after_a_hand_over_comes_to_the_other(loop: str, held: list[socket.socket]) -> None:
    async def main() -> None:
        old, new = taken(held), taken(held)
        await old.start()
        async with connected(held) as before:
            await before.says(GREETING + head(1) + data(1, message(b"one")))
            await before.hears(message(b"one"))
            await new.start()
            old.hand_over()
            for number in range(20):
                async with connected(held) as after:
                    await after.says(GREETING + head(1) + data(1, message(b"%d" % number)))
                    await after.hears(message(b"%d" % number))
                    assert GOAWAY not in {frame[0] for frame in after.frames}
                    assert (len(old.connections), len(new.connections)) == (1, 1)
                await until(lambda: not new.connections)
            # what is under way goes on where it is
            await before.says(data(1, message(b"two")))
            await before.hears(message(b"two"))
            await before.hears(b"\x7f\xff\xff\xff")
            assert [frame[3] for frame in before.frames if frame[0] == DATA] == [
                message(b"one"), message(b"two"),
            ]  # fmt: skip
            await old.stop(0)
        async with connected(held) as later:
            await later.says(GREETING + head(1) + data(1, message(b"and now")))
            await later.hears(message(b"and now"))
        await new.stop(0)

    run(loop, main())


def test_who_connects_while_nobody_serves_is_served_by_the_next(loop: str, held: list[socket.socket]) -> None:
    """A process that died is started anew; whoever waits in the kernel's queue need not know."""

    async def main() -> None:
        first = taken(held)
        await first.start()
        await first.stop(0)
        async with connected(held) as waiting:
            await waiting.says(GREETING + head(1) + data(1, message(b"patient")))
            second = taken(held)
            await second.start()
            await waiting.hears(message(b"patient"))
        await second.stop(0)
        for each in held:
            each.close()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)

    port = held[0].getsockname()[1]
    run(loop, main())


def test_each_server_shows_the_certificate_it_was_started_with(
    loop: str, held: list[socket.socket], tmp_path: Path
) -> None:
    mutual = Mutual(tmp_path)
    renewed, key = mutual.authority.issue("renewed", hosts=["localhost"])

    async def shown() -> int:
        async with connected(held, mutual.context()) as peer:
            await peer.says(GREETING + head(1) + data(1, message(b"x")))
            await peer.hears(message(b"x"))
            tls: ssl.SSLObject = peer._writer.get_extra_info("ssl_object")
            certificate = tls.getpeercert()
            assert certificate is not None
            return int(str(certificate["serialNumber"]), 16)

    async def main() -> None:
        old = taken(held, processor_context(mutual.tls))
        await old.start()
        before = await shown()
        tls = ServerTls(certificate=renewed, key=key, client_ca=mutual.authority.path, client_sans=(ENVOY,))
        new = taken(held, processor_context(tls))
        await new.start()
        old.hand_over()
        after = {await shown() for _ in range(5)}
        assert len(after) == 1 and after != {before}
        await old.stop(0)
        await new.stop(0)

    run(loop, main())


def test_who_is_about_to_connect_is_known_after_the_hand_over_too(
    loop: str, held: list[socket.socket], tmp_path: Path
) -> None:
    mutual = Mutual(tmp_path)

    async def main() -> None:
        server = taken(held, processor_context(mutual.tls))
        await server.start()
        assert not server.has_handshakes
        plain = socket.create_connection(held[0].getsockname())
        plain.setblocking(False)
        await until(lambda: server.has_handshakes)
        server.hand_over()
        reader, writer = await asyncio.open_connection(
            sock=plain, ssl=mutual.context(), server_hostname="localhost"
        )
        peer = Peer(reader, writer)
        await peer.says(GREETING + head(1) + data(1, message(b"one")))
        await peer.hears(message(b"one"))
        await until(lambda: not server.has_handshakes)
        writer.transport.abort()
        await server.stop(0)

    run(loop, main())


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_small_writes_do_not_wait_for_each_other(
    loop: str, held: list[socket.socket], tmp_path: Path, secure: bool
) -> None:
    mutual = Mutual(tmp_path)

    async def main() -> None:
        server = taken(held, processor_context(mutual.tls) if secure else None)
        await server.start()
        async with connected(held, mutual.context() if secure else None) as peer:
            await peer.says(GREETING)
            await until(lambda: bool(server.connections))
            (connection,) = server.connections
            assert connection._transport is not None
            accepted = connection._transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        await server.stop(0)

    run(loop, main())


def test_nothing_to_take_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no socket"):
        LeanServer(a_service()).take([])


def test_without_tls_only_loopback_is_taken() -> None:
    (bound,) = bind_tcp("0.0.0.0:0", has_tls=True)
    with bound, pytest.raises(RuntimeError, match="loopback only"):
        LeanServer(a_service()).take([bound])


def test_tls_that_lets_anybody_in_is_not_taken(held: list[socket.socket]) -> None:
    with pytest.raises(ValueError, match="prove"):
        LeanServer(a_service()).take(held, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
