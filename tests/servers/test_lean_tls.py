"""What a hostile or broken peer can do to the lean transport under TLS: nothing that ends well."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from extproc.servers import lean_listening
from extproc.servers.envoy_proto import PROCESS_METHOD
from extproc.servers.lean_calls import METHODS
from extproc.servers.lean_transport import LeanServer
from tests.protocols.h2.support import (
    DATA,
    HEADERS_FRAME,
    PREFACE,
    ack,
    data,
    frames_in,
    head,
    message,
    settings,
    window_update,
)
from tests.servers.test_lean_transport import (
    LARGE,
    UNAVAILABLE_TEXT,
    EchoStream,
    a_service,
    is_ok,
    open_echo,
    until,
)
from tests.support.mtls import Mutual, run, serving

GREETING = PREFACE + settings() + ack()
RECORD_HEAD = 5
"""Bytes of a TLS record's head."""
FRAME, MESSAGE_HEAD = 16 << 10, 5


@pytest.fixture(autouse=True)
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    EchoStream.alive.clear()
    monkeypatch.setitem(METHODS, PROCESS_METHOD, open_echo)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why handshakes failed."""
    kept: list[str] = []

    class Log:
        def warning(self, event: str, reason: str) -> None:
            assert event == "handshake.failed"
            kept.append(reason)

    monkeypatch.setattr(lean_listening, "log", Log())
    return kept


class Peer:
    """A TLS client whose TCP connection and records are ours to break."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        self.plain = b""

    async def connect(self) -> Peer:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    def hello(self) -> bytes:
        """The first flight."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._out.read()

    async def shake(self, step: int = 1 << 20) -> Peer:
        """The handshake, `step` bytes at a time. ssl.SSLError or OSError when it fails."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush(step)
                await self._more()
            else:
                await self._flush(step)
                return self

    async def say(self, plain: bytes) -> None:
        self.tls.write(plain)
        await self._flush()

    async def hear(self) -> bytes:
        """What has come since; empty once the server has closed."""
        while True:
            try:
                return self.tls.read(1 << 20)
            except ssl.SSLWantReadError:
                await self._more()
            except ssl.SSLError:
                return b""

    async def rest(self) -> list[tuple[int, int, int, bytes]]:
        """Every frame until the server closes."""
        while plain := await self.hear():
            self.plain += plain
        return frames_in(self.plain)

    async def until_reply(self, payload: bytes) -> None:
        while payload not in self.plain:
            heard = await self.hear()
            assert heard, "the connection is closed"
            self.plain += heard

    async def say_goodbye(self) -> None:
        """Our close_notify."""
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        await self._flush()

    async def _flush(self, step: int = 1 << 20) -> None:
        out = self._out.read()
        for start in range(0, len(out), step):
            self.writer.write(out[start : start + step])
            await self.writer.drain()
            if step < len(out):
                await asyncio.sleep(0)

    async def _more(self) -> None:
        try:
            heard = await self.reader.read(1 << 16)
        except ConnectionError:
            heard = b""
        if heard:
            self._in.write(heard)
        else:
            self._in.write_eof()


@contextlib.asynccontextmanager
async def lean(mutual: Mutual, **options: Any) -> AsyncIterator[tuple[LeanServer, int]]:
    async with serving("lean", a_service(), mutual.tls, **options) as (server, port):
        assert isinstance(server, LeanServer)
        yield server, port


# ---------------------------------------------------------------------- before there is a connection


@pytest.mark.parametrize("alpn", ["", "http/1.1", "postgresql"])
def test_who_does_not_ask_for_h2_is_not_listened_to(loop: str, mutual: Mutual, alpn: str) -> None:
    async def main() -> None:
        async with lean(mutual) as (server, port):
            peer = await Peer(port, mutual.context(alpn=alpn)).connect()
            with contextlib.suppress(ssl.SSLError, OSError):
                await peer.shake()
                await peer.say(GREETING + head(1) + data(1, message(b"x")))
            assert await peer.rest() == []
            assert not server.connections and not EchoStream.alive

    run(loop, main())


@pytest.mark.parametrize(
    "plain",
    [
        GREETING + head(1) + data(1, message(b"x")),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"\0" * 200,
    ],
    ids=["HTTP/2", "HTTP/1.1", "a record that is none"],
)  # fmt: skip
def test_plain_text_is_not_listened_to(loop: str, mutual: Mutual, plain: bytes, told: list[str]) -> None:
    async def main() -> None:
        async with lean(mutual) as (server, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(plain)
            with contextlib.suppress(ConnectionError):
                heard = await reader.read()
                assert heard == b"" or heard[0] == 21  # an alert (RFC 8446 section 5.1)
            assert not server.connections and not EchoStream.alive
            assert len(told) == 1

    run(loop, main())


def test_who_has_no_certificate_is_told_apart_in_the_log(loop: str, mutual: Mutual, told: list[str]) -> None:
    async def main() -> None:
        context = ssl.create_default_context(cafile=str(mutual.authority.path))
        context.set_alpn_protocols(["h2"])
        async with lean(mutual) as (_, port):
            peer = await Peer(port, context).connect()
            with contextlib.suppress(ssl.SSLError, OSError):
                await peer.shake()
            assert await peer.rest() == []
            assert told == ["PEER_DID_NOT_RETURN_A_CERTIFICATE"]

    run(loop, main())


def test_older_tls_than_1_2_is_refused(loop: str, mutual: Mutual) -> None:
    async def main() -> None:
        context = mutual.context()
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        async with lean(mutual) as (server, port):
            peer = await Peer(port, context).connect()
            with pytest.raises((ssl.SSLError, OSError)):
                await peer.shake()
            assert not server.connections

    with pytest.warns(DeprecationWarning):
        run(loop, main())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken_and_leave_no_ticket(
    loop: str, mutual: Mutual, version: ssl.TLSVersion
) -> None:
    async def main() -> None:
        context = mutual.context()
        context.minimum_version = context.maximum_version = version
        async with lean(mutual) as (_, port):
            peer = await (await Peer(port, context).connect()).shake()
            await peer.say(GREETING + head(1) + data(1, message(b"hello")))
            await peer.until_reply(message(b"hello"))
            assert peer.tls.session is None or not peer.tls.session.has_ticket

    run(loop, main())


def test_ciphers_that_http2_forbids_are_not_agreed_on(loop: str, mutual: Mutual, told: list[str]) -> None:
    async def main() -> None:
        context = mutual.context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES256-SHA")
        async with lean(mutual) as (_, port):
            peer = await Peer(port, context).connect()
            with pytest.raises((ssl.SSLError, OSError)):
                await peer.shake()
            assert told == ["NO_SHARED_CIPHER"]

    run(loop, main())


@pytest.mark.parametrize("part", [0, RECORD_HEAD, 100])
def test_a_handshake_that_never_ends_is_ended(loop: str, mutual: Mutual, part: int) -> None:
    async def main() -> None:
        async with lean(mutual, handshake=0.3) as (server, port):
            peer = await Peer(port, mutual.context()).connect()
            peer.writer.write(peer.hello()[:part])
            with contextlib.suppress(ConnectionError):
                await peer.reader.read()
            assert not server.connections

    run(loop, main())


def test_a_peer_that_says_nothing_after_its_handshake_is_let_go(loop: str, mutual: Mutual) -> None:
    async def main() -> None:
        async with lean(mutual, handshake=0.3) as (server, port):
            peer = await (await Peer(port, mutual.context()).connect()).shake()
            await peer.rest()
            await until(lambda: not server.connections)

    run(loop, main())


def test_half_handshakes_keep_nobody_else_out(loop: str, mutual: Mutual) -> None:
    async def main() -> None:
        async with lean(mutual) as (server, port):
            waiting = [await Peer(port, mutual.context()).connect() for _ in range(60)]
            for number, peer in enumerate(waiting):
                peer.writer.write(peer.hello()[: 3 * number])
            peer = await (await Peer(port, mutual.context()).connect()).shake()
            await peer.say(GREETING + head(1) + data(1, message(b"hello")))
            await peer.until_reply(message(b"hello"))
            assert len(server.connections) == 1
            for each in waiting:
                each.writer.close()

    run(loop, main())


def test_a_handshake_may_come_byte_by_byte(loop: str, mutual: Mutual) -> None:
    async def main() -> None:
        async with lean(mutual) as (_, port):
            peer = await (await Peer(port, mutual.context()).connect()).shake(step=1)
            await peer.say(GREETING + head(1) + data(1, message(b"hello")))
            await peer.until_reply(message(b"hello"))

    run(loop, main())


def test_a_handshake_that_ends_after_the_server_stopped_is_no_connection(loop: str, mutual: Mutual) -> None:
    async def main() -> None:
        async with lean(mutual) as (server, port):
            peer = await Peer(port, mutual.context()).connect()
            hello = peer.hello()
            peer.writer.write(hello[:40])
            await peer.writer.drain()
            served = await (await Peer(port, mutual.context()).connect()).shake()  # so the other is accepted
            await server.stop(0)
            served.writer.close()
            with contextlib.suppress(ssl.SSLError, OSError):
                peer.writer.write(hello[40:])
                await peer.shake()
                await peer.say(GREETING + head(1) + data(1, message(b"x")))
            assert await peer.rest() == []
            assert not server.connections and not EchoStream.alive

    run(loop, main())


# ---------------------------------------------------------------------- in the middle of a stream

CUTS = ["close_notify", "end of file", "reset", "a record that does not decrypt", "half a record"]


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("said", [b"x", b"silence", b"later"])
def test_a_connection_that_is_cut_ends_no_stream_well(
    loop: str, mutual: Mutual, how: str, said: bytes
) -> None:
    async def main() -> None:
        async with lean(mutual) as (server, port):
            peer = await (await Peer(port, mutual.context()).connect()).shake()
            await peer.say(GREETING + head(1) + data(1, message(b"first")))
            await peer.until_reply(message(b"first"))
            await peer.say(data(1, message(said)) + data(1, message(b"unfinished")[:7]))
            match how:
                case "close_notify":
                    await peer.say_goodbye()
                case "end of file":
                    peer.writer.write_eof()
                case "reset":
                    peer.writer.transport.abort()
                case "half a record":
                    peer.tls.write(data(1, b"", end=True))
                    peer.writer.write(peer._out.read()[:-1])
                    peer.writer.write_eof()
                case _:
                    peer.tls.write(data(1, b"", end=True))
                    record = bytearray(peer._out.read())
                    record[-1] ^= 1
                    peer.writer.write(record)
            assert not is_ok(await peer.rest())
            (stream,) = EchoStream.alive
            await until(lambda: bool(stream.closed_as))
            assert stream.closed_as == ["cancelled"]
            await until(lambda: not server.connections)
            assert server.context.service.open_streams == 0

    run(loop, main())


def test_stopping_tells_every_stream_before_it_closes(loop: str, mutual: Mutual) -> None:
    async def main() -> None:
        async with lean(mutual) as (server, port):
            peer = await (await Peer(port, mutual.context()).connect()).shake()
            await peer.say(GREETING + head(1) + data(1, message(b"first")))
            await peer.until_reply(message(b"first"))
            stopping = asyncio.ensure_future(server.stop(0))
            (end,) = [f for f in await peer.rest() if f[0] == HEADERS_FRAME and f[1] & 1]
            assert UNAVAILABLE_TEXT in end[3]
            await peer.say_goodbye()
            peer.writer.close()
            await stopping

    run(loop, main())


# ---------------------------------------------------------------------- large messages


def test_large_messages_go_both_ways(loop: str, mutual: Mutual) -> None:
    async def main() -> None:
        async with (
            lean(mutual) as (_, port),
            grpc.aio.secure_channel(
                f"localhost:{port}", mutual.credentials(mutual.envoy), options=LARGE
            ) as channel,
        ):
            method: Any = channel.stream_stream(PROCESS_METHOD)

            async def one(size: int) -> None:
                call = method()
                for _ in range(2):
                    await call.write(b"x" * size)
                    assert len(await call.read()) == size
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF
                assert await call.code() is grpc.StatusCode.OK

            await asyncio.gather(*(one(size) for size in (1, 1 << 14, (1 << 20) + 7, 16 << 20)))

    run(loop, main())


def test_a_peer_that_does_not_read_is_not_read_from(loop: str, mutual: Mutual) -> None:
    """Flow control would let everything through; only the transport's own buffers can stop it."""
    rounds, size = 800, 60_000

    async def main() -> None:
        async with lean(mutual) as (server, port):
            peer = await (await Peer(port, mutual.context()).connect()).shake()
            wide = settings((4, 2**31 - 1)) + window_update(0, 2**31 - 1 - 65535)
            await peer.say(PREFACE + wide + ack() + head(1))
            await until(lambda: bool(EchoStream.alive))
            (stream,) = EchoStream.alive
            (connection,) = server.connections

            async def talk() -> None:
                said = message(b"y" * size)
                for _ in range(rounds):
                    for start in range(0, len(said), FRAME):
                        await peer.say(data(1, said[start : start + FRAME]))

            talking = asyncio.ensure_future(talk())
            await until(lambda: connection._paused)
            before = -1
            while before != len(stream.received):  # what was on its way arrives; then nothing does
                before = len(stream.received)
                await asyncio.sleep(0.2)
            assert before < rounds // 2 and not talking.done()
            echoed = 0
            while echoed < rounds * (size + MESSAGE_HEAD):
                heard = await peer.hear()
                assert heard, "the connection is closed"
                peer.plain += heard
                echoed += sum(len(frame[3]) for frame in _whole(peer) if frame[0] == DATA)
            await talking
            assert len(stream.received) == rounds and not connection._paused

    run(loop, main())


def _whole(peer: Peer) -> list[tuple[int, int, int, bytes]]:
    """The whole frames heard so far, which are taken out of what was heard."""
    end = 0
    while end + 9 <= len(peer.plain):
        stop = end + 9 + int.from_bytes(peer.plain[end : end + 3], "big")
        if stop > len(peer.plain):
            break
        end = stop
    whole, peer.plain = peer.plain[:end], peer.plain[end:]
    return frames_in(whole)
