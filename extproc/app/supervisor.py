"""The parent process: checks policy once, starts the children, restarts one that dies, reloads, drains."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from extproc.adapters.control import Control
from extproc.adapters.policy_files import Author, author_of, read_policies
from extproc.app.bundle import Bundle, drop_bundles, load_bundle, write_bundle
from extproc.app.configuration_records import NO_PAYLOADS, policy_texts, settings_loaded
from extproc.app.lock_keeper import LockKeeper
from extproc.app.tailers import wants_spans
from extproc.app.worker import lock_file, open_ledger
from extproc.config import Settings, check_waits
from extproc.config.certificates import check_certificates
from extproc.domain.errors import ExtprocError, LedgerUnavailableError
from extproc.domain.record import Record
from extproc.policy import PolicySet, PolicySource

log = structlog.get_logger()

ACK = 20.0
"""Seconds a child has to answer."""
PASS_ON = 1.0
"""Seconds for a message between workers to be taken."""
STOP = 15.0
"""Seconds a child has to drain before it is killed."""
MAX_ERROR = 16_000
"""Characters of a reload's error: a folder full of mistakes must fit into one message to a child."""
BACK_OFF = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(slots=True)
class Child:
    """One child process and the line to it."""

    kind: str
    index: int = 0
    process: asyncio.subprocess.Process | None = None
    control: Control | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    answers: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    deaths: int = 0
    policy: str = ""
    """The digest that a worker said it governs by."""
    locks: int = -1
    """The version of the locks that a worker said it has."""
    starts: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    """What it said of itself last, for the metrics."""

    def kill(self) -> None:
        """At once; it is started anew."""
        if self.process is not None:
            self.process.kill()

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.index}" if self.kind == "worker" else self.kind


class Supervisor:
    """Runs `extproc serve`. `config` is the path of extproc.yaml, as the children read it too."""

    def __init__(self, settings: Settings, config: Path) -> None:
        self._settings = settings
        self._config = config
        self._stopping = asyncio.Event()
        self._reload_lock = asyncio.Lock()
        self._asked: set[asyncio.Task[None]] = set()
        self._locks = LockKeeper(lock_file(settings), self._workers)
        self._began = time.time()
        self._ledger = open_ledger(settings, "supervisor")
        self._bundle = Path()
        self._digest = ""
        self.children = [Child("worker", index) for index in range(settings.processor.workers)]
        self.children += [Child("approvals"), Child("checkpointer")]
        if wants_spans(settings):
            self.children.append(Child("exporter"))
        if settings.telemetry.metrics is not None:
            self.children.append(Child("metrics"))

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises PolicyError when the policy at start is no good."""
        policies, author, sources = self._read()
        self._record(*settings_loaded(self._settings))
        self._accept(policies, author, sources, before="")
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn_reload(loop))
        self._reloads: set[asyncio.Task[Any]] = set()
        try:
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(self._keep(child)) for child in self.children]
                ready = group.create_task(self._say_when_ready())
                await self._stopping.wait()
                log.info("serve.stopping")
                ready.cancel()
                for keeper in keepers:
                    keeper.cancel()
        finally:
            await self._stop_children()
            self._ledger.close()

    def _workers(self) -> list[Child]:
        return [child for child in self.children if child.kind == "worker"]

    def _spawn_reload(self, loop: asyncio.AbstractEventLoop) -> None:
        task = loop.create_task(self.reload({"by": "signal", "uid": os.geteuid()}))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    # ------------------------------------------------------------------ policy

    def _read(self) -> tuple[PolicySet, Author, tuple[PolicySource, ...]]:
        check_certificates(self._settings)  # workers read them with every bundle
        folders = list(self._settings.policies.folders)
        sources = read_policies(folders)
        policies = load_bundle(self._settings, sources)
        longest = max(
            (policies.for_target(target.name).max_wait for target in self._settings.targets), default=0.0
        )
        check_waits(self._settings, longest)
        self._bundle = write_bundle(self._settings.state / "run", Bundle(sources, policies.digest))
        return policies, author_of(folders), tuple(sources)

    def _accept(
        self,
        policies: PolicySet,
        author: Author,
        sources: tuple[PolicySource, ...],
        *,
        before: str,
        **facts: Any,
    ) -> None:
        self._digest = policies.digest
        files = [{"name": Path(file.name).name, "digest": file.digest} for file in policies.files]
        fields = {"policy": policies.digest, "before": before, "author": str(author), "files": files}
        self._record("policy.activated", fields | facts, policy_texts(sources))
        drop_bundles(self._bundle)

    async def reload(self, asked_by: Mapping[str, Any]) -> dict[str, Any]:
        """Check, hand to every worker, activate in all or in none. The last good set stays otherwise."""
        async with self._reload_lock:
            bundle = self._bundle
            try:
                policies, author, sources = self._read()
            except ExtprocError as error:
                self._bundle = bundle
                return self._refused(asked_by, str(error))
            except Exception as error:
                # a file that vanished, a full disk: whoever asked gets an answer, and can ask again
                log.exception("policy.not_read")
                self._bundle = bundle
                return self._refused(asked_by, f"the policies cannot be read: {type(error).__name__}")
            workers = [child for child in self.children if child.kind == "worker" and child.ready.is_set()]
            for worker in workers:
                answer = await self._ask(worker, {"prepare": str(self._bundle)})
                if answer.get("prepared") != policies.digest:
                    self._bundle = bundle
                    return self._refused(asked_by, f"{worker.name}: {answer.get('error', 'no answer')}")
            before = self._digest
            for worker in workers:
                answer = await self._ask(worker, {"activate": policies.digest})
                worker.policy = str(answer.get("active", ""))
            self._accept(
                policies, author, sources, before=before, asked_by=dict(asked_by), workers=len(workers)
            )
            for child in self.children:
                # one that will not follow, or that began while this went on: it restarts with the bundle in force
                if child.kind == "worker" and child.ready.is_set() and child.policy != policies.digest:
                    log.error("worker.behind", worker=child.name)
                    if child.process is not None:
                        child.process.kill()
            log.info("policy.reloaded", policy=policies.digest, before=before)
            return {"policy": policies.digest, "before": before}

    def _refused(self, asked_by: Mapping[str, Any], error: str) -> dict[str, Any]:
        error = error if len(error) <= MAX_ERROR else f"{error[:MAX_ERROR]} …"
        drop_bundles(self._bundle)
        log.error("policy.refused", error=error)
        self._record(
            "policy.refused", {"policy": self._digest, "error": error[:2000], "asked_by": dict(asked_by)}
        )
        return {"error": error, "policy": self._digest}

    def _record(
        self, kind: str, fields: Mapping[str, Any], payloads: Mapping[str, bytes] = NO_PAYLOADS
    ) -> None:
        try:
            self._ledger.append(Record(kind, time.time(), fields, payloads))
            self._ledger.commit()
        except LedgerUnavailableError as error:
            log.error("ledger.unavailable", lost=[kind], error=str(error))

    # ------------------------------------------------------------------ children

    async def _say_when_ready(self) -> None:
        await asyncio.gather(*(child.ready.wait() for child in self.children))
        log.info("serve.ready", policy=self._digest, children=[child.name for child in self.children])

    async def _keep(self, child: Child) -> None:
        """Start it, watch it, start it again with a growing pause."""
        while True:
            started = time.monotonic()
            await self._start(child)
            assert child.process is not None and child.control is not None  # noqa: S101
            listener = asyncio.create_task(self._listen(child))
            try:
                code = await child.process.wait()
            finally:
                listener.cancel()
                child.ready.clear()
            child.control.close()
            child.locks = -1
            child.deaths = 0 if time.monotonic() - started > 30 else child.deaths + 1
            log.error("child.died", child=child.name, code=code, deaths=child.deaths)
            self._record("admin.child_died", {"child": child.name, "code": code})
            await asyncio.sleep(BACK_OFF[min(child.deaths, len(BACK_OFF) - 1)])

    async def _start(self, child: Child) -> None:
        ours, theirs = socket.socketpair()
        arguments = [
            sys.executable, "-m", "extproc.app.child", child.kind,
            "--config", str(self._config), "--control", str(theirs.fileno()),
        ]  # fmt: skip
        if child.kind == "worker":
            arguments += ["--index", str(child.index), "--bundle", str(self._bundle)]
        elif child.kind == "metrics":
            arguments += ["--began", repr(self._began)]
        child.starts += 1
        child.figures = {}
        child.process = await asyncio.create_subprocess_exec(*arguments, pass_fds=(theirs.fileno(),))
        theirs.close()
        child.control = await Control.open(ours)

    async def _listen(self, child: Child) -> None:
        assert child.control is not None  # noqa: S101
        while (message := await child.control.receive()) is not None:
            if "ready" in message:
                child.policy = str(message["ready"])
                child.ready.set()
                if child.kind == "worker" and child.policy != self._digest and child.process is not None:
                    child.process.kill()  # it started with a bundle that is no longer in force
                if child.kind == "worker":
                    await self._locks.tell(child)
            elif "reload" in message:
                task = asyncio.create_task(self._answer_reload(child.control, message["reload"]))
                self._asked.add(task)
                task.add_done_callback(self._asked.discard)
            elif "lock" in message:
                # not in turn: a reload that another call waits for may take long
                task = asyncio.create_task(self._answer_lock(child.control, message["lock"]))
                self._asked.add(task)
                task.add_done_callback(self._asked.discard)
            elif "figures" in message:
                child.figures = dict(message["figures"])
            elif "asks_figures" in message:
                await self._tell_figures(child.control)
            elif "locks_in_force" in message:
                child.locks = int(message["locks_in_force"])
                self._locks.told.set()
            elif "cancel" in message:
                await self._pass_on({"cancel": {**message["cancel"], "from": child.name}}, but=child.name)
            elif "cancelled" in message:
                await self._pass_on(message, to=str(message["cancelled"]["to"]))
            else:
                child.answers.put_nowait(message)

    async def _answer_reload(self, control: Control, asked: Mapping[str, Any]) -> None:
        answer = {"reloaded": await self.reload(asked)}
        with suppress(OSError):  # whoever asked is gone
            await control.send(answer)

    async def _tell_figures(self, control: Control) -> None:
        """What the metrics process cannot see in the ledger: how each child stands."""
        known = {
            child.name: {"ready": child.ready.is_set(), "restarts": max(0, child.starts - 1)} | child.figures
            for child in self.children
        }
        with suppress(OSError):
            await control.send({"figures_of": known})

    async def _answer_lock(self, control: Control, asked: Mapping[str, Any]) -> None:
        try:
            answer = await self._locks.ask(asked)
        except Exception:
            log.exception("locks.failed")
            answer = {"error": "unavailable"}
        with suppress(OSError):
            await control.send({"locked": answer})

    async def _pass_on(self, message: dict[str, Any], *, to: str = "", but: str = "") -> None:
        """From one worker to another, or to all others."""
        for worker in self._workers():
            if worker.control is not None and worker.name != but and (not to or worker.name == to):
                try:
                    await asyncio.wait_for(worker.control.send(message), PASS_ON)
                except (TimeoutError, OSError):
                    pass  # it is gone or stuck, and so are its sessions

    async def _ask(self, child: Child, message: dict[str, Any]) -> dict[str, Any]:
        assert child.control is not None  # noqa: S101
        while not child.answers.empty():
            child.answers.get_nowait()
        try:
            await child.control.send(message)
            return await asyncio.wait_for(child.answers.get(), ACK)
        except (TimeoutError, ConnectionError, OSError):
            return {}

    async def _stop_children(self) -> None:
        """Workers first, so that what they wrote is still exported and signed."""
        for kinds in (("worker",), ("approvals",), ("exporter", "checkpointer", "metrics")):
            await asyncio.gather(*(self._stop(child) for child in self.children if child.kind in kinds))

    async def _stop(self, child: Child) -> None:
        process = child.process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP)
        except TimeoutError:
            process.kill()
            await process.wait()
