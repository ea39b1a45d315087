"""A roll, step by step, over children that are none: who is replaced, in which order, and what is put back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import LogCapture

from extproc.app import rolling as module
from extproc.app.children import Child
from extproc.app.rolling import Roller, drop_configurations, write_configuration
from extproc.config import Settings, parse_config
from extproc.domain.errors import PolicyError

ASKED = {"by": "test"}
HEAD = "apiVersion: extproc/v1\nkind: Config\n"


def text(rest: str = "", processor: str = "workers: 2") -> str:
    return f"{HEAD}processor: {{listen: 'unix:p.sock', {processor}}}\n{rest}"


NEW = text("limits: {open_waits: 7}\n")


class Line:
    """A worker's line: told to retire, it ends."""

    def __init__(self, life: asyncio.Event) -> None:
        self.told: list[dict[str, Any]] = []
        self._life = life

    async def send(self, message: dict[str, Any]) -> None:
        self.told.append(message)
        self._life.set()


class Fakes:
    """The supervisor as a roll sees it. `fails` says whose next life never becomes ready."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "extproc.yaml"
        self.file.write_text(text())
        self.settings: Settings = parse_config(text(), base=folder)
        self.configuration = write_configuration(folder / "state" / "run", text().encode())
        self.busy = asyncio.Lock()
        self.children: list[Child] = []
        self.records: list[tuple[str, Mapping[str, Any]]] = []
        self.fails: set[tuple[str, int]] = set()
        self.is_full = False
        self.problem = ""
        self.started: list[str] = []
        self.roller = Roller(self, self.file)
        self._ends: dict[int, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        for child in (Child("worker", 0), Child("worker", 1), Child("approvals"), Child("checkpointer")):
            child.configuration = self.configuration
            self.children.append(child)
            self.keep(child, asyncio.create_task(self.live(child)))

    def check(self, settings: Settings) -> None:
        if self.problem:
            raise PolicyError(self.problem)

    def record(self, kind: str, fields: Mapping[str, Any], payloads: Mapping[str, bytes] = {}) -> bool:
        if not self.is_full:
            self.records.append((kind, fields))
        return not self.is_full

    async def live(self, child: Child) -> None:
        self.started.append(f"{child.name}:{'new' if child.configuration != self.configuration else 'old'}")
        self._ends[id(child)] = over = asyncio.Event()
        child.control = Line(over)  # type: ignore[assignment]
        new = child.configuration != self.configuration
        if new and (child.kind, child.index) in self.fails:
            if child.kind == "worker":
                return
        else:
            child.ready.set()
        await over.wait()
        child.ready.clear()

    def keep(self, child: Child, life: asyncio.Task[None]) -> None:
        async def keeper() -> None:
            nonlocal life
            while True:
                await life
                if child.phase == "leaving":
                    self.children.remove(child)
                    child.gone.set()
                    return
                child.is_renewed = False
                life = asyncio.create_task(self.live(child))

        task = asyncio.create_task(keeper())
        self._tasks.add(task)

    async def stop(self, child: Child) -> None:
        self._ends[id(child)].set()
        await asyncio.sleep(0)

    async def over(self) -> None:
        running = self.roller._running
        assert running is not None
        await running

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.records]

    def in_force(self) -> set[str]:
        return {child.configuration.name for child in self.children}


def play(folder: Path, part: Callable[[Fakes], Awaitable[None]]) -> None:
    async def main() -> None:
        fakes = Fakes(folder)
        await asyncio.sleep(0)
        fakes.started.clear()
        await part(fakes)
        for task in fakes._tasks:
            task.cancel()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_one_worker_after_the_other_is_replaced(tmp_path: Path) -> None:
    async def part(fakes: Fakes) -> None:
        fakes.file.write_text(NEW)
        old = [child for child in fakes.children if child.kind == "worker"]
        answer = await fakes.roller.ask(ASKED)
        assert answer["changed"] == ["limits.open_waits"]
        assert fakes.kinds() == ["admin.roll", "config.loaded"]  # before anything is done
        assert fakes.started == []
        await fakes.over()
        assert fakes.started == ["approvals:new", "worker-0-starting:new", "worker-1-starting:new"]
        assert fakes.kinds()[2:] == ["admin.worker_replaced", "admin.worker_replaced", "admin.roll_done"]
        assert [child.control.told for child in old] == [[{"retire": 60.0}]] * 2  # type: ignore[union-attr]
        assert [child.name for child in fakes.children if child.kind == "worker"] == ["worker-0", "worker-1"]
        assert fakes.settings.limits.open_waits == 7
        assert fakes.in_force() == {fakes.configuration.name}
        assert list((tmp_path / "state" / "run").iterdir()) == [fakes.configuration]

    play(tmp_path, part)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no: [yaml", "extproc.yaml"),
        (text("limits: {open_waits: 0}\n"), "open_waits"),
        (text(processor="workers: 3"), "processor.workers"),
    ],
    ids=["no-yaml", "invalid", "needs-a-restart"],
)
def test_what_cannot_be_is_refused_before_anything_is_touched(
    tmp_path: Path, content: str, says: str
) -> None:
    async def part(fakes: Fakes) -> None:
        fakes.file.write_text(content)
        answer = await fakes.roller.ask(ASKED)
        assert says in answer["error"]
        ((kind, fields),) = fakes.records
        assert (kind, fields["asked_by"]) == ("admin.roll_refused", ASKED)
        assert fakes.started == []
        assert list((tmp_path / "state" / "run").iterdir()) == [fakes.configuration]

    play(tmp_path, part)


@pytest.mark.parametrize("how", ["missing", "against-the-policy", "full"])
def test_a_refusal_leaves_everything_as_it_was(tmp_path: Path, how: str) -> None:
    async def part(fakes: Fakes) -> None:
        fakes.file.write_text(NEW)
        if how == "missing":
            fakes.file.unlink()
        elif how == "full":
            fakes.is_full = True
        else:
            fakes.problem = "p.yaml:1:1: no such target"
        assert "error" in await fakes.roller.ask(ASKED)
        assert fakes.started == [] and fakes.settings.limits.open_waits != 7
        assert list((tmp_path / "state" / "run").iterdir()) == [fakes.configuration]

    play(tmp_path, part)


def test_a_new_worker_that_does_not_come_up_leaves_the_old_one_and_puts_the_others_back(
    tmp_path: Path,
) -> None:
    async def part(fakes: Fakes) -> None:
        fakes.file.write_text(NEW)
        fakes.fails = {("worker", 1)}
        before = fakes.settings
        (last,) = [child for child in fakes.children if child.name == "worker-1"]
        await fakes.roller.ask(ASKED)
        await fakes.over()
        assert fakes.started == [
            "approvals:new", "worker-0-starting:new", "worker-1-starting:new",
            "worker-0-starting:old", "approvals:old",
        ]  # fmt: skip
        kind, fields = fakes.records[-1]
        assert (kind, fields["replaced"], fields["left"]) == ("admin.roll_failed", ["worker-0"], [])
        loaded = [fields["digest"] for kind, fields in fakes.records if kind == "config.loaded"]
        assert len(set(loaded)) == len(loaded) == 2  # the new, and the old again
        assert fakes.settings is before and last in fakes.children and last.may_start.is_set()
        assert last.ready.is_set() and not last.control.told  # type: ignore[union-attr]
        assert fakes.in_force() == {fakes.configuration.name}
        assert list((tmp_path / "state" / "run").iterdir()) == [fakes.configuration]
        # and the next one can be made
        fakes.fails.clear()
        assert "error" not in await fakes.roller.ask(ASKED)
        await fakes.over()
        assert fakes.kinds()[-1] == "admin.roll_done"

    play(tmp_path, part)


def test_approvals_that_do_not_come_up_touch_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START", 0.2)

    async def part(fakes: Fakes) -> None:
        fakes.file.write_text(NEW)
        fakes.fails = {("approvals", 0)}
        await fakes.roller.ask(ASKED)
        await fakes.over()
        assert fakes.started == ["approvals:new", "approvals:old"]
        assert fakes.kinds()[-1] == "admin.roll_failed"

    play(tmp_path, part)


def test_one_roll_at_a_time(tmp_path: Path) -> None:
    async def part(fakes: Fakes) -> None:
        answers = await asyncio.gather(fakes.roller.ask(ASKED), fakes.roller.ask(ASKED))
        assert sorted("error" in answer for answer in answers) == [False, True]
        await fakes.over()
        assert fakes.kinds().count("admin.roll") == 1

    play(tmp_path, part)


def test_an_old_worker_that_is_not_ready_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START", 0.2)

    async def part(fakes: Fakes) -> None:
        fakes.children[0].ready.clear()
        await fakes.roller.ask(ASKED)
        await fakes.over()
        assert "worker-0 is not ready" in fakes.records[-1][1]["error"]

    play(tmp_path, part)


def test_a_stop_ends_a_roll(tmp_path: Path) -> None:
    async def part(fakes: Fakes) -> None:
        await fakes.roller.ask(ASKED)
        await fakes.roller.stop()
        assert "admin.roll_done" not in fakes.kinds()

    play(tmp_path, part)


@pytest.mark.parametrize("content", [NEW, "no: [yaml"], ids=["begun", "refused"])
def test_who_asked_is_in_the_ledger_and_not_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    lines = LogCapture()
    monkeypatch.setattr(module, "log", structlog.wrap_logger(None, processors=[lines]))
    asked = {"by": "api", "principal": {"subject": "olga", "person": "olga@corp.example"}}

    async def part(fakes: Fakes) -> None:
        fakes.file.write_text(content)
        await fakes.roller.ask(asked)
        assert fakes.records[0][1]["asked_by"] == asked
        await fakes.roller.stop()
        assert lines.entries and "olga" not in repr(lines.entries)

    play(tmp_path, part)


def test_only_the_text_in_force_is_kept(tmp_path: Path) -> None:
    first, second = write_configuration(tmp_path, b"a"), write_configuration(tmp_path, b"b")
    assert first.read_bytes() == b"a" and first.stat().st_mode & 0o777 == 0o600
    drop_configurations(second)
    assert list(tmp_path.iterdir()) == [second]


def test_what_nobody_expected_is_put_back_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def part(fakes: Fakes) -> None:
        fakes.file.write_text(NEW)
        replace = fakes.roller._replace

        async def break_once(index: int, configuration: Path, drain: float) -> None:
            if index == 1:
                raise OSError(24, "too many open files: a value")
            await replace(index, configuration, drain)

        monkeypatch.setattr(fakes.roller, "_replace", break_once)
        await fakes.roller.ask(ASKED)
        await fakes.over()
        kind, facts = fakes.records[-1][:2]
        assert (kind, facts["error"], facts["left"]) == ("admin.roll_failed", "OSError", [])
        assert fakes.in_force() == {fakes.configuration.name}

    play(tmp_path, part)


def test_what_cannot_be_put_back_is_named_and_the_rest_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def part(fakes: Fakes) -> None:
        fakes.file.write_text(NEW)

        async def never(index: int, configuration: Path, drain: float) -> None:
            if index == 1 or configuration == fakes.configuration:
                raise OSError(24, "too many open files: a value")

        monkeypatch.setattr(fakes.roller, "_replace", never)
        await fakes.roller.ask(ASKED)
        await fakes.over()
        kind, facts = fakes.records[-1][:2]
        assert (kind, facts["error"], facts["left"]) == ("admin.roll_failed", "OSError", ["worker-0"])

    play(tmp_path, part)
