"""Which event loop a process runs: workers on the lean transport use uvloop, where it can be had (ADR 10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from extproc.config import Settings

Factory = Callable[[], asyncio.AbstractEventLoop]


def loop_factory(kind: str, settings: Settings) -> Factory:
    """The loop for a child of this kind. grpcio polls in threads of its own and gains nothing by another loop."""
    if kind == "worker" and settings.processor.transport == "lean":
        return request_loop()
    return asyncio.new_event_loop


def request_loop() -> Factory:
    """The fastest loop for sockets that can be had here: uvloop's, else asyncio's."""
    try:
        import uvloop
    except ImportError:  # no wheel of it for this platform
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def loop_name(loop: asyncio.AbstractEventLoop) -> str:
    """What a log line calls it: `uvloop` or `asyncio`."""
    return type(loop).__module__.partition(".")[0]


__all__ = ["Factory", "loop_factory", "loop_name", "request_loop"]
