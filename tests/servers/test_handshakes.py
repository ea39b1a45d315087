"""However many peers begin a TLS handshake and do not go on, honest ones get in, and nothing is left open."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from typing import Any, cast

import pytest

from extproc.config.certificates import processor_context
from extproc.servers import lean_listening
from extproc.servers.lean_listening import TlsListener, bind_tcp, prepare
from tests.servers.test_lean_transport import until
from tests.support.mtls import Mutual, run

FEW = 4


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the log says."""
    kept: list[str] = []

    class Log:
        def warning(self, event: str, **_: Any) -> None:
            kept.append(event)

        error = warning

    monkeypatch.setattr(lean_listening, "log", Log())
    monkeypatch.setattr(lean_listening, "MOST_HANDSHAKES", FEW)
    return kept


class Greeter(asyncio.Protocol):
    """Says one word once the handshake is through."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(b"welcome")  # uvloop's are no subclass of it


class Door:
    """A listener, and who comes to it."""

    def __init__(self, mutual: Mutual, handshake: float = 30.0) -> None:
        (self.bound,) = bind_tcp("127.0.0.1:0", has_tls=True)
        self.port = int(self.bound.getsockname()[1])
        self.listener = TlsListener(
            self.bound, processor_context(mutual.tls), Greeter, handshake=handshake, farewell=1.0
        )
        self.listener.start()
        self._context = mutual.context()

    @property
    def shaking(self) -> int:
        return self.listener.unfinished

    async def silent(self, words: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Somebody who connects and does not go on."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(words)
        return reader, writer

    async def honest(self) -> None:
        """Somebody who is let in."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self._context, server_hostname="localhost"
        )
        assert await reader.readexactly(7) == b"welcome"
        writer.transport.abort()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(reader.read(), 10) == b""
    return True


def open_sockets() -> int:
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
    return found


@pytest.mark.parametrize("words", [b"", b"\x16\x03\x01"], ids=["nothing", "half a record"])
def test_the_oldest_makes_room(loop: str, mutual: Mutual, told: list[str], words: bytes) -> None:
    async def main() -> None:
        door = Door(mutual)
        silent = []
        for _ in range(3 * FEW):
            silent.append(await door.silent(words))
            await until(lambda: 0 < door.shaking <= FEW)
            await asyncio.sleep(0.01)
        for reader, _ in silent[: 2 * FEW]:
            assert await is_closed(reader)
        assert not any(reader.at_eof() for reader, _ in silent[2 * FEW :])
        for _ in range(3):
            await door.honest()
        # the honest ones made room for themselves, and only the first time was told
        assert told == ["handshakes.crowded"]
        for _, writer in silent:
            writer.transport.abort()
        await until(lambda: door.shaking == 0)
        door.listener.close()

    run(loop, main())


def test_whoever_is_in_stays_in(loop: str, mutual: Mutual, told: list[str]) -> None:
    async def main() -> None:
        door = Door(mutual)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", door.port, ssl=mutual.context(), server_hostname="localhost"
        )
        assert await reader.readexactly(7) == b"welcome"
        silent = [await door.silent() for _ in range(20 * FEW)]
        await until(lambda: door.shaking == FEW)
        await door.honest()
        assert not reader.at_eof() and not writer.is_closing()
        for _, each in [*silent, (reader, writer)]:
            each.transport.abort()
        door.listener.close()

    run(loop, main())


def test_nothing_is_left_open(loop: str, mutual: Mutual, told: list[str]) -> None:
    async def main() -> None:
        before = open_sockets()
        door = Door(mutual)
        for _ in range(5):
            silent = [await door.silent(b"\x16\x03") for _ in range(5 * FEW)]
            await door.honest()
            for _, writer in silent:
                writer.transport.abort()
        door.listener.break_off()
        door.listener.close()
        door.listener.close()
        await until(lambda: door.shaking == 0)
        await until(lambda: open_sockets() <= before)

    run(loop, main())


def test_what_is_broken_off_before_it_began_is_closed_too(loop: str, mutual: Mutual) -> None:
    async def main() -> None:
        door = Door(mutual)
        with socket.create_connection(("127.0.0.1", door.port)) as peer:
            peer.setblocking(False)
            while not door.shaking:
                door.listener._accept()  # and nothing else gets a turn
            door.listener.break_off()
            await until(lambda: door.shaking == 0)
            peer.settimeout(10)
            assert peer.recv(1) == b""
        door.listener.close()

    run(loop, main())


def test_one_that_takes_too_long_is_ended(loop: str, mutual: Mutual, told: list[str]) -> None:
    async def main() -> None:
        door = Door(mutual, handshake=0.2)
        reader, writer = await door.silent(b"\x16\x03\x01")
        assert await is_closed(reader)
        await until(lambda: door.shaking == 0)
        assert told == []
        writer.close()
        door.listener.close()

    run(loop, main())


def test_closing_lets_those_who_shake_finish(loop: str, mutual: Mutual) -> None:
    """The place was handed on: who is already here is served here."""

    async def main() -> None:
        door = Door(mutual)
        plain = socket.create_connection(("127.0.0.1", door.port))
        plain.setblocking(False)
        await until(lambda: door.shaking == 1)
        door.listener.close()
        with pytest.raises(OSError):
            await door.silent()
        reader, writer = await asyncio.open_connection(
            sock=plain, ssl=mutual.context(), server_hostname="localhost"
        )
        assert await reader.readexactly(7) == b"welcome"
        writer.transport.abort()

    run(loop, main())


def test_without_a_file_descriptor_it_waits_and_goes_on(
    loop: str, mutual: Mutual, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean_listening, "REST", 0.05)

    class Poor(socket.socket):
        """Has none left, for a while."""

        failures = 3

        def accept(self) -> Any:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return super().accept()

    async def main() -> None:
        (bound,) = bind_tcp("127.0.0.1:0", has_tls=True)
        poor = Poor(fileno=bound.detach())
        listener = TlsListener(poor, processor_context(mutual.tls), Greeter, handshake=10.0, farewell=1.0)
        listener.start()
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", poor.getsockname()[1], ssl=mutual.context(), server_hostname="localhost"
        )
        assert await reader.readexactly(7) == b"welcome"
        assert told == ["accept.failed"] * 3
        writer.transport.abort()
        listener.close()

    run(loop, main())


def test_a_stranger_is_told_in_the_log_and_nobody_waits(loop: str, mutual: Mutual, told: list[str]) -> None:
    async def main() -> None:
        door = Door(mutual)
        prepare(door.listener.context)
        context = ssl.create_default_context(cafile=str(mutual.authority.path))
        context.set_alpn_protocols(["h2"])
        with contextlib.suppress(OSError):  # TLS 1.3 says so to a client only once it reads
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", door.port, ssl=context, server_hostname="localhost"
            )
            assert await is_closed(reader)
            writer.transport.abort()
        await until(lambda: door.shaking == 0)
        assert told == ["handshake.failed"]
        await door.honest()
        door.listener.close()

    run(loop, main())
