"""Rounds: every case in every setup, one after the other, again and again, so that noise hits all alike."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bench import cpu
from bench.cases import EMPTY, SERVICES, TARGETS, WORKERS, Case, Setup
from bench.loadgen import LoadResult, Requests, closed_loop, open_loop
from bench.rig import Rig

HOT = ("envoy", "upstream", *EMPTY, *SERVICES)
"""Whose CPU belongs to the requests of one round."""
BESIDE = ("exporter", "checkpointer", "approvals", "supervisor")
"""Who works for all requests, later: only a whole run can be divided by its requests."""


class BenchError(RuntimeError):
    """The run measured something else than it was meant to."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is run. Rates in requests a second."""

    rounds: int
    requests: int
    connections: int
    rate: float
    rate_seconds: float
    settle: float = 20.0

    def __post_init__(self) -> None:
        if min(self.rounds, self.requests, self.connections) < 1:
            raise ValueError("rounds, requests and connections must be at least 1")


@dataclass(slots=True)
class Measured:
    """One case in one setup, over all rounds. Microseconds of CPU per request by role, one entry a round."""

    case: Case
    setup: Setup
    cpu_us: dict[str, list[float]] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    generator_us: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    """Seconds, open loop, all rounds."""
    streams: int = 0
    messages: int = 0
    answered: int = 0

    def take(self, load: LoadResult, spent: cpu.Reading) -> None:
        """Add a closed-loop round."""
        self.answered += load.answered
        self.rates.append(load.rate)
        self.generator_us.append(load.own_cpu * 1e6 / load.answered)
        for role, seconds in spent.items():
            self.cpu_us.setdefault(role, []).append(seconds * 1e6 / load.answered)

    def processor_us(self) -> list[float]:
        """The processor's CPU per request, by round; all workers of a service together."""
        return self.cpu_us.get(self.setup, [])

    def percentile(self, share: float) -> float:
        """Seconds, of the open-loop latencies."""
        return LoadResult(latencies=self.latencies).percentile(share)


@dataclass(slots=True)
class Run:
    """Everything one run measured."""

    plan: Plan
    measured: dict[tuple[str, Setup], Measured]
    beside_us: dict[str, float] = field(default_factory=dict)
    """CPU per governed request over the whole run, by role."""
    governed_requests: int = 0
    by_worker: dict[Setup, list[int]] = field(default_factory=dict)
    """Requests that each worker recorded, of services with several."""
    caught_up: bool = True
    """The exporter and the checkpointer had read everything before their CPU was divided."""


def run(rig: Rig, cases: Sequence[Case], plan: Plan, setups: Mapping[str, Collection[Setup]]) -> Run:
    """Measure each case in its `setups`, by name.

    Raises BenchError when a reply has another status, or a message count is not what it should be."""
    return asyncio.run(_run(rig, cases, plan, setups))


async def _run(rig: Rig, cases: Sequence[Case], plan: Plan, setups: Mapping[str, Collection[Setup]]) -> Run:
    chosen = {(case.name, setup): Measured(case, setup) for case in cases for setup in setups[case.name]}
    done = Run(plan, chosen)
    token = rig.token()
    for one in done.measured.values():
        warm = max(plan.connections, min(plan.requests, 40) // one.case.weight)
        _check(one, await _closed(rig, one, token, warm, plan.connections), warm)
    before = {key: rig.messages(one.case.target, one.setup) for key, one in done.measured.items()}
    several = [setup for setup in WORKERS if setup in rig.pids]
    recorded = {setup: rig.requests_by_worker(setup) for setup in several}
    whole = cpu.read(rig.pids)
    for number in range(plan.rounds):
        for one in _in_turn(list(done.measured.values()), number):
            await _round(rig, one, token, plan)
    done.caught_up = await asyncio.to_thread(rig.settle, plan.settle)
    spent = cpu.used(whole, cpu.read(rig.pids))
    done.governed_requests = sum(
        one.answered + len(one.latencies)
        for (_, setup), one in done.measured.items()
        if setup == "governed_lean"
    )
    done.beside_us = {
        role: spent[role] * 1e6 / done.governed_requests
        for role in BESIDE
        if role in spent and done.governed_requests
    }
    for setup in several:
        now = rig.requests_by_worker(setup)
        done.by_worker[setup] = [
            after - at_first for after, at_first in zip(now, recorded[setup], strict=True)
        ]
    _count_messages(rig, done, before)
    return done


def _in_turn(all_of_them: list[Measured], number: int) -> Iterator[Measured]:
    """Another one begins each round, and every second round goes backwards."""
    start = number * 5 % len(all_of_them)
    turned = all_of_them[start:] + all_of_them[:start]
    return reversed(turned) if number % 2 else iter(turned)


async def _round(rig: Rig, one: Measured, token: str, plan: Plan) -> None:
    # every worker has as many connections and requests as a single one: the first requests of a round find cold
    # caches, and that must weigh the same for each
    service = SERVICES.get(one.setup)
    workers = service.workers if service is not None else 1
    count = max(plan.connections, plan.requests // one.case.weight) * workers
    requests = _requests(rig, one, token, count)
    connections = plan.connections * workers
    hot = {role: rig.pids[role] for role in HOT if role in rig.pids}
    if service is not None and service.beside_bare:
        async with _company(rig, one, token, plan):
            await _loaded(rig, one, requests, connections, count, hot)
        return
    await _loaded(rig, one, requests, connections, count, hot)
    due = int(plan.rate * plan.rate_seconds) // one.case.weight
    if due:
        calm = await open_loop(
            rig.address(one.case.target, one.setup), _requests(rig, one, token, due),
            rate=plan.rate / one.case.weight, seconds=(due + 0.5) * one.case.weight / plan.rate,
            connections=plan.connections,
        )  # fmt: skip
        _check(one, calm, due)
        one.latencies += calm.latencies


async def _loaded(
    rig: Rig,
    one: Measured,
    requests: Requests,
    connections: int,
    count: int,
    hot: Mapping[str, Sequence[int]],
) -> None:
    before = cpu.read(hot)
    load = await closed_loop(
        rig.address(one.case.target, one.setup), requests, connections=connections, count=count
    )
    spent = cpu.used(before, cpu.read(hot))
    _check(one, load, count)
    one.take(load, spent)


@asynccontextmanager
async def _company(rig: Rig, one: Measured, token: str, plan: Plan) -> AsyncIterator[None]:
    """As many connections again ask bare Envoy for the same. Raises BenchError if they were not answered."""
    request, found = rig.request(one.case, token), LoadResult()
    asking = asyncio.create_task(
        closed_loop(
            rig.address(one.case.target, "bare"), request, connections=plan.connections, seconds=600.0,
            into=found,
        )
    )  # fmt: skip
    try:
        yield
    finally:
        asking.cancel()
        await asyncio.wait([asking])
    if found.failed or set(found.statuses) != {one.case.status}:
        raise BenchError(f"{one.case.name} {one.setup}: bare Envoy beside it answered {dict(found.statuses)}")


async def _closed(rig: Rig, one: Measured, token: str, count: int, connections: int) -> LoadResult:
    return await closed_loop(
        rig.address(one.case.target, one.setup),
        _requests(rig, one, token, count),
        connections=connections,
        count=count,
    )


def _requests(rig: Rig, one: Measured, token: str, count: int) -> Requests:
    """Made before the clock starts; signing a token costs more than a request."""
    if not one.case.fresh_tokens:
        request = rig.request(one.case, token)
        return lambda _: request
    made = [rig.request(one.case, rig.token()) for _ in range(count)]
    return made.__getitem__


def _check(one: Measured, load: LoadResult, count: int) -> None:
    expected = one.case.status
    if load.statuses != {expected: count} or load.failed:
        raise BenchError(
            f"{one.case.name} {one.setup}: expected {count} answers {expected}, "
            f"got {dict(load.statuses)} and errors {dict(load.errors)}"
        )


def _count_messages(rig: Rig, done: Run, before: dict[tuple[str, Setup], tuple[int, int]]) -> None:
    """Equal work or no comparison: Envoy's own counters must say what the target promises.

    Cases of one target share its listener, so the counters are compared by target.
    """
    for key, one in done.measured.items():
        target = TARGETS[one.case.target]
        if one.setup == "bare" or target.mode != "ext_proc":
            continue
        streams, messages = rig.messages(one.case.target, one.setup)
        one.streams, one.messages = streams - before[key][0], messages - before[key][1]
        if one.messages != one.streams * target.messages:
            raise BenchError(
                f"{one.case.name} {one.setup}: {one.messages} messages on {one.streams} streams, "
                f"expected {target.messages} on each"
            )


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float] | None:
    """Median, lowest and highest of the ratios round by round; None when there is nothing to divide by."""
    ratios = [a / b for a, b in zip(above, below, strict=False) if b > 0]
    return (statistics.median(ratios), min(ratios), max(ratios)) if ratios else None
