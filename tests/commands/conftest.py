"""A real approvals API on a unix socket, for the commands that are its clients."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvicorn

from extproc.adapters.hold_sqlite import SqliteHoldStore
from extproc.domain.hold import HeldRequest, HoldState
from tests.support.approvals import Desk
from tests.support.holds import NOW

T = TypeVar("T")


class Service:
    """An approvals API in a thread of its own."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._options = options
        self.socket = folder / "api.sock"
        self._path = folder / "holds.db"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        assert self._ready.wait(30)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with SqliteHoldStore(self._path, clock=lambda: NOW) as self.store:
            self.desk = Desk(self.store, **self._options)
            config = uvicorn.Config(self.desk.app, uds=str(self.socket), log_level="error", lifespan="off")
            self._server = uvicorn.Server(config)
            serving = asyncio.create_task(self._server.serve())
            while not self._server.started:
                await asyncio.sleep(0.005)
            self._ready.set()
            await serving

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def state_of(self, held: HeldRequest) -> HoldState:
        now = self.run(self.store.get(held.id, NOW))
        assert now is not None
        return now.state

    def stop(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(30)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("api"))
    yield service
    service.stop()


@pytest.fixture
def service(started: Service) -> Iterator[Service]:
    yield started
    for held in started.run(started.store.find(limit=1000, now=NOW + 10**6)):
        assert not held.is_open  # everything has expired: the next test begins with nothing open
    started.run(started.store.recorded([m.id for m in started.run(started.store.unrecorded(1000))]))
    started.run(started.store.forget(NOW + 10**7))
