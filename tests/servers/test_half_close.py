"""No stream ends with OK before Envoy has half-closed it."""

from __future__ import annotations

import asyncio

import pytest

from extproc.servers.half_close import CutError, run_until_half_closed


class AbortedError(Exception):
    """Stands for the status that is not OK."""


async def abort(reason: str):
    raise AbortedError(reason)


def run(serve):
    return asyncio.run(run_until_half_closed(serve, abort))


def test_only_a_half_close_by_envoy_returns():
    async def serve():
        return True

    assert run(serve) is None


@pytest.mark.parametrize("outcome", [False, None, 0])
def test_returning_without_a_half_close_aborts(outcome):
    async def serve():
        return outcome

    with pytest.raises(AbortedError):
        run(serve)


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), KeyError("x"), CutError("cut"), SystemExit(0), GeneratorExit(), StopAsyncIteration()],
)
def test_every_exception_aborts(error):
    async def serve():
        raise error

    with pytest.raises(AbortedError):
        run(serve)


def test_a_cancelled_stream_stays_cancelled():
    async def serve():
        await asyncio.sleep(60)
        return True

    async def main():
        task = asyncio.ensure_future(run_until_half_closed(serve, abort))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_an_error_text_never_carries_the_cause():
    async def serve():
        raise ValueError("Bearer secret")

    with pytest.raises(AbortedError) as aborted:
        run(serve)
    assert "secret" not in str(aborted.value)
