"""What governing Postgres costs: `python -m bench.postgres_bench`, `--quick` for under a minute.

pgbench -S and large results through every setup, one after the other in each round, so that noise hits all alike.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.bulk import fetch
from bench.cpu import cpu_now
from bench.postgres_rig import SETUPS, PostgresRig
from bench.report import RESULTS, write

MODES = {"simple-1": ("simple", 1), "extended-8": ("extended", 8), "prepared-8": ("prepared", 8)}
"""pgbench's protocol and clients."""
BULKS = {"clean": "SELECT body FROM bulk", "masked": "SELECT secret FROM bulk"}
"""A wide column that no mask names, and one that a mask replaces."""
GOALS = {
    "prepared-8.rate.relay/tcp_proxy": 0.55,
    "extended-8.rate.relay/tcp_proxy": 0.55,
    "prepared-8.rate.ext_proc/empty": 0.6,
    "extended-8.rate.ext_proc/empty": 0.6,
    "clean.rate.relay/tcp_proxy": 0.5,
    "masked.rate.relay/tcp_proxy": 0.25,
}
"""At least."""
PAIRS = [(setup, "tcp_proxy") for setup in SETUPS if setup != "tcp_proxy"]
PAIRS += [("ext_proc", "empty"), ("relay", "ext_proc")]


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when everything was measured."""
    parser = argparse.ArgumentParser(prog="bench.postgres_bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--rounds", type=int, help="how often everything is run")
    parser.add_argument("--seconds", type=float, help="how long pgbench runs each time")
    parser.add_argument("--megabytes", type=int, help="size of a large result")
    parser.add_argument("--case", action="append", choices=[*MODES, *BULKS], help="only these")
    parser.add_argument("--setup", action="append", choices=SETUPS, help="only these")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON")
    given = parser.parse_args(arguments)
    rounds = given.rounds or (1 if given.quick else 5)
    seconds = given.seconds or (1.0 if given.quick else 4.0)
    megabytes = given.megabytes or (20 if given.quick else 100)
    cases = given.case or [*MODES, *BULKS]
    setups = tuple(given.setup or SETUPS)
    results: Results = {case: {setup: Measured() for setup in setups} for case in cases}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, PostgresRig(
        Path(folder), megabytes=megabytes
    ) as rig:  # fmt: skip
        for number in range(rounds):
            order = rotated(setups, number)
            for case in cases:
                for setup in order:
                    if case in MODES:
                        _pgbench(rig, case, setup, seconds, results[case][setup])
                    else:
                        _bulk(rig, case, setup, megabytes, results[case][setup])
    found = ratios(results)
    print(markdown(results, found))
    result = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "kind": "postgres",
        "plan": {"rounds": rounds, "seconds": seconds, "megabytes": megabytes},
        "ratios": found,
        "goals": goals(found),
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


def _pgbench(rig: PostgresRig, case: str, setup: str, seconds: float, into: Measured) -> None:
    protocol, clients = MODES[case]
    login = rig.login(setup)
    before = _cpu(rig, setup)
    done = subprocess.run(
        ["pgbench", "-n", "-S", "-M", protocol, "-c", str(clients), "-j", "1", "-T", str(max(1, round(seconds))),
         "-h", login.host, "-p", str(login.port), "-U", login.user, "postgres"],
        env={**os.environ, "PGPASSWORD": login.password, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"},
        capture_output=True, text=True,
    )  # fmt: skip
    after = _cpu(rig, setup)
    count = re.search(r"actually processed: (\d+)", done.stdout)
    rate = re.search(r"tps = ([0-9.]+)", done.stdout)
    failed = re.search(r"failed transactions: (\d+)", done.stdout)
    if done.returncode or count is None or rate is None or (failed and failed[1] != "0"):
        raise SystemExit(f"pgbench through {setup}: {done.stdout[-500:]}{done.stderr[-1000:]}")
    into.rates.append(float(rate[1]))
    into.ours_us.append((after[0] - before[0]) * 1e6 / int(count[1]))
    into.envoy_us.append((after[1] - before[1]) * 1e6 / int(count[1]))


def _bulk(rig: PostgresRig, case: str, setup: str, megabytes: int, into: Measured) -> None:
    pids = [pid for pid in (rig.pids.get(setup), rig.pids["envoy"]) if pid]
    start = {pid: _reset_peak(pid) for pid in pids}
    before = _cpu(rig, setup)
    size, took = fetch(rig.login(setup), BULKS[case])
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


def _cpu(rig: PostgresRig, setup: str) -> tuple[float, float]:
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


def goals(found: dict[str, float]) -> list[dict[str, Any]]:
    """Those that were measured, and whether they are met."""
    return [
        {"ratio": name, "measured": found[name], "at_least": goal, "met": found[name] >= goal}
        for name, goal in GOALS.items()
        if name in found
    ]


def markdown(results: Results, found: dict[str, float]) -> str:
    """Rates against tcp_proxy, CPU, memory, goals."""
    lines = [
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
        for goal in goals(found)
    ]
    return "\n".join(lines)


def _to_json(one: Measured) -> dict[str, list[float]]:
    return {
        name: [round(value, 3) for value in getattr(one, name)]
        for name in ("rates", "ours_us", "envoy_us", "peak_mb", "envoy_peak_mb")
    }


if __name__ == "__main__":
    sys.exit(main())
