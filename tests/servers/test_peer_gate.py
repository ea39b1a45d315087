"""Who may connect is decided by what the kernel says of the peer, before a byte of theirs is read."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from extproc.servers import peer_gate
from extproc.servers.peer_gate import STALE, PeerGate, UnixListener, beside, peer_uid

ME = os.geteuid()
OTHER = 12345


class Inner:
    """What is behind the gate: answers in capitals and keeps what it saw."""

    def __init__(self) -> None:
        self.connections = 0
        self.seen = bytearray()
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while data := await reader.read(65536):
            self.seen += data
            writer.write(data.upper())
            await writer.drain()
        self.ended.set()
        writer.close()


Play = Callable[[PeerGate, Inner, Path], Awaitable[None]]


def run(folder: Path, play: Play, *, uids: tuple[int, ...] = (), gid: int | None = None) -> None:
    async def main() -> None:
        inner = Inner()
        public, private = folder / "p.sock", folder / "p.inner"
        server = await asyncio.start_unix_server(inner.serve, path=str(private))
        gate = PeerGate(public, private, uids, gid)
        await gate.start()
        try:
            async with asyncio.timeout(30):
                await play(gate, inner, public)
        finally:
            gate.close()
            server.close()

    asyncio.run(main())


def as_uid(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """The kernel says that the peer is `uid`."""
    monkeypatch.setattr(peer_gate, "peer_uid", lambda _: uid)


def test_the_kernel_names_the_peer():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_uid(ours) == ME


def test_our_own_user_may_always_connect(tmp_path: Path):
    async def play(gate: PeerGate, inner: Inner, public: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(str(public))
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"HELLO"
        writer.close()
        await inner.ended.wait()

    run(tmp_path, play)


def test_a_user_that_is_named_may_connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    as_uid(monkeypatch, OTHER)

    async def play(gate: PeerGate, inner: Inner, public: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(str(public))
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"HELLO"
        writer.close()

    run(tmp_path, play, uids=(OTHER,))


def test_anybody_else_is_closed_before_a_byte_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    as_uid(monkeypatch, OTHER)

    async def play(gate: PeerGate, inner: Inner, public: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(str(public))
        writer.write(b"PRI * HTTP/2.0")
        try:
            got = await reader.read()
        except ConnectionError:
            got = b""
        assert got == b""
        writer.close()
        assert (inner.connections, bytes(inner.seen)) == (0, b"")

    run(tmp_path, play, uids=(ME + 1,))


def test_large_transfers_keep_their_bytes(tmp_path: Path):
    async def play(gate: PeerGate, inner: Inner, public: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(str(public))
        data = os.urandom(1 << 16).hex().encode() * 40

        async def send() -> None:
            writer.write(data)
            await writer.drain()

        sending = asyncio.create_task(send())
        assert await reader.readexactly(len(data)) == data.upper()
        await sending
        writer.close()

    run(tmp_path, play)


def test_a_peer_that_resets_ends_both_sides(tmp_path: Path):
    async def play(gate: PeerGate, inner: Inner, public: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(str(public))
        writer.write(b"x")
        await reader.readexactly(1)
        writer.transport.abort()
        await inner.ended.wait()

    run(tmp_path, play)


def test_without_anybody_behind_it_a_connection_is_closed(tmp_path: Path):
    async def play(gate: PeerGate, inner: Inner, public: Path) -> None:
        public.with_name("p.inner").unlink()
        reader, _ = await asyncio.open_unix_connection(str(public))
        try:
            assert await reader.read() == b""
        except ConnectionError:
            pass

    run(tmp_path, play)


@pytest.mark.parametrize(("gid", "mode"), [(None, 0o666), (os.getegid(), 0o660)])
def test_the_sockets_mode_is_set_before_anybody_can_connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gid: int | None, mode: int
):
    modes: list[int] = []
    chown, chmod = os.chown, Path.chmod

    def note_chown(path: Path, uid: int, group: int) -> None:
        modes.append(stat.S_IMODE(Path(path).stat().st_mode))
        chown(path, uid, group)

    def note_chmod(path: Path, to: int) -> None:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        chmod(path, to)

    monkeypatch.setattr(os, "chown", note_chown)
    monkeypatch.setattr(Path, "chmod", note_chmod)

    async def play(gate: PeerGate, inner: Inner, public: Path) -> None:
        assert stat.S_IMODE(public.stat().st_mode) == mode

    run(tmp_path, play, uids=(OTHER,), gid=gid)
    assert modes and set(modes) == {0o600}


def test_a_socket_left_by_an_earlier_process_is_replaced(tmp_path: Path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "p.sock"))
    left.close()

    async def play(gate: PeerGate, inner: Inner, public: Path) -> None:
        _, writer = await asyncio.open_unix_connection(str(public))
        writer.close()

    run(tmp_path, play)


def connect(path: Path) -> socket.socket:
    asking = socket.socket(socket.AF_UNIX)
    asking.connect(str(path))
    return asking


def test_a_listener_takes_the_place_of_the_one_before_and_leaves_nobody_unheard(tmp_path: Path):
    place = tmp_path / "p.sock"
    before = UnixListener(place, {ME}, None).open()
    in_queue = connect(place)
    after = UnixListener(place, {ME}, None)
    still_before = connect(place)
    listener = after.open()
    now_after = connect(place)
    with in_queue, still_before, now_after, before, listener:
        for expected in (before, before, listener):
            expected.settimeout(10)
            expected.accept()[0].close()
    assert place.is_socket() and list(tmp_path.iterdir()) == [place]


def test_the_end_of_the_one_before_takes_nothing_from_the_one_after(tmp_path: Path):
    place = tmp_path / "p.sock"
    first = UnixListener(place, {ME}, None)
    first.open()
    second = UnixListener(place, {ME}, None)
    second.open()
    first.close()
    connect(place).close()
    second.close()


def test_what_a_killed_process_left_is_removed_and_nothing_that_is_heard(tmp_path: Path):
    old = time.time() - STALE - 10
    left, heard, new = (socket.socket(socket.AF_UNIX) for _ in range(3))
    for bound, name in ((left, ".dead"), (heard, ".live"), (new, ".new1")):
        bound.bind(str(tmp_path / name))
    heard.listen()
    for name in (".dead", ".live"):
        os.utime(tmp_path / name, (old, old))
    (tmp_path / ".file").write_text("no socket")
    os.utime(tmp_path / ".file", (old, old))
    with left, heard, new:
        assert beside(tmp_path / "p.sock").parent == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file", ".live", ".new1"]
