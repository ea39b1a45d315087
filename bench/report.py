"""What a run found: JSON for machines, ratios in Markdown for people.

Absolute times stay in the JSON, beside what was measured with them. They say more about the machine than about the
code, so tables and prose hold ratios within one run only.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.cases import SERVICES, TARGETS, WORKERS, Case, Setup
from bench.loadgen import memory_bytes
from bench.measure import BESIDE, Measured, Run, ratio
from bench.rig import LEAN, Rig
from extproc.app.form import is_compiled

RESULTS = Path(__file__).parent / "results"


PAIRS: tuple[tuple[Setup, Setup], ...] = (
    ("governed_lean", "empty_grpcio"),
    ("governed_lean", "empty_lean"),
    ("governed_lean", "governed_grpcio"),
    ("governed_grpcio", "empty_grpcio"),
    ("empty_lean", "empty_grpcio"),
    *((setup, LEAN) for setup in WORKERS),
    ("access_log", LEAN),
    ("two_workers", "one_beside_bare"),
    ("one_beside_bare", LEAN),
)
"""Processors that are compared."""
IN_COMPANY = frozenset(setup for setup, service in SERVICES.items() if service.beside_bare)
"""Of these only the processor's CPU is compared: Envoy and the machine served others too."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a ratio should be at most."""

    ratio: str
    at_most: float


GOALS = (
    Goal("get.processor_cpu.governed_lean/empty_grpcio", 0.25),
    Goal("get.processor_cpu.empty_lean/empty_grpcio", 1 / 12),
    Goal("get.processor_cpu.two_workers/governed_lean", 1.15),
    Goal("two_workers.furthest_from_even", 0.2),
    Goal("holds.kilobytes_each", 20.0),
    Goal("holds.p50.open/none", 1.3),
)


def goals(found: Mapping[str, float]) -> list[dict[str, Any]]:
    """Which goals the ratios of a run meet; those that it did not measure are left out."""
    return [
        {"ratio": goal.ratio, "measured": found[goal.ratio], "at_most": round(goal.at_most, 4),
         "met": found[goal.ratio] <= goal.at_most}
        for goal in GOALS
        if goal.ratio in found
    ]  # fmt: skip


def ratios(run: Run) -> dict[str, float]:
    """Every ratio by name: `<case>.<what>.<setup>/<setup>`, the median over rounds."""
    found: dict[str, float] = {}
    for case in _cases(run):
        by = {setup: one for (name, setup), one in run.measured.items() if name == case.name}
        pairs: list[tuple[str, Sequence[float], Sequence[float]]] = []
        for above, below in PAIRS:
            if above in by and below in by:
                a, b = by[above], by[below]
                pairs.append((f"processor_cpu.{above}/{below}", a.processor_us(), b.processor_us()))
                if IN_COMPANY & {above, below}:
                    continue
                pairs += [
                    (f"rate.{above}/{below}", a.rates, b.rates),
                    (f"envoy_cpu.{above}/{below}", a.cpu_us["envoy"], b.cpu_us["envoy"]),
                    (f"p50.{above}/{below}", [a.percentile(0.5)], [b.percentile(0.5)]),
                    (f"p99.{above}/{below}", [a.percentile(0.99)], [b.percentile(0.99)]),
                ]
        if (bare := by.get("bare")) is not None:
            for setup, one in by.items():
                if setup == "bare" or setup in IN_COMPANY:
                    continue
                pairs += [
                    (f"rate.{setup}/bare", one.rates, bare.rates),
                    (f"processor_cpu.{setup}/envoy_cpu.bare", one.processor_us(), bare.cpu_us["envoy"]),
                    (f"envoy_cpu.{setup}/bare", one.cpu_us["envoy"], bare.cpu_us["envoy"]),
                    (f"p50.{setup}/bare", [one.percentile(0.5)], [bare.percentile(0.5)]),
                    (f"p99.{setup}/bare", [one.percentile(0.99)], [bare.percentile(0.99)]),
                ]
        for name, upper, lower in pairs:
            if (value := ratio(upper, lower)) is not None:
                found[f"{case.name}.{name}"] = round(value[0], 3)
    for setup, counts in run.by_worker.items():
        found[f"{setup}.furthest_from_even"] = round(furthest_from_even(counts), 3)
    found.update(_between_cases(run))
    return found


def furthest_from_even(counts: Sequence[int]) -> float:
    """How far the worker furthest from an equal share is from it, as a part of that share."""
    even = sum(counts) / len(counts)
    return max(abs(count - even) for count in counts) / even if even else 0.0


def _between_cases(run: Run) -> dict[str, float]:
    """What a feature adds: the governed case against the governed small GET."""
    base = run.measured.get(("get", LEAN))
    found: dict[str, float] = {}
    if base is None:
        return found
    for case in _cases(run):
        if case.name != "get" and (
            value := ratio(run.measured[case.name, LEAN].processor_us(), base.processor_us())
        ):
            found[f"{case.name}.processor_cpu.governed_lean/get"] = round(value[0], 3)
    for role, spent in run.beside_us.items():
        if (value := ratio([spent], [statistics.median(base.processor_us())])) is not None:
            found[f"beside.{role}/worker.get"] = round(value[0], 3)
    return found


def to_json(run: Run, rig: Rig) -> dict[str, Any]:
    """Everything, absolute times included."""
    named = ratios(run)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "compiled": is_compiled(),
        "plan": {name: getattr(run.plan, name) for name in run.plan.__slots__},
        "ratios": named,
        "goals": goals(named),
        "requests_by_worker": run.by_worker,
        "spread": _spread(run),
        "beside_us_per_governed_request": {role: round(us, 1) for role, us in run.beside_us.items()},
        "governed_requests": run.governed_requests,
        "followers_caught_up": run.caught_up,
        "resident_bytes": {role: sum(map(memory_bytes, pids)) for role, pids in sorted(rig.pids.items())},
        "measured": [_measured(one) for one in run.measured.values()],
    }


def _measured(one: Measured) -> dict[str, Any]:
    return {
        "case": one.case.name,
        "setup": one.setup,
        "messages_per_request": TARGETS[one.case.target].messages if one.setup != "bare" else 0,
        "rate": round(statistics.median(one.rates), 1),
        "cpu_us": {role: round(statistics.median(values), 1) for role, values in one.cpu_us.items()},
        "generator_cpu_us": round(statistics.median(one.generator_us), 1),
        "latency_ms": {
            name: round(one.percentile(share) * 1000, 3)
            for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
        },
    }


def _spread(run: Run) -> dict[str, list[float]]:
    """Lowest and highest round of the ratios of CPU, to judge how quiet the machine was."""
    found: dict[str, list[float]] = {}
    for case in _cases(run):
        for above, below in PAIRS:
            a, b = run.measured.get((case.name, above)), run.measured.get((case.name, below))
            if a and b and (value := ratio(a.processor_us(), b.processor_us())) is not None:
                name = f"{case.name}.processor_cpu.{above}/{below}"
                found[name] = [round(value[1], 3), round(value[2], 3)]
    return found


def form() -> str:
    """Which form of extproc was measured: that which this process has too."""
    return f"Measured: extproc {'compiled' if is_compiled() else 'as pure Python'}."


def write(result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write the JSON; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"bench-{result['at'].replace(':', '')[:17]}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def markdown(run: Run) -> str:
    """Tables of ratios."""
    named, spread = ratios(run), _spread(run)
    lines = [
        form(),
        "",
        "Processor CPU against the empty grpcio.aio processor (same Envoy, same number of messages):",
        "",
        "| case | messages | empty lean | governed grpcio | governed lean | lowest, highest round |",
        "|---|---|---|---|---|---|",
    ]
    for case in _cases(run):
        name = f"{case.name}.processor_cpu.governed_lean/empty_grpcio"
        if name not in named:
            continue
        cells = [
            case.name, str(TARGETS[case.target].messages),
            _cell(named, f"{case.name}.processor_cpu.empty_lean/empty_grpcio"),
            _cell(named, f"{case.name}.processor_cpu.governed_grpcio/empty_grpcio"),
            _cell(named, name), ", ".join(f"{end:.2f}" for end in spread[name]),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Governed on the lean transport against the empty grpcio.aio processor:",
        "",
        "| case | Envoy CPU | requests/s | p50 | p99 |",
        "|---|---|---|---|---|",
    ]
    lines += [
        _row(
            named,
            case.name,
            [f"{what}.governed_lean/empty_grpcio" for what in ("envoy_cpu", "rate", "p50", "p99")],
        )
        for case in _cases(run)
    ]
    lines += [
        "",
        "Governed on the lean transport against bare Envoy (processor CPU in units of bare Envoy's):",
        "",
        "| case | processor CPU | Envoy CPU | requests/s | p50 | p99 |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        _row(named, case.name, ["processor_cpu.governed_lean/envoy_cpu.bare",
                                *(f"{what}.governed_lean/bare" for what in ("envoy_cpu", "rate", "p50", "p99"))])
        for case in _cases(run)
        if (case.name, "bare") in run.measured
    ]  # fmt: skip
    lines += [
        "",
        "Governed processor CPU against the small governed GET, both lean:",
        "",
        "| case | ratio | what |",
        "|---|---|---|",
    ]
    for case in _cases(run):
        if case.name != "get":
            value = _cell(named, f"{case.name}.processor_cpu.governed_lean/get")
            lines.append(f"| {case.name} | {value} | {case.about} |")
    for setup, counts in run.by_worker.items():
        lines += [
            "",
            f"{setup}: CPU per request {_cell(named, f'get.processor_cpu.{setup}/{LEAN}')} of one worker's, "
            f"requests {', '.join(map(str, counts))}, from even {_cell(named, f'{setup}.furthest_from_even')}.",
        ]
    if (told := f"get.processor_cpu.one_beside_bare/{LEAN}") in named:
        lines += [
            "",
            f"One worker beside as many connections that ask bare Envoy: CPU per request {_cell(named, told)} of "
            "that without them; two workers: "
            f"{_cell(named, 'get.processor_cpu.two_workers/one_beside_bare')} of that.",
        ]
    if (told := f"get.processor_cpu.access_log/{LEAN}") in named:
        lines += ["", f"access_log: CPU per request {_cell(named, told)} of that without Envoy's access log."]
    lines += [
        "",
        "Beside the worker, per governed request of the whole run, in units of the worker's small GET:",
        "",
    ]
    lines += ["| process | ratio |", "|---|---|"]
    lines += [f"| {role} | {_cell(named, f'beside.{role}/worker.get')} |" for role in BESIDE]
    if not run.caught_up:
        lines += [
            "",
            "The exporter or the checkpointer was still reading when their share was taken: it is too small.",
        ]
    return "\n".join(lines)


def markdown_goals(found: Sequence[Mapping[str, Any]]) -> str:
    """A table of the goals."""
    lines = ["", "| goal | measured | at most | met |", "|---|---|---|---|"]
    for goal in found:
        met = "yes" if goal["met"] else "no"
        lines.append(f"| {goal['ratio']} | {goal['measured']:.3f} | {goal['at_most']:.3f} | {met} |")
    return "\n".join(lines)


def _row(named: Mapping[str, float], case: str, names: Sequence[str]) -> str:
    return f"| {' | '.join([case, *(_cell(named, f'{case}.{name}') for name in names)])} |"


def _cell(named: Mapping[str, float], name: str) -> str:
    return f"{named[name]:.2f}" if name in named else "n/a"


def _cases(run: Run) -> list[Case]:
    return list(dict.fromkeys(one.case for one in run.measured.values()))
