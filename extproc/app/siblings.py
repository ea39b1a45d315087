"""A worker's line to its siblings, by way of the supervisor: cancels that reached the wrong worker, and locks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog

from extproc.adapters.control import Control
from extproc.domain.lock import locks_of
from extproc.pipeline.locks import LockBoard
from extproc.servers.live_sessions import Found, LiveSessions

if TYPE_CHECKING:  # a worker without databases knows no wire
    from extproc.protocols.postgres import BackendKey

log = structlog.get_logger()

PATIENCE = 1.0
"""Seconds for a sibling to say that the session is its own; those who have none say nothing."""


class Siblings:
    """One worker's end. `take` handles a message of the supervisor."""

    def __init__(self, control: Control, sessions: LiveSessions, board: LockBoard) -> None:
        self._control = control
        self._sessions = sessions
        self._board = board
        self._asked: dict[int, asyncio.Future[Found]] = {}
        self._number = 0
        sessions.ask_others(self.cancel)

    async def cancel(self, target: str, key: BackendKey) -> Found:
        """Whether a sibling has this session, and what became of its waiting statement."""
        self._number += 1
        number = self._number
        answer: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        asks = {"number": number, "target": target, "process": key.process_id, "secret": key.secret.hex()}
        try:
            await self._control.send({"cancel": asks})
            return await asyncio.wait_for(answer, PATIENCE)
        except (TimeoutError, OSError):
            return ""
        finally:
            del self._asked[number]

    async def take(self, message: Mapping[str, Any]) -> bool:
        """Whether the message was for us. Raises ValueError for locks that are not understood."""
        if "cancel" in message:
            asks = message["cancel"]
            process, secret = int(asks["process"]), bytes.fromhex(asks["secret"])
            found = self._sessions.cancel_named(str(asks["target"]), process, secret)
            if found:
                told = {"to": asks["from"], "number": asks["number"], "found": found}
                await self._control.send({"cancelled": told})
        elif "cancelled" in message:
            told = message["cancelled"]
            answer = self._asked.get(told["number"])
            if answer is not None and not answer.done():
                answer.set_result("held" if told["found"] == "held" else "live")
        elif "locks" in message:
            self._board.replace(locks_of(message["locks"]))
            self._sessions.end_locked()
            await self._control.send({"locks_in_force": message["version"]})
        else:
            return False
        return True
