"""The process that counts: it reads the ledger, asks the supervisor how the others stand, and shows both as metrics.

Nothing is counted on the request path. A scrape never waits for a worker: what workers say of themselves is at most
a few seconds old.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from extproc import __version__
from extproc.adapters.control import Control
from extproc.adapters.ledger_tally import LedgerTally
from extproc.adapters.prometheus import CONTENT_TYPE, render_text
from extproc.app.collectors import telemetry_settings
from extproc.app.hold_stores import Holds, open_holds
from extproc.app.http_server import HttpServer, all_listen, bind_http, http_config
from extproc.app.tailers import CURSOR
from extproc.config import Settings
from extproc.domain.errors import StoreUnavailableError
from extproc.domain.hold import HoldsOpen
from extproc.domain.metric import Family, Labels, gauge, total
from extproc.ledger.lines import new_writer_id
from extproc.servers.metrics_page import create_page

if TYPE_CHECKING:
    from extproc.adapters.metrics_otlp import MetricsPusher

log = structlog.get_logger()

BUILD = gauge("extproc_build_info", "The version that runs.", ("version",), {(__version__,): 1})
LOOK = 1.0
"""Seconds between two looks at the ledger."""
ANSWER = 2.0
"""Seconds the supervisor has to say how the children stand; then the last answer counts."""


class Meter:
    """Everything that is measured, put together when somebody asks."""

    def __init__(self, settings: Settings, control: Control, holds: Holds, began: float) -> None:
        since = new_writer_id("x", began, b"0000").split("-")[1]
        self._control = control
        self._holds = holds
        self._cursor = settings.state / CURSOR
        self._tally = LedgerTally(settings.ledger.directory, since)
        self._tally_lock = asyncio.Lock()
        self._children: dict[str, Any] = {}
        self._told = asyncio.Event()

    async def listen(self) -> None:
        """Take the supervisor's answers until it is gone."""
        while (message := await self._control.receive()) is not None:
            if "figures_of" in message:
                self._children = message["figures_of"]
                self._told.set()

    async def catch_up(self) -> None:
        """Read what is in the ledger already."""
        async with self._tally_lock:
            while await asyncio.to_thread(self._tally.look):
                pass

    async def follow(self) -> None:
        """Read on and on."""
        while True:
            await asyncio.sleep(LOOK)
            await self.catch_up()

    async def families(self) -> list[Family]:
        """Everything as it stands now."""
        now = time.time()
        await self._ask()
        found = [BUILD]
        async with self._tally_lock:
            found += await asyncio.to_thread(lambda: list(self._tally.families(now, self._cursor)))
        found += child_families(self._children)
        found += await self._standing(now)
        return found

    async def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return render_text(await self.families())

    def close(self) -> None:
        """Let go of the ledger's files."""
        self._tally.close()

    async def _ask(self) -> None:
        self._told.clear()
        with suppress(TimeoutError, OSError):
            await self._control.send({"asks_figures": True})
            await asyncio.wait_for(self._told.wait(), ANSWER)

    async def _standing(self, now: float) -> list[Family]:
        try:
            standing = await self._holds.standing()
        except StoreUnavailableError:
            return [gauge("extproc_hold_store_up", "1 if the hold store answers.", (), {(): 0})]
        return list(hold_families(standing, now))


def hold_families(standing: list[HoldsOpen], now: float) -> Iterator[Family]:
    """Open holds by state. Both states are always there, so that an alert need not guess."""
    counts: dict[Labels, float] = {("pending",): 0, ("approved",): 0}
    ages: dict[Labels, float] = dict.fromkeys(counts, 0.0)
    for each in standing:
        counts[each.state.value,] = each.count
        ages[each.state.value,] = max(0.0, now - each.oldest)
    yield gauge("extproc_hold_store_up", "1 if the hold store answers.", (), {(): 1})
    yield gauge(
        "extproc_holds_open",
        "Holds that wait for people, or for their request to come back.",
        ("state",),
        counts,
    )
    yield gauge("extproc_hold_oldest_age_seconds", "Age of the oldest open hold.", ("state",), ages)


def child_families(children: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    """What the supervisor and the children say of themselves."""

    def each(member: str) -> dict[Labels, float]:
        return {(name,): float(told[member]) for name, told in children.items() if member in told}

    yield gauge("extproc_child_ready", "1 for a child process that is ready.", ("child",), each("ready"))
    yield total(
        "extproc_child_restarts_total",
        "Times a child process was started again.",
        ("child",),
        each("restarts"),
    )
    yield gauge("extproc_open_streams", "Streams that Envoy has open.", ("child",), each("open_streams"))
    yield gauge(
        "extproc_open_waits", "Requests that wait for an approval here.", ("child",), each("open_waits")
    )
    text = "Commits that the ledger could not take; each refused what waited for it."
    yield total("extproc_refused_commits_total", text, ("child",), each("refused_commits"))
    text = "Entries of Envoy's access log that could not be recorded."
    yield total("extproc_access_entries_lost_total", text, ("child",), each("lost_access"))
    text = "1 for a child whose last commit was written."
    yield gauge("extproc_ledger_writable", text, ("child",), each("ledger_healthy"))
    text = "Exports that the collector did not take."
    yield total("extproc_export_failures_total", text, ("child",), each("export_failures"))
    text = "Spans that the collector took and would not keep (OTLP partial success)."
    yield total("extproc_spans_rejected_total", text, ("child",), each("spans_rejected"))
    ages: dict[Labels, float] = {
        (name, provider): float(age)
        for name, told in children.items()
        for provider, age in told.get("keys", {}).items()
    }
    yield gauge(
        "extproc_jwks_age_seconds", "Since an issuer's keys were fetched.", ("child", "provider"), ages
    )
    missing: dict[Labels, float] = {
        (name, provider): 1.0 for name, told in children.items() for provider in told.get("without_keys", ())
    }
    yield gauge(
        "extproc_jwks_missing",
        "1 for an issuer none of whose keys are known.",
        ("child", "provider"),
        missing,
    )


async def run_metrics(settings: Settings, control: Control, stopping: asyncio.Event, began: float) -> None:
    """Show and send metrics until `stopping`, or until a part of it ends: then the supervisor starts it anew."""
    metrics = settings.telemetry.metrics
    assert metrics is not None  # noqa: S101  (the supervisor starts it only then)
    holds = open_holds(settings)
    meter = Meter(settings, control, holds, began)
    pusher = _open_pusher(settings, began) if metrics.otlp else None
    servers: list[HttpServer] = []
    try:
        await meter.catch_up()
        tasks = [
            asyncio.create_task(meter.listen(), name="control"),
            asyncio.create_task(meter.follow(), name="ledger"),
            asyncio.create_task(stopping.wait(), name="stop"),
        ]
        if metrics.listen is not None:
            server = HttpServer(http_config(create_page(meter.text, CONTENT_TYPE), metrics.tls))
            servers.append(server)
            tasks.append(asyncio.create_task(server.serve([bind_http(metrics.listen)]), name="page"))
        if pusher is not None:
            tasks.append(asyncio.create_task(_push(pusher, meter.families, metrics.every), name="push"))
        listening = asyncio.create_task(all_listen(servers))
        await asyncio.wait((*tasks, listening), return_when=asyncio.FIRST_COMPLETED)
        await control.send({"ready": True})
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        log.info("metrics.stopping", ended=[task.get_name() for task in done])
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*(task for task in tasks if task.get_name() == "page"), return_exceptions=True)
        for task in tasks:
            task.cancel()
        for task, ended in zip(tasks, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
            if isinstance(ended, Exception):
                log.error("metrics.part_failed", part=task.get_name(), exc_info=ended)
        if pusher is not None:
            await meter.catch_up()
            await asyncio.to_thread(pusher.push, await meter.families(), time.time())
    finally:
        if pusher is not None:
            pusher.close()
        meter.close()
        await holds.aclose()


def _open_pusher(settings: Settings, began: float) -> MetricsPusher:
    """OpenTelemetry is loaded only where metrics are pushed. Raises ConfigError."""
    from extproc.adapters.metrics_otlp import open_pusher

    return open_pusher(telemetry_settings(settings), began)


async def _push(pusher: MetricsPusher, families: Callable[[], Awaitable[list[Family]]], every: float) -> None:
    while True:
        await asyncio.to_thread(pusher.push, await families(), time.time())
        await asyncio.sleep(every)
