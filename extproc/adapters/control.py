"""The line between the supervisor and its children: JSON messages over an inherited socket pair.

Only the supervisor's own children have the other end, so nothing on it needs a password.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import orjson

MAX_LINE = 1 << 20


class Control:
    """One end. Messages are JSON objects, one a line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> Control:
        """Take over one end of a socket pair."""
        end.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=end, limit=MAX_LINE)
        return cls(reader, writer)

    @classmethod
    async def inherited(cls, descriptor: int) -> Control:
        """The end a child was started with."""
        return await cls.open(socket.socket(fileno=descriptor))

    async def send(self, message: dict[str, Any]) -> None:
        """Raises ConnectionError when the other side is gone."""
        self._writer.write(orjson.dumps(message) + b"\n")
        await self._writer.drain()

    async def receive(self) -> dict[str, Any] | None:
        """The next message; None when the other side is gone."""
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError):
            return None
        if not line:
            return None
        message = orjson.loads(line)
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
