"""A rolling reload: new settings and installed code come into force worker by worker, and no request is lost.

Everything is checked and recorded before anything is touched. Each step waits for a new process that is ready; one
that does not become ready ends the roll, and what was replaced by then is replaced by processes of the old settings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import structlog

from extproc.app.bundle import keep_for_children
from extproc.app.children import Child
from extproc.app.configuration_records import NO_PAYLOADS, settings_loaded
from extproc.config import Settings, parse_config
from extproc.config.document import read_text
from extproc.config.rolling import check_roll
from extproc.domain.errors import ExtprocError

log = structlog.get_logger()

START = 60.0
"""Seconds a new process has to become ready."""
FAREWELL = 15.0
"""Seconds a leaving worker has beyond its drain time."""


class RollError(Exception):
    """A step failed; the process that was to be replaced serves on."""


class Supervising(Protocol):
    """The supervisor as a roll needs it."""

    settings: Settings
    configuration: Path
    """The text of the settings in force."""
    children: list[Child]
    busy: asyncio.Lock
    """Held while policies change, and while a process is replaced."""

    def check(self, settings: Settings) -> None:
        """Whether the policies in force can be kept with these. Raises ExtprocError."""

    def record(
        self, kind: str, fields: Mapping[str, Any], payloads: Mapping[str, bytes] = NO_PAYLOADS
    ) -> bool:
        """False when it could not be written."""

    async def live(self, child: Child) -> None:
        """One life of a child."""

    def keep(self, child: Child, life: asyncio.Task[None]) -> None:
        """Start it anew whenever it ends, from the end of this life on."""

    async def stop(self, child: Child) -> None:
        """End its process."""


def write_configuration(folder: Path, text: bytes) -> Path:
    """Keep the text of the settings that come into force, named by its content."""
    return keep_for_children(folder, "settings", text, ".yaml")


def drop_configurations(kept: Path) -> None:
    """Remove every other one: all children were started with this."""
    for path in kept.parent.glob("settings-*"):
        if path != kept:
            path.unlink(missing_ok=True)


class Roller:
    """One roll at a time."""

    def __init__(self, supervisor: Supervising, config: Path) -> None:
        """`config`: the file that is read."""
        self._supervisor = supervisor
        self._config = config
        self._running: asyncio.Task[None] | None = None

    async def ask(self, asked_by: Mapping[str, Any]) -> dict[str, Any]:
        """Check, record and begin; the answer does not wait for the end. It has `error` where nothing was begun."""
        supervisor = self._supervisor
        if self._running is not None and not self._running.done():
            return self._refused(asked_by, "another rolling reload is going on")
        async with supervisor.busy:
            if self._running is not None and not self._running.done():
                return self._refused(asked_by, "another rolling reload is going on")
            try:
                text = read_text(self._config)
                settings = parse_config(text, file=str(self._config), base=self._config.parent)
                places = check_roll(supervisor.settings, settings)
                supervisor.check(settings)
                path = write_configuration(supervisor.settings.state / "run", text.encode())
            except ExtprocError as error:
                return self._refused(asked_by, str(error))
            except Exception as error:
                # a file that vanished, a full disk: whoever asked gets an answer, and can ask again
                log.exception("roll.not_read")
                return self._refused(asked_by, f"the configuration cannot be read: {type(error).__name__}")
            kind, fields, payloads = settings_loaded(settings)
            facts = {"configuration": fields["digest"], "changed": list(places), "asked_by": dict(asked_by)}
            if not (supervisor.record("admin.roll", facts) and supervisor.record(kind, fields, payloads)):
                drop_configurations(supervisor.configuration)
                return self._refused(asked_by, "the audit ledger cannot be written")
            log.info(
                "roll.begins", configuration=fields["digest"], changed=places
            )  # who asked: in the ledger
            self._running = asyncio.create_task(self._run(settings, path))
        return {"configuration": fields["digest"], "changed": list(places)}

    async def stop(self) -> None:
        """The service stops: nothing more is replaced."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running

    def _refused(self, asked_by: Mapping[str, Any], error: str) -> dict[str, Any]:
        log.error("roll.refused", error=error)
        self._supervisor.record("admin.roll_refused", {"error": error[:2000], "asked_by": dict(asked_by)})
        return {"error": error[:2000]}

    # ------------------------------------------------------------------ step by step

    async def _run(self, settings: Settings, configuration: Path) -> None:
        supervisor, before = self._supervisor, self._supervisor.configuration
        approvals = [child for child in supervisor.children if child.kind == "approvals"]
        workers = sorted({child.index for child in supervisor.children if child.kind == "worker"})
        replaced: list[int] = []
        try:
            for child in approvals:
                await self._renew(child, configuration)
            for index in workers:
                await self._replace(index, configuration, settings.processor.drain)
                replaced.append(index)
        except Exception as error:  # whatever it is, nobody is left half replaced
            said = _said(error)
            log.error("roll.failed", error=said, exc_info=not isinstance(error, RollError))
            supervisor.record(*settings_loaded(supervisor.settings))  # they are in force again
            left = await self._go_back(replaced, approvals, before)
            facts = {"error": said, "replaced": [f"worker-{index}" for index in replaced], "left": left}
            supervisor.record("admin.roll_failed", facts)
            return
        supervisor.settings, supervisor.configuration = settings, configuration
        for child in supervisor.children:
            child.configuration = configuration
        drop_configurations(configuration)
        supervisor.record("admin.roll_done", {"configuration": settings_loaded(settings)[1]["digest"]})
        log.info("roll.done", workers=len(workers))

    async def _go_back(self, replaced: list[int], approvals: list[Child], before: Path) -> list[str]:
        """What was replaced gets the old settings again. Returns the names of those that could not be."""
        supervisor, left = self._supervisor, []
        for index in reversed(replaced):
            try:
                await self._replace(index, before, supervisor.settings.processor.drain)
            except Exception as error:  # the others are put back all the same
                log.error("roll.not_undone", error=_said(error))
                left.append(f"worker-{index}")
        for child in approvals:
            if child.configuration != before:
                try:
                    await self._renew(child, before)
                except Exception as error:
                    log.error("roll.not_undone", error=_said(error))
                    left.append(child.name)
        if not left:
            drop_configurations(before)
        return left

    async def _replace(self, index: int, configuration: Path, drain: float) -> None:
        """A new worker takes this place; the old one finishes what it has. Raises RollError."""
        supervisor = self._supervisor
        (old,) = [c for c in supervisor.children if c.kind == "worker" and c.index == index and not c.phase]
        if not await is_set(old.ready, START):
            raise RollError(f"{old.name} is not ready, and cannot be replaced")
        async with supervisor.busy:
            new = Child("worker", index, configuration, phase="starting")
            old.may_start.clear()  # from here on nobody but the new one may take the place
            supervisor.children.append(new)
            life = asyncio.create_task(supervisor.live(new))
            ready = asyncio.create_task(new.ready.wait())
            try:
                await asyncio.wait((life, ready), timeout=START, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                life.cancel()
                raise
            finally:
                ready.cancel()
            if not new.ready.is_set():
                new.kill()
                await asyncio.wait((life,))
                supervisor.children.remove(new)
                old.may_start.set()
                raise RollError(f"the new {old.name} did not become ready; its log says why")
            new.phase, old.phase = "", "leaving"
            supervisor.keep(new, life)
            old.may_start.set()
            supervisor.record("admin.worker_replaced", {"worker": new.name})
            log.info("worker.replaced", worker=new.name)
            if old.control is not None:
                with suppress(OSError, TimeoutError):
                    await asyncio.wait_for(old.control.send({"retire": drain}), 1.0)
        if not await is_set(old.gone, drain + FAREWELL):
            log.error("worker.would_not_leave", worker=old.name)
            old.kill()
            await old.gone.wait()

    async def _renew(self, child: Child, configuration: Path) -> None:
        """Stop it and start it with this; with what it had before if that does not work. Raises RollError."""
        before, child.configuration = child.configuration, configuration
        await self._again(child)
        if await is_set(child.ready, START):
            return
        child.configuration = before
        await self._again(child)
        await is_set(child.ready, START)
        raise RollError(f"{child.name} did not become ready; its log says why")

    async def _again(self, child: Child) -> None:
        child.is_renewed = True
        child.ready.clear()
        await self._supervisor.stop(child)
        child.ready.clear()


def _said(error: Exception) -> str:
    """Why, for logs and records: our own words, or the kind of what nobody expected; its text may quote a value."""
    return str(error) if isinstance(error, RollError) else type(error).__name__


async def is_set(event: asyncio.Event, seconds: float) -> bool:
    """Wait for it as long."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
