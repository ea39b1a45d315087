"""The first invariant, in its one place: no `Process` stream ends with OK before Envoy has half-closed it.

Envoy takes an OK end as "the processor needs no more" and passes everything after it uninspected, even with
`failure_mode_allow: false`. So every way out of a handler leads through `run_until_half_closed`, and only the
one where Envoy itself ended its side returns; all others abort with a status that is not OK.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

log = structlog.get_logger()


class CutError(Exception):
    """The stream must be cut: with UNAVAILABLE, never with OK."""


async def run_until_half_closed(
    serve: Callable[[], Awaitable[bool]], abort: Callable[[str], Awaitable[NoReturn]]
) -> None:
    """Run `serve`, which returns True only when Envoy half-closed. Anything else ends in `abort`.

    A cancelled handler stays cancelled: the transport reports CANCELLED, which is not OK either.
    """
    reason = "the stream was not finished"
    try:
        if await serve():
            return
    except asyncio.CancelledError:
        raise
    except CutError as cut:
        reason = str(cut)
    except BaseException:
        log.exception("process.failed")
        reason = "internal error"
    await abort(reason)
    raise AssertionError("abort returned")  # pragma: no cover
