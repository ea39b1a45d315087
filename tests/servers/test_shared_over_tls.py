"""Everything that is asked of the transports over a unix socket, asked over mutual TLS."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from extproc.servers.envoy_proto import PROCESS_METHOD
from extproc.servers.service import Service
from tests.servers import test_grpc_transport
from tests.servers.test_grpc_transport import *  # noqa: F403  (the same tests, over another wire)
from tests.support import mtls

# grpcio runs a handler per call that somebody could cancel, and a task that writes; here there is none
del test_a_cancelled_handler_ends_badly, test_a_status_overtakes_no_reply_that_is_on_its_way  # noqa: F821


@pytest.fixture(
    autouse=True, params=[("grpcio", "asyncio"), *(("lean", loop) for loop in mtls.LOOPS)], ids="-".join
)
def wire(request: pytest.FixtureRequest, mutual: mtls.Mutual, monkeypatch: pytest.MonkeyPatch) -> None:
    transport, loop = request.param

    def channel_to(folder: Path) -> grpc.aio.Channel:
        address = f"localhost:{(folder / 'port').read_text()}"
        return grpc.aio.secure_channel(address, mutual.credentials(mutual.envoy))

    @contextlib.asynccontextmanager
    async def serving(of: Service, folder: Path) -> AsyncIterator[tuple[Any, Callable[..., Any]]]:
        async with mtls.serving(transport, of, mutual.tls) as (server, port):
            (folder / "port").write_text(str(port))
            async with channel_to(folder) as channel:
                method: Any = channel.stream_stream(PROCESS_METHOD)

                def open_call(target: str = "api") -> Any:
                    return method(metadata=(("x-extproc-target", target),) if target else ())

                yield server, open_call

    def run(folder: Path, of: Service, play: test_grpc_transport.Play) -> None:
        async def main() -> None:
            async with serving(of, folder) as (server, open_call):
                await play(server, open_call)

        mtls.run(loop, main())

    monkeypatch.setattr(test_grpc_transport, "channel_to", channel_to)
    monkeypatch.setattr(test_grpc_transport, "serving", serving)
    monkeypatch.setattr(test_grpc_transport, "run", run)
