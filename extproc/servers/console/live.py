"""What happens to holds, told to open pages as server-sent events: that something moved, not what."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from extproc.domain.errors import ExtprocError
from extproc.servers.approvals_problems import ProblemError
from extproc.servers.console.sessions import Session, Sessions
from extproc.servers.deciding import Deciding

PER_SESSION = 8
ALTOGETHER = 1000
PULSE = 15.0
"""Seconds after which a silent stream says that it is there, and looks whether its session is."""


class Live:
    """One for all browsers."""

    def __init__(self, deciding: Deciding, sessions: Sessions) -> None:
        self._deciding = deciding
        self._sessions = sessions
        self._open = 0

    async def stream(self, request: Request, session: Session) -> Response:
        """`moved` with a number above `since`, which the page knows; `over` once the session has ended."""
        if session.streams >= PER_SESSION or self._open >= ALTOGETHER:
            raise ProblemError(429, "too_many", "Too many pages are open")
        last = request.headers.get("last-event-id", "") or request.query_params.get("since", "")
        since = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else 0
        return StreamingResponse(
            self._events(session, since),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    async def _events(self, session: Session, since: int) -> AsyncGenerator[str, None]:
        store = self._deciding.store
        session.streams += 1
        self._open += 1
        try:
            yield "retry: 2000\n\n"
            told = since
            while not self._sessions.is_over(session):
                number = await store.news(told, PULSE)
                if number != told:
                    told = number
                    yield f"event: moved\nid: {told}\ndata: {told}\n\n"
                else:
                    yield ": still here\n\n"
            yield "event: over\ndata: over\n\n"
        except ExtprocError:
            return  # the store is gone for now: the browser comes back by itself
        finally:
            session.streams -= 1
            self._open -= 1
