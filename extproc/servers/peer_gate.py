"""Who may connect to a unix socket, by what the kernel says of the peer (SO_PEERCRED), before a byte is read.

grpcio does not show us the socket it accepts, so where other users than our own may connect, this gate accepts,
checks, and passes the bytes on to a socket that only we can reach.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Collection
from pathlib import Path

import structlog

log = structlog.get_logger()
CHUNK = 256 << 10


def peer_uid(sock: socket.socket) -> int:
    """The uid of the process at the other end of a unix socket (unix(7), SO_PEERCRED)."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", packed)
    return int(uid)


def bind_unix(path: Path, uids: Collection[int], gid: int | None) -> socket.socket:
    """A unix socket with the right mode before anybody can connect. `uids`: who may, our own included.

    Whoever accepts still checks `peer_uid`. Raises OSError.
    """
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        bound.bind(str(path))
        if gid is not None:
            os.chown(path, -1, gid)
            path.chmod(0o660)
        elif set(uids) != {os.geteuid()}:
            path.chmod(0o666)  # the kernel lets anybody connect; SO_PEERCRED decides
    except BaseException:
        bound.close()
        raise
    finally:
        os.umask(before)
    return bound


class PeerGate:
    """Listens at `public`, lets the given uids and our own through to `private`."""

    def __init__(self, public: Path, private: Path, uids: Collection[int], gid: int | None) -> None:
        self._public = public
        self._private = private
        self._uids = frozenset(uids) | {os.geteuid()}
        self._gid = gid
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Bind with the right mode before anybody can connect."""
        self._public.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(str(self._public))
        finally:
            os.umask(before)
        if self._gid is not None:
            os.chown(self._public, -1, self._gid)
        # without a group the kernel lets anybody connect, and the check below decides
        self._public.chmod(0o660 if self._gid is not None else 0o666)
        self._server = await asyncio.start_unix_server(self._accept, sock=listener)

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
