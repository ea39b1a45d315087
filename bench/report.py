"""What a run found: JSON for machines, ratios in Markdown for people.

Absolute times stay in the JSON, beside what was measured with them. They say more about the machine than about the
code, so tables and prose hold ratios within one run only.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.cases import TARGETS, Case
from bench.loadgen import memory_bytes
from bench.measure import BESIDE, Measured, Run, ratio
from bench.rig import Rig

RESULTS = Path(__file__).parent / "results"


def ratios(run: Run) -> dict[str, float]:
    """Every ratio by name: `<case>.<what>.<setup>/<setup>`, the median over rounds."""
    found: dict[str, float] = {}
    for case in _cases(run):
        by = {setup: run.measured[case.name, setup] for setup in case.setups}
        governed, empty, bare = by["governed"], by.get("empty"), by.get("bare")
        pairs: list[tuple[str, Sequence[float], Sequence[float]]] = []
        if empty is not None:
            pairs += [
                ("processor_cpu.governed/empty", governed.processor_us(), empty.processor_us()),
                ("rate.governed/empty", governed.rates, empty.rates),
                ("envoy_cpu.governed/empty", governed.cpu_us["envoy"], empty.cpu_us["envoy"]),
                ("p50.governed/empty", [governed.percentile(0.5)], [empty.percentile(0.5)]),
                ("p99.governed/empty", [governed.percentile(0.99)], [empty.percentile(0.99)]),
            ]
        if bare is not None:
            pairs += [
                ("rate.governed/bare", governed.rates, bare.rates),
                ("processor_cpu.governed/envoy_cpu.bare", governed.processor_us(), bare.cpu_us["envoy"]),
                ("envoy_cpu.governed/bare", governed.cpu_us["envoy"], bare.cpu_us["envoy"]),
                ("p50.governed/bare", [governed.percentile(0.5)], [bare.percentile(0.5)]),
                ("p99.governed/bare", [governed.percentile(0.99)], [bare.percentile(0.99)]),
            ]
        for name, above, below in pairs:
            if (value := ratio(above, below)) is not None:
                found[f"{case.name}.{name}"] = round(value[0], 3)
    found.update(_between_cases(run))
    return found


def _between_cases(run: Run) -> dict[str, float]:
    """What a feature adds: the governed case against the governed small GET."""
    base = run.measured.get(("get", "governed"))
    found: dict[str, float] = {}
    if base is None:
        return found
    for case in _cases(run):
        if case.name != "get" and (
            value := ratio(run.measured[case.name, "governed"].processor_us(), base.processor_us())
        ):
            found[f"{case.name}.processor_cpu.governed/get"] = round(value[0], 3)
    for role, spent in run.beside_us.items():
        if (value := ratio([spent], [statistics.median(base.processor_us())])) is not None:
            found[f"beside.{role}/worker.get"] = round(value[0], 3)
    return found


def to_json(run: Run, rig: Rig) -> dict[str, Any]:
    """Everything, absolute times included."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "plan": {name: getattr(run.plan, name) for name in run.plan.__slots__},
        "ratios": ratios(run),
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
    """Lowest and highest round of the ratio that matters most, to judge how quiet the machine was."""
    found: dict[str, list[float]] = {}
    for case in _cases(run):
        if "empty" in case.setups:
            value = ratio(
                run.measured[case.name, "governed"].processor_us(),
                run.measured[case.name, "empty"].processor_us(),
            )
            if value is not None:
                found[f"{case.name}.processor_cpu.governed/empty"] = [round(value[1], 3), round(value[2], 3)]
    return found


def write(run: Run, rig: Rig, folder: Path = RESULTS) -> Path:
    """Write the JSON; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    result = to_json(run, rig)
    path = folder / f"bench-{result['at'].replace(':', '')[:17]}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def markdown(run: Run) -> str:
    """Tables of ratios."""
    named, spread = ratios(run), _spread(run)
    lines = [
        "Governed against the empty grpcio.aio processor (same Envoy, same number of messages):",
        "",
        "| case | messages | processor CPU | lowest, highest round | Envoy CPU | requests/s | p50 | p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in _cases(run):
        if "empty" not in case.setups:
            continue
        low, high = spread.get(f"{case.name}.processor_cpu.governed/empty", [0.0, 0.0])
        cells = [
            case.name, str(TARGETS[case.target].messages),
            _cell(named, f"{case.name}.processor_cpu.governed/empty"), f"{low:.2f}, {high:.2f}",
            _cell(named, f"{case.name}.envoy_cpu.governed/empty"), _cell(named, f"{case.name}.rate.governed/empty"),
            _cell(named, f"{case.name}.p50.governed/empty"), _cell(named, f"{case.name}.p99.governed/empty"),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Governed against bare Envoy (processor CPU in units of what bare Envoy spends on the request):",
        "",
        "| case | processor CPU | Envoy CPU | requests/s | p50 | p99 |",
        "|---|---|---|---|---|---|",
    ]
    for case in _cases(run):
        if "bare" not in case.setups:
            continue
        cells = [
            case.name, _cell(named, f"{case.name}.processor_cpu.governed/envoy_cpu.bare"),
            *(_cell(named, f"{case.name}.{what}.governed/bare") for what in ("envoy_cpu", "rate", "p50", "p99")),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Governed processor CPU against the small governed GET:",
        "",
        "| case | ratio | what |",
        "|---|---|---|",
    ]
    for case in _cases(run):
        if case.name != "get":
            lines.append(
                f"| {case.name} | {_cell(named, f'{case.name}.processor_cpu.governed/get')} | {case.about} |"
            )
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


def _cell(named: dict[str, float], name: str) -> str:
    return f"{named[name]:.2f}" if name in named else "n/a"


def _cases(run: Run) -> list[Case]:
    return list(dict.fromkeys(one.case for one in run.measured.values()))
