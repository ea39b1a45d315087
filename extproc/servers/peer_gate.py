"""Who may connect to a unix socket, by what the kernel says of the peer (SO_PEERCRED), before a byte is read.

grpcio does not show us the socket it accepts, so where other users than our own may connect, this gate accepts,
checks, and passes the bytes on to a socket that only we can reach.

A socket is bound beside its place and takes it when it listens: whoever connects finds the listener before or the
new one, and a listener that ends later takes nothing away.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
import time
from collections.abc import Collection
from pathlib import Path

import structlog

log = structlog.get_logger()
CHUNK = 256 << 10
BACKLOG = 1024
STALE = 60.0
"""Seconds after which a socket beside its place, at which nobody listens, is what a killed process left."""


def peer_uid(sock: socket.socket) -> int:
    """The uid of the process at the other end of a unix socket (unix(7), SO_PEERCRED)."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", packed)
    return int(uid)


class UnixListener:
    """A unix socket with the right mode that is not at its place yet: `open` puts it there."""

    def __init__(self, path: Path, uids: Collection[int], gid: int | None) -> None:
        """`uids`: who may connect, our own included; whoever accepts still checks `peer_uid`. Raises OSError."""
        self.path = path
        self._beside = beside(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self.socket.bind(str(self._beside))
            if gid is not None:
                os.chown(self._beside, -1, gid)
                self._beside.chmod(0o660)
            elif set(uids) != {os.geteuid()}:
                self._beside.chmod(0o666)  # the kernel lets anybody connect; SO_PEERCRED decides
        except BaseException:
            self.close()
            raise
        finally:
            os.umask(before)

    def open(self) -> socket.socket:
        """Listen, and take the place of whoever listened there. Raises OSError."""
        self.socket.listen(BACKLOG)
        self._beside.replace(self.path)
        return self.socket

    def close(self) -> None:
        """It is not needed any more, opened or not."""
        self.socket.close()
        self._beside.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """A short free name in the folder of `path`. What killed processes left under such names is removed."""
    now = time.time()
    for left in path.parent.glob(".????"):
        try:
            if left.is_socket() and now - left.stat().st_mtime > STALE and not _is_heard(left):
                left.unlink()
        except OSError:
            pass  # it is gone, or not ours
    return path.with_name(f".{secrets.token_hex(2)}")


def _is_heard(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            pass  # its queue is full
    return True


class PeerGate:
    """Listens at `public`, lets the given uids and our own through to `private`."""

    def __init__(self, public: Path, private: Path, uids: Collection[int], gid: int | None) -> None:
        self._public = public
        self._private = private
        self._uids = frozenset(uids) | {os.geteuid()}
        self._gid = gid
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; the private socket already does."""
        listener = UnixListener(self._public, self._uids, self._gid)
        self._server = await asyncio.start_unix_server(self._accept, sock=listener.open())

    def close(self) -> None:
        """Stop accepting; connections end with their peers."""
        if self._server is not None:
            self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = peer_uid(writer.get_extra_info("socket"))
        if uid not in self._uids:
            log.warning("peer.refused", uid=uid)
            writer.transport.abort()
            return
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(self._private))
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, OSError):
        pass  # one side is gone; closing tells the other
    finally:
        writer.close()
