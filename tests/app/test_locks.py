"""Locks between the supervisor and its workers: every worker follows or is killed, and none runs without them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from extproc.adapters.lock_file import LockFile
from extproc.app import lock_keeper
from extproc.app.lock_keeper import LockKeeper
from extproc.app.siblings import Siblings
from extproc.domain.errors import StoreUnavailableError
from extproc.domain.lock import MAX_LOCKS, Lock
from extproc.pipeline.locks import LockBoard
from extproc.protocols.postgres import BackendKey
from extproc.servers.live_sessions import LiveSessions

pytestmark = pytest.mark.anyio
LOCK = Lock("lock_1", "olga", "why", 1000.0, subject="alice")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Line:
    """One end of a control channel: what was sent over it."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


class Worker:
    """A worker that follows at once, unless it is `deaf`."""

    def __init__(self, name: str, *, deaf: bool = False) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self.ready.set()
        self.locks = -1
        self.killed = False
        self.deaf = deaf
        self.control: Any = self
        self.sent: list[dict[str, Any]] = []

    def kill(self) -> None:
        self.killed = True

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if not self.deaf:
            self.locks = message["version"]


def keeper(folder: Path, *workers: Worker) -> LockKeeper:
    return LockKeeper(LockFile(folder / "locks.json"), lambda: workers)


async def test_a_lock_is_kept_before_it_is_told_and_counts_who_has_it(tmp_path: Path):
    workers = Worker("one"), Worker("two")
    answer = await keeper(tmp_path, *workers).ask({"add": LOCK.to_data()})
    assert answer == {"lock": LOCK.to_data(), "workers": 2}
    assert LockFile(tmp_path / "locks.json").load() == (LOCK,)
    (told,) = workers[0].sent
    assert told["locks"][0]["subject"] == "alice"
    assert told["locks"][0]["reason"] == ""  # workers need not know
    again = keeper(tmp_path, *workers)
    assert (await again.ask({"list": True}))["locks"][0]["id"] == "lock_1"
    assert (await again.ask({"remove": "lock_1"}))["workers"] == 2
    assert workers[0].sent[-1]["locks"] == []


async def test_a_worker_that_does_not_follow_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock_keeper, "FOLLOW", 0.05)
    well, deaf = Worker("well"), Worker("deaf", deaf=True)
    answer = await keeper(tmp_path, well, deaf).ask({"add": LOCK.to_data()})
    assert answer["workers"] == 1
    assert (well.killed, deaf.killed) == (False, True)


async def test_what_cannot_be_kept_is_not_in_force(tmp_path: Path):
    worker = Worker("one")
    nowhere = LockKeeper(LockFile(tmp_path / "none" / "locks.json"), lambda: [worker])
    assert await nowhere.ask({"add": LOCK.to_data()}) == {"error": "unavailable"}
    assert worker.sent == [] and (await nowhere.ask({"list": True}))["locks"] == []


async def test_there_are_not_too_many_and_expired_ones_make_room(tmp_path: Path):
    file = LockFile(tmp_path / "locks.json")
    file.save([Lock(f"lock_{n}", "olga", "", 1.0, 2.0 if n else 0.0, subject="x") for n in range(MAX_LOCKS)])
    kept = keeper(tmp_path)
    assert "lock" in await kept.ask({"add": LOCK.to_data()})
    assert len(file.load()) == 2
    file.save([Lock(f"lock_{n}", "olga", "", 1.0, subject="x") for n in range(MAX_LOCKS)])
    assert await keeper(tmp_path).ask({"add": LOCK.to_data()}) == {"error": "too_many_locks"}
    assert await kept.ask({"remove": "lock_none"}) == {"error": "no_such_lock"}


async def test_a_supervisor_does_not_start_over_locks_it_cannot_read(tmp_path: Path):
    (tmp_path / "locks.json").write_text("[")
    with pytest.raises(StoreUnavailableError):
        keeper(tmp_path)


def siblings() -> tuple[Siblings, Line, LockBoard, LiveSessions]:
    line, board, sessions = Line(), LockBoard(), LiveSessions(lambda: 1000.0)
    return Siblings(cast(Any, line), sessions, board), line, board, sessions


async def test_a_worker_puts_locks_in_force_and_says_so():
    worker, line, board, _ = siblings()
    assert await worker.take({"locks": [LOCK.to_data()], "version": 3})
    assert line.sent == [{"locks_in_force": 3}]
    assert board._by_name
    with pytest.raises(ValueError, match="not a lock"):
        await worker.take({"locks": [{}], "version": 4})
    assert board._by_name and len(line.sent) == 1  # the old ones stay, and nothing is claimed


async def test_a_sibling_answers_only_for_a_session_of_its_own():
    class Held:
        def cancel_waiting(self) -> bool:
            return True

        def end_if_over(self) -> None: ...

    worker, line, _, sessions = siblings()
    asks = {"number": 5, "target": "db", "process": 7, "secret": "01020304", "from": "worker-1"}
    await worker.take({"cancel": asks})
    assert line.sent == []
    sessions.add(Held(), "db", BackendKey(7, b"\x01\x02\x03\x04"))
    await worker.take({"cancel": asks})
    assert line.sent == [{"cancelled": {"to": "worker-1", "number": 5, "found": "held"}}]


async def test_whoever_asks_hears_the_answer_or_after_a_while_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("extproc.app.siblings.PATIENCE", 0.05)
    worker, line, _, sessions = siblings()
    key = BackendKey(7, b"\x01\x02\x03\x04")
    asking = asyncio.ensure_future(sessions.cancel_elsewhere("db", key))
    while not line.sent:
        await asyncio.sleep(0)
    number = line.sent[0]["cancel"]["number"]
    await worker.take({"cancelled": {"to": "worker-0", "number": number + 1, "found": "held"}})
    await worker.take({"cancelled": {"to": "worker-0", "number": number, "found": "live"}})
    assert await asking == "live"
    assert await sessions.cancel_elsewhere("db", key) == ""
    await worker.take({"cancelled": {"to": "worker-0", "number": number, "found": "live"}})  # too late
