"""A hold told as it changes, for whoever waits for it: server-sent events (HTML Living Standard §9.2)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from extproc.domain.errors import ExtprocError
from extproc.domain.hold import HeldRequest
from extproc.domain.principal import Principal
from extproc.servers import approvals_input as read
from extproc.servers.approvals_problems import ProblemError
from extproc.servers.approvals_shape import summary
from extproc.servers.deciding import Deciding

PULSE: Final = 15.0
"""Seconds after which a silent stream says that it is there, so that nothing between us gives it up."""
LONGEST: Final = 3600.0
"""Seconds until a stream ends by itself and its client comes back."""


@dataclass(slots=True)
class Room:
    """How many calls may still be kept open."""

    left: int


@dataclass(frozen=True, slots=True)
class HoldEvents:
    """The handler. `caller` is how the API knows who calls; `room` is shared with its long polls."""

    deciding: Deciding
    caller: Callable[[Request], Awaitable[Principal]]
    room: Room

    async def stream(self, request: Request) -> Response:
        """`hold` with what the list shows of it, at once and whenever it moves, until it is final.

        With `Last-Event-ID`, the version that the client knows, nothing is told before it moved.
        """
        caller = await self.caller(request)
        read.query(request, ())
        held = await self.deciding.visible(caller, request.path_params["hold_id"])
        known = request.headers.get("last-event-id", "")
        if self.room.left <= 0:
            raise ProblemError(503, "too_many_streams", "Too many calls are kept open; poll instead")
        self.deciding.shown(caller, held)
        version = int(known) if known.isascii() and known.isdigit() and len(known) < 16 else -1
        return StreamingResponse(
            self.events(caller, held, version),
            media_type="text/event-stream",
            headers={"x-accel-buffering": "no"},
        )

    async def events(self, caller: Principal, held: HeldRequest, known: int) -> AsyncGenerator[str, None]:
        """The stream's text. It ends when the hold is final, with the caller's token, or after an hour."""
        now = self.deciding.now
        end = now() + LONGEST
        if caller.expires_at:
            end = min(end, caller.expires_at)
        self.room.left -= 1
        try:
            while True:
                if held.version != known:
                    known = held.version
                    told = json.dumps(summary(held, caller), ensure_ascii=True, separators=(",", ":"))
                    yield f"event: hold\nid: {known}\ndata: {told}\n\n"
                left = end - now()
                if not held.is_open or left <= 0:
                    return
                changed = await self.deciding.store.changed(held.id, known, min(PULSE, left))
                if changed is None:
                    yield ": still here\n\n"
                    # what is overdue expires when somebody looks
                    changed = await self.deciding.visible(caller, held.id)
                held = changed
        except ExtprocError:
            return  # the store is gone for now: the client comes back by itself
        finally:
            self.room.left += 1
