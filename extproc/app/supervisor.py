"""The parent process: checks policy once, starts the children, restarts one that dies, reloads, drains."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from extproc.adapters.control import Control
from extproc.adapters.policy_files import Author, author_of, read_policies
from extproc.app.bundle import Bundle, drop_bundles, load_bundle, read_bundle, write_bundle
from extproc.app.children import Child
from extproc.app.collectors import wants_spans
from extproc.app.configuration_records import NO_PAYLOADS, policy_texts, settings_loaded
from extproc.app.ledgers import open_ledger
from extproc.app.lock_keeper import LockKeeper, lock_file
from extproc.app.memory import settle_memory
from extproc.app.places import Places
from extproc.app.rolling import Roller, drop_configurations, write_configuration
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


class Supervisor:
    """Runs `extproc serve`. `config` is the path of extproc.yaml, as the children read it too."""

    def __init__(self, settings: Settings, config: Path, text: str) -> None:
        """`text`: what the file said when `settings` were read. Children are started with it, not with the file."""
        self.settings = settings
        self.configuration = write_configuration(settings.state / "run", text.encode())
        self.busy = asyncio.Lock()
        self._config = config
        self._stopping = asyncio.Event()
        self._asked: set[asyncio.Task[Any]] = set()
        self._group: asyncio.TaskGroup | None = None
        self._keepers: set[asyncio.Task[None]] = set()
        self._roller = Roller(self, config)
        self._locks = LockKeeper(lock_file(settings), self._workers)
        self._places = Places()
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
        for child in self.children:
            child.configuration = self.configuration
        drop_configurations(self.configuration)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises PolicyError when the policy at start is no good, ConfigError when a
        TCP port cannot be had.
        """
        policies, author, sources = self._read()
        self._places.open(self.settings.processor)
        self.record(*settings_loaded(self.settings))
        self._accept(policies, author, sources, before="")
        settle_memory()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stopping.set)
        asked_by = {"by": "signal", "uid": os.geteuid()}
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload(asked_by)))
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._spawn(self._roller.ask(asked_by)))
        try:
            async with asyncio.TaskGroup() as self._group:
                for child in self.children:
                    self.keep(child)
                group = self._group
                ready = group.create_task(self._say_when_ready())
                await self._stopping.wait()
                log.info("serve.stopping")
                ready.cancel()
                await self._roller.stop()
                for keeper in self._keepers:
                    keeper.cancel()
        finally:
            await self._stop_children()
            self._ledger.close()

    def _workers(self) -> list[Child]:
        return [child for child in self.children if child.kind == "worker"]

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """What somebody asked for goes on beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    # ------------------------------------------------------------------ policy

    def _read(self) -> tuple[PolicySet, Author, tuple[PolicySource, ...]]:
        check_certificates(self.settings)  # workers read them with every bundle
        folders = list(self.settings.policies.folders)
        sources = read_policies(folders)
        policies = load_bundle(self.settings, sources)
        check_longest_wait(self.settings, policies)
        self._bundle = write_bundle(self.settings.state / "run", Bundle(sources, policies.digest))
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
        self.record("policy.activated", fields | facts, policy_texts(sources))
        drop_bundles(self._bundle)

    def check(self, settings: Settings) -> None:
        """Whether the policies in force can be kept with these settings. Raises ExtprocError."""
        check_certificates(settings)
        policies = load_bundle(settings, read_bundle(self._bundle).sources)
        check_longest_wait(settings, policies)

    async def reload(self, asked_by: Mapping[str, Any]) -> dict[str, Any]:
        """Check, hand to every worker, activate in all or in none. The last good set stays otherwise."""
        async with self.busy:
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
                if worker.phase == "leaving" and answer.get("prepared") != policies.digest:
                    worker.kill()  # nobody need wait for one that goes, and it must not go on by the old
                    continue
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
        self.record(
            "policy.refused", {"policy": self._digest, "error": error[:2000], "asked_by": dict(asked_by)}
        )
        return {"error": error, "policy": self._digest}

    def record(
        self, kind: str, fields: Mapping[str, Any], payloads: Mapping[str, bytes] = NO_PAYLOADS
    ) -> bool:
        """False, and a line in the log, when it could not be written."""
        try:
            self._ledger.append(Record(kind, time.time(), fields, payloads))
            self._ledger.commit()
        except LedgerUnavailableError as error:
            log.error("ledger.unavailable", lost=[kind], error=str(error))
            return False
        return True

    # ------------------------------------------------------------------ children

    async def _say_when_ready(self) -> None:
        await asyncio.gather(*(child.ready.wait() for child in self.children))
        log.info("serve.ready", policy=self._digest, children=[child.name for child in self.children])

    def keep(self, child: Child, life: asyncio.Task[None] | None = None) -> None:
        """Start it, watch it, start it again; `life` is one that has begun."""
        assert self._group is not None  # noqa: S101  (run comes first)
        keeper = self._group.create_task(self._keep(child, life))
        self._keepers.add(keeper)
        keeper.add_done_callback(self._keepers.discard)

    async def _keep(self, child: Child, life: asyncio.Task[None] | None) -> None:
        """Until it left for good; with a growing pause between its lives."""
        while True:
            await (self.live(child) if life is None else life)
            life = None
            if child.is_renewed:
                child.is_renewed = False
                continue
            await asyncio.sleep(0 if child.phase else BACK_OFF[min(child.deaths, len(BACK_OFF) - 1)])
            await child.may_start.wait()
            if child.phase == "leaving":
                self.children.remove(child)
                child.gone.set()
                return

    async def live(self, child: Child) -> None:
        """From its start to its end."""
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
        if code == 0 and (child.is_renewed or child.phase == "leaving"):
            log.info("child.ended", child=child.name)
            return
        child.deaths = 0 if time.monotonic() - started > 30 else child.deaths + 1
        log.error("child.died", child=child.name, code=code, deaths=child.deaths)
        self.record("admin.child_died", {"child": child.name, "code": code})

    async def _start(self, child: Child) -> None:
        ours, theirs = socket.socketpair()
        arguments = [
            sys.executable, "-m", "extproc.app.child", child.kind,
            "--config", str(self._config), "--kept", str(child.configuration),
            "--control", str(theirs.fileno()),
        ]  # fmt: skip
        places: tuple[int, ...] = ()
        if child.kind == "worker":
            places = self._places.of(child.index)
            arguments += ["--index", str(child.index), "--bundle", str(self._bundle)]
            arguments += [f"--listener={place}" for place in places]
        elif child.kind == "metrics":
            arguments += ["--began", repr(self._began)]
        child.starts += 1
        child.figures = {}
        child.process = await asyncio.create_subprocess_exec(*arguments, pass_fds=(theirs.fileno(), *places))
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
                self._spawn(self._answer_reload(child.control, message["reload"]))
            elif "roll" in message:
                self._spawn(self._answer_roll(child.control, message["roll"]))
            elif "lock" in message:
                # not in turn: a reload that another call waits for may take long
                self._spawn(self._answer_lock(child.control, message["lock"]))
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

    async def _answer_roll(self, control: Control, asked: Mapping[str, Any]) -> None:
        answer = {"rolling": await self._roller.ask(asked)}
        with suppress(OSError):
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
        self._places.close()
        for kinds in (("worker",), ("approvals",), ("exporter", "checkpointer", "metrics")):
            await asyncio.gather(*(self.stop(child) for child in self.children if child.kind in kinds))

    async def stop(self, child: Child) -> None:
        """Let it drain, and end it."""
        process = child.process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP)
        except TimeoutError:
            process.kill()
            await process.wait()


def check_longest_wait(settings: Settings, policies: PolicySet) -> None:
    """Raises PolicyError when Envoy would give up before a policy does."""
    longest = max((policies.for_target(target.name).max_wait for target in settings.targets), default=0.0)
    check_waits(settings, longest)
