"""The first invariant, in its one place: no `Process` stream ends with OK before Envoy has half-closed it.

Envoy takes an OK end as "the processor needs no more" and passes everything after it uninspected, even with
`failure_mode_allow: false`. So both transports ask `how_to_end` for the status a stream ends with: OK only if Envoy
itself ended its side and nothing went wrong, UNAVAILABLE otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import structlog

log = structlog.get_logger()

OK: Final = 0
UNAVAILABLE: Final = 14
NOT_FINISHED: Final = "the stream was not finished"


class CutError(Exception):
    """The stream must be cut: with UNAVAILABLE, never with OK."""


def how_to_end(half_closed: object, trouble: str | None = None) -> tuple[int, str]:
    """The gRPC status and message that end a `Process` stream.

    `half_closed` is true only once Envoy's END_STREAM was seen; `trouble` is the reason of any other end.
    """
    if half_closed and trouble is None:
        return OK, ""
    return UNAVAILABLE, trouble or NOT_FINISHED


async def run_until_half_closed(
    serve: Callable[[], Awaitable[bool]], abort: Callable[[str], Awaitable[NoReturn]]
) -> None:
    """Run `serve`, which returns True only when Envoy half-closed. Anything else ends in `abort`.

    A cancelled handler says so before it goes: grpcio reports calls that Envoy cancelled, but a handler that somebody
    else cancelled would leave Envoy waiting without a status.
    """
    half_closed, trouble = False, None
    try:
        half_closed = await serve()
    except asyncio.CancelledError:
        try:
            await abort("cancelled")
        except Exception:  # noqa: S110  (the status is out, or the call is gone)
            pass
        raise
    except CutError as cut:
        trouble = str(cut)
    except BaseException:
        log.exception("process.failed")
        trouble = "internal error"
    status, reason = how_to_end(half_closed, trouble)
    if status == OK:
        return
    await abort(reason)
    raise AssertionError("abort returned")  # pragma: no cover
