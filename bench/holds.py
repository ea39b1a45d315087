"""What open holds cost: memory of the worker for each, and how long other requests take beside them.

Every hold is a request that waits: a caller's connection, a stream in Envoy, a call in the worker, a row in the
store. No two are alike, so each is a hold of its own.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases import CASES, NOTE, Setup
from bench.cpu import cpu_now
from bench.loadgen import Connection, memory_bytes, open_loop
from bench.measure import BenchError
from bench.rig import LEAN, Rig

ROUNDS = 5
RATE = 100.0
SECONDS = 2.0
TOGETHER = 200
"""Holds that are opened at one time."""
PATIENCE = 180.0
"""Seconds until all of a step must be open."""
GET = next(case for case in CASES if case.name == "get")
ROOM = 40_000
ENVOY = {"max_heap": "6GiB", "max_connections": ROOM, "tracing": False}
SETTINGS = {
    "holds": {"limits": {"per_principal": ROOM, "total": ROOM}},
    "limits": {"open_waits": ROOM},
}
"""Bounds a default configuration has for good reason, raised so that this many may wait for one caller."""


@dataclass(frozen=True, slots=True)
class Level:
    """With so many holds open. Memory in bytes, times in seconds."""

    holds: int
    resident: int
    envoy_resident: int
    p50: float
    p99: float
    idle_cpu: float
    """CPU seconds of the worker for each second in which nobody asks anything."""

    def to_json(self) -> dict[str, Any]:
        """For result files."""
        return {
            "holds": self.holds,
            "worker_resident_bytes": self.resident,
            "envoy_resident_bytes": self.envoy_resident,
            "p50_ms": round(self.p50 * 1000, 3),
            "p99_ms": round(self.p99 * 1000, 3),
            "worker_cpu_share_idle": round(self.idle_cpu, 4),
        }


def run(directory: Path, steps: Sequence[int]) -> list[Level]:
    """Levels for no hold and each number of `steps`, rising. Raises BenchError when they do not open."""
    envoy = {**ENVOY, "admin": f"unix:{directory}/e.sock"}
    targets: dict[str, set[Setup]] = {"held": {LEAN}, GET.target: {LEAN}}
    with Rig(directory, targets, export=False, settings={**SETTINGS, "envoy": envoy}) as rig:
        return asyncio.run(_run(rig, steps))


def ratios(levels: Sequence[Level]) -> dict[str, float]:
    """The largest step against none: `holds.kilobytes_each` and `holds.p50.open/none`."""
    none, most = levels[0], levels[-1]
    found = {
        "holds.open": float(most.holds),
        "holds.kilobytes_each": round((most.resident - none.resident) / most.holds / 1000, 2),
        "holds.p50.open/none": round(most.p50 / none.p50, 3),
    }
    for level in levels[1:]:
        found[f"holds.{level.holds}.p50.open/none"] = round(level.p50 / none.p50, 3)
    return found


def markdown(levels: Sequence[Level]) -> str:
    """A table."""
    none = levels[0]
    lines = [
        "",
        "| open holds | worker KB each | Envoy KB each | p50 of others against none | p99 | core's share when idle |",
        "|---|---|---|---|---|---|",
    ]
    for level in levels[1:]:
        each = [
            (getattr(level, name) - getattr(none, name)) / level.holds / 1000
            for name in ("resident", "envoy_resident")
        ]
        lines.append(
            f"| {level.holds} | {each[0]:.1f} | {each[1]:.1f} | {level.p50 / none.p50:.2f} "
            f"| {level.p99 / none.p99:.2f} | {level.idle_cpu:.3f} |"
        )
    return "\n".join(lines)


async def _run(rig: Rig, steps: Sequence[int]) -> list[Level]:
    token = rig.token()
    waiting: list[asyncio.Task[int]] = []
    connections: list[Connection] = []
    await _calm(rig, token, seconds=3.0)  # caches, and memory that is taken once
    levels = [await _level(rig, token, 0)]
    try:
        for step in steps:
            while len(waiting) < step:
                count = min(TOGETHER, step - len(waiting))
                for number in range(len(waiting), len(waiting) + count):
                    connections.append(connection := Connection(rig.address("held", LEAN)))
                    waiting.append(asyncio.create_task(connection.ask(_held_request(token, number))))
                await _until_open(rig, waiting)
            levels.append(await _level(rig, token, step))
            _still_waiting(waiting)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for connection in connections:
            connection.close()
    return levels


def _held_request(token: str, number: int) -> bytes:
    lines = [
        f"POST /payments/{number} HTTP/1.1", "host: api.example", "user-agent: bench/1", "accept: application/json",
        f"authorization: Bearer {token}", "content-type: application/json", f"content-length: {len(NOTE)}",
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + NOTE


async def _until_open(rig: Rig, waiting: Sequence[asyncio.Task[int]]) -> None:
    """Every request has its hold, and none was answered."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    while (opened := await asyncio.to_thread(rig.open_waits)) < len(waiting):
        _still_waiting(waiting)
        if loop.time() > until:
            raise BenchError(f"{opened} of {len(waiting)} holds are open")
        await asyncio.sleep(0.05)


def _still_waiting(waiting: Sequence[asyncio.Task[int]]) -> None:
    for number, task in enumerate(waiting):
        if task.done():
            how = repr(task.exception()) if task.exception() else str(task.result())
            raise BenchError(f"held request {number} of {len(waiting)} did not wait: {how}")


async def _level(rig: Rig, token: str, count: int) -> Level:
    medians, tails = [], []
    await asyncio.sleep(2.0)
    (worker,) = rig.pids[LEAN]
    before, at = cpu_now(worker), asyncio.get_running_loop().time()
    await asyncio.sleep(1.0)
    idle = (cpu_now(worker) - before) / (asyncio.get_running_loop().time() - at)
    for _ in range(ROUNDS):
        p50, p99 = await _calm(rig, token, seconds=SECONDS)
        medians.append(p50)
        tails.append(p99)
    return Level(
        count, memory_bytes(worker), memory_bytes(rig.pids["envoy"][0]),
        statistics.median(medians), statistics.median(tails), idle,
    )  # fmt: skip


async def _calm(rig: Rig, token: str, seconds: float) -> tuple[float, float]:
    load = await open_loop(
        rig.address(GET.target, LEAN), rig.request(GET, token), rate=RATE, seconds=seconds, connections=8
    )
    if load.statuses != {GET.status: load.answered} or load.failed:
        raise BenchError(f"beside open holds: {dict(load.statuses)} and errors {dict(load.errors)}")
    return load.percentile(0.5), load.percentile(0.99)
