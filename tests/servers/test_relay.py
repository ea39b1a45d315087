"""The relay's own rules, on real sockets with a conversation that is told what to say."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.record import Record
from extproc.domain.relay import PING, PONG
from extproc.domain.request import Source
from extproc.servers import relay_connection
from extproc.servers.envoy_proto import CallMetadata
from extproc.servers.network_ext_proc import Conversation, Output
from extproc.servers.relay import RelayServer
from extproc.servers.service import Service
from extproc.servers.upstreams import ALPN, Upstream, UpstreamTls
from tests.protocols.test_proxy_header import HOSTILE, V4, header, value
from tests.support.governed import denying
from tests.support.pki import Authority

RECORD = Record("intent", 1.0, {})
HEADER = header(V4 + value(0xE0, b"db") + value(0xE1, b"pg") + value(0xE2, b"-") + value(0xE3, b"-"))
LOCAL = header(b"", command=0x20, family=0)


class Book:
    """A ledger that can break."""

    def __init__(self) -> None:
        self.kept: list[Record] = []
        self.pending: list[Record] = []
        self.is_broken = False

    def append(self, record: Record) -> None:
        self.pending.append(record)

    def commit(self) -> None:
        pending, self.pending = self.pending, []
        if self.is_broken and pending:
            raise LedgerUnavailableError("full")
        self.kept += pending


class Passing:
    """Everything goes on as it came, except what is a word to us."""

    session_id = "ses_1"

    def __init__(self, call: CallMetadata, source: Source, later: Callable[[Output], None]) -> None:
        self.call, self.source, self.later = call, source, later
        self.reasons: list[str] = []
        self.heard = b""

    def opened(self) -> Output:
        return Output()

    def client_data(self, data: bytes, end: bool) -> Output:
        self.heard += data
        if data == b"close me":
            return Output(to_client=b"farewell", close=True, records=(RECORD,))
        if data == b"fail":
            raise RuntimeError("on purpose")
        if data == b"cancel":  # as a CancelRequest: said, and over
            return Output(to_server=b"cancel", close=True)
        if data == b"quiet":
            return Output()
        return Output(to_server=data, end_server=end, records=(RECORD,) if data else ())

    def server_data(self, data: bytes, end: bool) -> Output:
        return Output(to_client=data, end_client=end, close=end)

    def unrecorded(self) -> bytes:
        return b"cannot record"

    def gone(self, reason: str) -> tuple[Record, ...]:
        self.reasons.append(reason)
        return ()

    def go_away(self, *, at_once: bool) -> None:
        if at_once:
            self.later(Output(to_client=b"going away", close=True))


class Database:
    """What is dialled: a server that answers in capitals, or does not read at all."""

    def __init__(self) -> None:
        self.connections = 0
        self.open = 0
        self.heard = b""
        self.reads = True
        self.flood = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            if not self.reads:
                await asyncio.sleep(3600)
            while data := await reader.read(65536):
                self.heard += data
                if self.flood:
                    for _ in range(self.flood):
                        writer.write(bytes(1 << 16))
                        await writer.drain()
                        self.flood -= 1
                writer.write(data.upper())
                await writer.drain()
            writer.write(b"[end]")
            await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()


class Rig:
    """A relay between `connect()` and `database`."""

    def __init__(self, folder: Path) -> None:
        nothing: Any = None
        self.folder = folder
        self.book = Book()
        self.service = Service(
            governance=denying(), ledger=self.book, desk=nothing, keys=nothing, now=lambda: 1.0, new_hex=lambda n: "",
        )  # fmt: skip
        self.database = Database()
        self.conversations: list[Passing] = []
        self.upstream = Upstream(path=str(folder / "db.sock"))

        def opener(
            service: Service, call: CallMetadata, source: Source, later: Callable[[Output], None]
        ) -> Conversation | None:
            self.conversations.append(Passing(call, source, later))
            return self.conversations[-1]

        self.relay = RelayServer(self.service, {"db": self.upstream}, opener=opener)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self.database.serve, path=str(self.folder / "db.sock"))
        self.relay.listen(self.folder / "r.sock")
        await self.relay.start()

    async def connect(self, first: bytes = HEADER) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(str(self.folder / "r.sock"))
        writer.write(first)
        return reader, writer

    async def until(self, check: Callable[[], bool]) -> None:
        while not check():
            await asyncio.sleep(0.005)


Play = Callable[[Rig], Awaitable[None]]


def play(scene: Play) -> None:
    """Run it; afterwards nothing may be left."""

    async def main() -> None:
        with TemporaryDirectory(prefix="relay-") as short:
            rig = Rig(Path(short))
            await rig.start()
            async with asyncio.timeout(30):
                await scene(rig)
                await rig.relay.stop(0.0)
                await rig.until(lambda: not rig.relay.connections)

    asyncio.run(main())


def test_bytes_go_both_ways_and_the_end_is_handed_on() -> None:
    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(HEADER + b"hello ")
        writer.write(b"world")
        assert await reader.readexactly(11) == b"HELLO WORLD"
        writer.write_eof()
        assert await reader.read() == b"[end]"  # half closed: the server's last word still came
        writer.close()
        await rig.until(lambda: rig.database.open == 0 and not rig.relay.connections)
        (said,) = rig.conversations
        assert (said.call.target, said.call.listener) == ("db", "pg")
        assert said.source == Source("10.0.0.9:4711", False, "")
        assert said.reasons == ["closed"]

    play(scene)


def test_a_header_in_single_bytes_is_the_same() -> None:
    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(b"")
        for byte in HEADER + b"x":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        assert await reader.readexactly(1) == b"X"
        writer.close()

    play(scene)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_opens_nothing(name: str) -> None:
    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(HOSTILE[name] + b"DROP TABLE t")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        assert rig.conversations == [] and rig.database.connections == 0
        writer.close()

    play(scene)


@pytest.mark.parametrize("values", [b"", value(0xE0, b"other"), value(0xE0, b""), value(0xE0, b"\xff")])
def test_a_target_that_is_not_relayed_opens_nothing(values: bytes) -> None:
    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(header(V4 + values) + b"hello")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        assert rig.conversations == [] and rig.database.connections == 0
        writer.close()

    play(scene)


def test_a_header_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_connection, "HEADER_TIME", 0.05)

    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(HEADER[:20])
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        assert rig.conversations == []
        writer.close()

    play(scene)


def test_a_caller_that_is_not_let_in_is_not_waited_for_but_a_session_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_connection, "LOGIN_TIME", 0.05)

    async def scene(rig: Rig) -> None:
        session, kept = await rig.connect(HEADER + b"hello")
        assert await session.readexactly(5) == b"HELLO"
        reader, writer = await rig.connect(HEADER + b"quiet")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        await asyncio.sleep(0.05)
        kept.write(b"still")
        assert await session.readexactly(5) == b"STILL"
        for each in (writer, kept):
            each.close()

    play(scene)


def test_another_user_is_refused_before_a_byte_of_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_connection, "peer_uid", lambda sock: 12345)

    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(HEADER + b"hello")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        assert rig.conversations == [] and not rig.relay.connections
        writer.close()

    play(scene)


def test_the_certificate_of_a_caller_is_told_and_several_names_are_none() -> None:
    async def scene(rig: Rig) -> None:
        for san in (b"spiffe://a/b", b"spiffe://a/b,spiffe://c/d"):
            head = header(V4 + value(0xE0, b"db") + value(0xE2, san) + value(0xE3, b"ab" * 32))
            _, writer = await rig.connect(head + b"quiet")
            await rig.until(lambda: rig.conversations != [] and rig.conversations[-1].heard == b"quiet")
            writer.close()
            await rig.until(lambda: not rig.relay.connections)
            rig.conversations[-1].heard = b""
        first, second = rig.conversations
        assert first.source == Source("10.0.0.9:4711", True, "spiffe://a/b")
        assert second.source == Source("10.0.0.9:4711", True, "")

    play(scene)


def test_the_database_is_dialled_when_there_is_something_to_say() -> None:
    async def scene(rig: Rig) -> None:
        _, writer = await rig.connect(HEADER + b"quiet")
        await rig.until(lambda: bool(rig.conversations) and rig.conversations[0].heard == b"quiet")
        assert rig.database.connections == 0
        writer.write(b"loud")
        await rig.until(lambda: rig.database.heard == b"loud")
        writer.close()
        await rig.until(lambda: rig.database.open == 0)

    play(scene)


def test_what_is_said_last_reaches_the_database_although_it_was_not_dialled_yet() -> None:
    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(HEADER + b"cancel")
        assert await reader.read() == b""
        writer.close()
        await rig.until(lambda: rig.database.heard == b"cancel" and rig.database.open == 0)

    play(scene)


def test_a_database_that_is_not_there_ends_the_connection() -> None:
    async def scene(rig: Rig) -> None:
        (rig.folder / "db.sock").unlink()
        reader, writer = await rig.connect(HEADER + b"hello")
        assert await reader.read() == b""
        writer.close()
        await rig.until(lambda: not rig.relay.connections)
        assert rig.conversations[0].reasons == ["closed"]

    play(scene)


def test_nothing_goes_on_that_cannot_be_recorded() -> None:
    async def scene(rig: Rig) -> None:
        rig.book.is_broken = True
        reader, writer = await rig.connect(HEADER + b"DELETE")
        assert await reader.read() == b"cannot record"
        writer.close()
        assert rig.database.connections == 0

    play(scene)


def test_the_farewell_arrives_although_the_caller_has_said_more() -> None:
    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(HEADER + b"close me")
        await rig.until(lambda: rig.book.kept == [RECORD])
        writer.write(bytes(1 << 20))
        assert await reader.read() == b"farewell"
        writer.close()
        assert rig.database.heard == b""

    play(scene)


def test_our_own_fault_ends_both_connections() -> None:
    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(HEADER + b"hello")
        await reader.readexactly(5)
        writer.write(b"fail")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        await rig.until(lambda: rig.database.open == 0 and not rig.relay.connections)
        assert rig.conversations[0].reasons == ["internal error"]

    play(scene)


def test_a_caller_that_is_gone_takes_the_databases_side_with_it() -> None:
    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(HEADER + b"hello")
        await reader.readexactly(5)
        writer.transport.abort()
        await rig.until(lambda: rig.database.open == 0 and not rig.relay.connections)
        assert len(rig.conversations[0].reasons) == 1

    play(scene)


def test_a_caller_that_does_not_read_stops_the_database() -> None:
    async def scene(rig: Rig) -> None:
        rig.database.flood = 1000  # 64 MB
        reader, writer = await rig.connect(HEADER + b"go")
        left = -1
        while left != rig.database.flood:
            left = rig.database.flood
            await asyncio.sleep(0.2)
        assert left > 900  # what fits into sockets and marks, and no more
        assert len(await reader.readexactly(1000 << 16)) == 1000 << 16
        assert await reader.readexactly(2) == b"GO"
        writer.close()

    play(scene)


def test_a_database_that_does_not_read_stops_the_caller() -> None:
    async def scene(rig: Rig) -> None:
        rig.database.reads = False
        _, writer = await rig.connect(HEADER + b"go")
        writer.transport.set_write_buffer_limits(high=1 << 16)
        sent = 0

        async def flood() -> None:
            nonlocal sent
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()
                sent += 1 << 16

        task = asyncio.ensure_future(flood())
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert 0 < sent < 8 << 20
        task.cancel()
        writer.transport.abort()

    play(scene)


def test_health_is_answered_to_envoy_itself_while_we_serve() -> None:
    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(LOCAL + PING)
        for _ in range(3):
            assert await reader.readexactly(len(PONG)) == PONG
            writer.write(PING)
        rig.relay.is_healthy = False
        writer.write(PING)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(len(PONG) * 10)
        assert rig.conversations == []
        writer.close()

    play(scene)


def test_envoy_itself_says_nothing_but_that() -> None:
    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(LOCAL + b"SELECT 1")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()

    play(scene)


def test_stopping_says_so_and_leaves_nothing() -> None:
    async def scene(rig: Rig) -> None:
        reader, writer = await rig.connect(HEADER + b"hello")
        await reader.readexactly(5)
        await rig.relay.stop(0.05)
        assert await reader.read() == b"going away"
        with pytest.raises(ConnectionError):
            await asyncio.open_unix_connection(str(rig.folder / "r.sock"))
        writer.close()
        await rig.until(lambda: rig.database.open == 0 and not rig.relay.connections)

    play(scene)


def test_where_it_listens_only_its_user_may_connect() -> None:
    async def scene(rig: Rig) -> None:
        assert (rig.folder / "r.sock").stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as other, pytest.raises(RuntimeError):
            other.bind(str(rig.folder / "x.sock"))
            RelayServer(rig.service, {}).listen(rig.folder / "nowhere" / "r.sock")

    play(scene)


# ---------------------------------------------------------------------- TLS to the database


def tls_to(ca: Path, name: str = "db.internal") -> UpstreamTls:
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols([ALPN])
    return UpstreamTls(context, name)


async def behind_tls(rig: Rig, authority: Authority, alpn: list[str]) -> int:
    """The same database under TLS; its port."""
    certificate, key = authority.issue("db", hosts=["db.internal"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(alpn)
    server = await asyncio.start_server(rig.database.serve, "127.0.0.1", 0, ssl=context)
    return int(server.sockets[0].getsockname()[1])


def test_a_database_under_tls_is_checked_and_heard(tmp_path: Path) -> None:
    authority = Authority(tmp_path)

    async def scene(rig: Rig) -> None:
        port = await behind_tls(rig, authority, [ALPN])
        rig.relay.upstreams = {"db": Upstream(host="127.0.0.1", port=port, tls=tls_to(authority.path))}
        reader, writer = await rig.connect(HEADER + b"hello")
        assert await reader.readexactly(5) == b"HELLO"
        writer.write(bytes(1 << 22))
        assert await reader.readexactly(1 << 22) == bytes(1 << 22)
        rig.conversations[0].later(Output(close=True))
        writer.close()
        await rig.until(lambda: rig.database.open == 0 and not rig.relay.connections)

    play(scene)


@pytest.mark.parametrize("flaw", ["name", "authority", "alpn", "plain"])
def test_a_database_that_cannot_prove_itself_hears_nothing(flaw: str, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "a"), Authority(tmp_path / "b")

    async def scene(rig: Rig) -> None:
        port = await behind_tls(rig, authority, [] if flaw == "alpn" else [ALPN])
        tls = tls_to(
            other.path if flaw == "authority" else authority.path,
            "else.internal" if flaw == "name" else "db.internal",
        )
        upstream = Upstream(host="127.0.0.1", port=port, tls=tls)
        if flaw == "plain":
            upstream = Upstream(path=str(rig.folder / "db.sock"), tls=tls, connect_timeout=1.0)
        rig.relay.upstreams = {"db": upstream}
        reader, writer = await rig.connect(HEADER + b"secret")
        assert await reader.read() == b""
        assert b"secret" not in rig.database.heard
        writer.close()

    play(scene)
