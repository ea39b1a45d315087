"""What extproc costs: `python -m bench`, `--quick` for under a minute, `--profile` for where the time goes."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import holds
from bench.cases import CASES, Setup
from bench.measure import BenchError, Plan, run
from bench.report import RESULTS, goals, markdown, markdown_goals, to_json, write
from bench.rig import Rig
from extproc.demo.processes import StartError

QUICK = Plan(rounds=3, requests=160, connections=8, rate=120.0, rate_seconds=0.2, settle=4.0)
FULL = Plan(rounds=9, requests=600, connections=8, rate=120.0, rate_seconds=1.5, settle=60.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 when everything was measured, 1 when something else than that happened."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the main cases in under a minute")
    parser.add_argument(
        "--profile", action="store_true", help="where the governed path spends its time, in-process"
    )
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="only these")
    parser.add_argument("--rounds", type=int, help="how often every case is run")
    parser.add_argument("--requests", type=int, help="requests of a round")
    parser.add_argument(
        "--connections", type=int, help="connections to a processor's worker at a time (default: 8)"
    )
    parser.add_argument(
        "--settle", type=float, help="seconds to wait for exporter and checkpointer at the end"
    )
    parser.add_argument(
        "--latency", type=float, metavar="SECONDS", help="open loop of a round, for p50 and p99"
    )
    parser.add_argument(
        "--holds",
        type=int,
        action="append",
        metavar="N",
        help="also with N open holds; 0 for none (default: 10, 1000 and 10000 unless --quick or --case)",
    )
    parser.add_argument("--no-export", action="store_true", help="without an exporter and a collector")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends too
    if given.profile:
        from bench.hotspots import report

        print(
            report(given.case or ["get", "post", "kept", "mask-dirty"], seconds=1.5 if given.quick else 6.0)
        )
        return 0
    base = QUICK if given.quick else FULL
    plan = Plan(
        given.rounds or base.rounds, given.requests or base.requests,
        given.connections or base.connections, base.rate,
        base.rate_seconds if given.latency is None else given.latency,
        base.settle if given.settle is None else given.settle,
    )  # fmt: skip
    cases = [
        case
        for case in CASES
        if (case.name in given.case if given.case else case.in_quick or not given.quick)
    ]
    setups = {case.name: case.quick_setups if given.quick else case.setups for case in cases}
    targets: dict[str, set[Setup]] = {}
    for case in cases:
        targets.setdefault(case.target, set()).update(setups[case.name])
    if given.holds is None:
        steps = [] if given.quick or given.case else [10, 1_000, 10_000]
    else:
        steps = sorted({count for count in given.holds if count > 0})
    try:
        # Unix sockets live here, and their paths must be short.
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            rig = Rig(Path(folder), targets, export=not given.no_export)
            with rig:
                done = run(rig, cases, plan, setups)
                result = to_json(done, rig)
        print(markdown(done))
        if steps:
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                held = holds.run(Path(folder), steps)
            result["holds"] = [level.to_json() for level in held]
            result["ratios"] |= holds.ratios(held)
            result["goals"] = goals(result["ratios"])
            print(holds.markdown(held))
    except (BenchError, StartError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(markdown_goals(result["goals"]))
    print(f"\nJSON: {write(result, given.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
