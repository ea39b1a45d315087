"""What governing a database costs: single rows and large results through every setup.

One setup after the other in each round, so that noise hits all alike.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.cpu import cpu_now
from bench.database_rig import SETUPS, Database, DatabaseRig, Login
from bench.report import RESULTS, form, write
from extproc.app.form import is_compiled

BULKS = {"clean": "SELECT body FROM bulk", "masked": "SELECT secret FROM bulk"}
"""A wide column that no mask names, and one that a mask replaces."""
PAIRS = [(setup, "tcp_proxy") for setup in SETUPS if setup != "tcp_proxy"]
PAIRS += [("ext_proc", "empty"), ("relay", "ext_proc")]


@dataclass(frozen=True, slots=True)
class Bench:
    """One kind of database."""

    kind: str
    database: Callable[[], Database]
    loads: Mapping[str, Callable[[Login, float], tuple[int, float]]]
    """By case: how many transactions there were in so many seconds, and how many a second. Raises SystemExit where
    one failed."""
    fetch: Callable[[Login, str], tuple[int, float]]
    """Bytes and seconds of one statement's answer."""
    goals: Mapping[str, float]
    """By ratio: at least."""


@dataclass(slots=True)
class Measured:
    """One case in one setup; one entry a round. Transactions or megabytes a second, microseconds of CPU for one."""

    rates: list[float] = field(default_factory=list)
    ours_us: list[float] = field(default_factory=list)
    envoy_us: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    """How much more memory than before our process had at most."""
    envoy_peak_mb: list[float] = field(default_factory=list)


Results = dict[str, dict[str, Measured]]


def run(bench: Bench, arguments: Sequence[str] | None = None) -> int:
    """Measure and report; 0 when everything was measured."""
    cases = [*bench.loads, *BULKS]
    parser = argparse.ArgumentParser(prog=f"bench.{bench.kind}_bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, help="how often everything is run")
    parser.add_argument("--seconds", type=float, help="how long a load runs each time")
    parser.add_argument("--megabytes", type=int, help="size of a large result")
    parser.add_argument("--case", action="append", choices=cases, help="only these")
    parser.add_argument("--setup", action="append", choices=SETUPS, help="only these")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends too
    rounds = given.rounds or (1 if given.quick else 5)
    seconds = given.seconds or (0.6 if given.quick else 4.0)
    megabytes = given.megabytes or (20 if given.quick else 100)
    setups = tuple(given.setup or SETUPS)
    results: Results = {case: {setup: Measured() for setup in setups} for case in given.case or cases}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, DatabaseRig(
        Path(folder), bench.database(), megabytes=megabytes
    ) as rig:  # fmt: skip
        for number in range(rounds):
            for case, by in results.items():
                for setup in rotated(setups, number):
                    if case in BULKS:
                        _bulk(bench, rig, case, setup, megabytes, by[setup])
                    else:
                        _load(bench, rig, case, setup, seconds, by[setup])
    found = ratios(results)
    judged = goals(found, bench.goals)
    print(markdown(results, found, judged))
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": bench.kind,
        "compiled": is_compiled(),
        "plan": {"rounds": rounds, "seconds": seconds, "megabytes": megabytes},
        "ratios": found,
        "goals": judged,
        "measured": {
            case: {setup: _to_json(one) for setup, one in by.items()} for case, by in results.items()
        },
    }
    print(f"\nJSON: {write(result, given.output)}")
    return 0


def rotated(setups: tuple[str, ...], number: int) -> tuple[str, ...]:
    """Another beginning each round, and every second one backwards."""
    at = number % len(setups)
    turned = setups[at:] + setups[:at]
    return turned[::-1] if number % 2 else turned


def _load(bench: Bench, rig: DatabaseRig, case: str, setup: str, seconds: float, into: Measured) -> None:
    login = rig.login(setup)
    before = _cpu(rig, setup)
    count, rate = bench.loads[case](login, seconds)
    after = _cpu(rig, setup)
    into.rates.append(rate)
    into.ours_us.append((after[0] - before[0]) * 1e6 / count)
    into.envoy_us.append((after[1] - before[1]) * 1e6 / count)


def _bulk(bench: Bench, rig: DatabaseRig, case: str, setup: str, megabytes: int, into: Measured) -> None:
    pids = [pid for pid in (rig.pids.get(setup), rig.pids["envoy"]) if pid]
    start = {pid: _reset_peak(pid) for pid in pids}
    before = _cpu(rig, setup)
    size, took = bench.fetch(rig.login(setup), BULKS[case])
    after = _cpu(rig, setup)
    if size < megabytes * 1000 * 12:  # every row came, whatever became of its column
        raise SystemExit(f"{case} through {setup}: only {size} bytes")
    into.rates.append(megabytes / took)
    into.ours_us.append((after[0] - before[0]) * 1e6 / megabytes)
    into.envoy_us.append((after[1] - before[1]) * 1e6 / megabytes)
    grown = {pid: (_status(pid, "VmHWM") - start[pid]) / 1e6 for pid in pids}
    into.envoy_peak_mb.append(grown[rig.pids["envoy"]])
    if setup in rig.pids:
        into.peak_mb.append(grown[rig.pids[setup]])


def _cpu(rig: DatabaseRig, setup: str) -> tuple[float, float]:
    ours = cpu_now(rig.pids[setup]) if setup in rig.pids else 0.0
    return ours, cpu_now(rig.pids["envoy"])


def _reset_peak(pid: int) -> int:
    """Forget the highest memory so far; what it is now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5)
    return _status(pid, "VmRSS")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"process {pid} has no {name}")


# ---------------------------------------------------------------------- what was found


def ratios(results: Results) -> dict[str, float]:
    """By name: `<case>.<what>.<setup>/<setup>`, the median of the ratios of each round."""
    found: dict[str, float] = {}
    for case, by in results.items():
        for above, below in PAIRS:
            if above not in by or below not in by:
                continue
            for what in ("rates", "ours_us", "envoy_us"):
                pairs = zip(getattr(by[above], what), getattr(by[below], what), strict=True)
                each = [a / b for a, b in pairs if b > 0 and a > 0]
                if each:
                    name = {"rates": "rate", "ours_us": "our_cpu", "envoy_us": "envoy_cpu"}[what]
                    found[f"{case}.{name}.{above}/{below}"] = round(statistics.median(each), 4)
    return found


def goals(found: Mapping[str, float], wanted: Mapping[str, float]) -> list[dict[str, Any]]:
    """Those that were measured, and whether they are met."""
    return [
        {"ratio": name, "measured": found[name], "at_least": goal, "met": found[name] >= goal}
        for name, goal in wanted.items()
        if name in found
    ]


def markdown(results: Results, found: Mapping[str, float], judged: Sequence[Mapping[str, Any]]) -> str:
    """Rates against tcp_proxy, CPU, memory, goals."""
    lines = [
        form(),
        "",
        "Rates against bare tcp_proxy; CPU in microseconds for a transaction (a megabyte), ours / Envoy:",
        "",
    ]
    setups = [setup for setup in SETUPS if any(setup in by for by in results.values())]
    lines += [f"| case | {' | '.join(setups)} |", "|---" * (len(setups) + 1) + "|"]
    for case, by in results.items():
        cells = []
        for setup in setups:
            one = by[setup]
            ratio = 1.0 if setup == "tcp_proxy" else found.get(f"{case}.rate.{setup}/tcp_proxy")
            cpu = f"{statistics.median(one.ours_us):.0f}/{statistics.median(one.envoy_us):.0f}"
            cells.append(f"{ratio if ratio is not None else 0:.2f} ({cpu})")
        lines.append(f"| {case} | {' | '.join(cells)} |")
    bulks = [case for case in results if case in BULKS]
    if bulks:
        lines += ["", "Most memory above before, MB, ours / Envoy:", ""]
        lines += [f"| case | {' | '.join(setups)} |", "|---" * (len(setups) + 1) + "|"]
        for case in bulks:
            cells = [
                f"{max(one.peak_mb, default=0):.0f} / {max(one.envoy_peak_mb, default=0):.0f}"
                for one in (results[case][setup] for setup in setups)
            ]
            lines.append(f"| {case} | {' | '.join(cells)} |")
    lines += ["", "| goal | at least | measured | met |", "|---|---|---|---|"]
    lines += [
        f"| {goal['ratio']} | {goal['at_least']} | {goal['measured']:.2f} | {'yes' if goal['met'] else '**no**'} |"
        for goal in judged
    ]
    return "\n".join(lines)


def _to_json(one: Measured) -> dict[str, list[float]]:
    return {
        name: [round(value, 3) for value in getattr(one, name)]
        for name in ("rates", "ours_us", "envoy_us", "peak_mb", "envoy_peak_mb")
    }
