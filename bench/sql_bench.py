"""What SQL facts cost, as ratios within one run: `python -m bench.sql_bench [--json]`.

The facts of a text that was seen before, beside those of one that was not, and both beside the parser alone.
Times are CPU seconds of this process. The candidates take turns and each keeps its best round, so that a busy
machine disturbs all of them alike.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import postgast

from extproc.sql import analysis, analyze

STATEMENTS = {
    "pgbench -S": "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;",
    "insert": "INSERT INTO orders (customer, item, price) VALUES (7, 'a lamp', 19.90) RETURNING id",
    "report": (
        "WITH recent AS (SELECT * FROM orders WHERE placed > now() - interval '7 days')"
        " SELECT c.id, c.name, count(*), sum(r.price) FROM customers c JOIN recent r ON r.customer = c.id"
        " WHERE c.country IN ('CH', 'DE') GROUP BY c.id, c.name HAVING count(*) > 3 ORDER BY 4 DESC LIMIT 50"
    ),
    "1,000 rows": "INSERT INTO t VALUES " + ", ".join(["(1, 'abc', now(), -5)"] * 1_000),
}
ROUNDS = 7


def measure(statement: str) -> dict[str, float]:
    """Microseconds of CPU: parser alone, facts uncached, facts cached (0 where the text is too long for that)."""

    def uncached() -> None:
        analysis.cache_clear()
        analyze(statement)

    def cached() -> None:
        for _ in range(100):
            analyze(statement)

    def parser() -> None:
        postgast.parse(statement)

    is_cached = len(statement) <= analysis.CACHED_CHARACTERS
    candidates: dict[str, tuple[Callable[[], None], int]] = {"parser": (parser, 1), "uncached": (uncached, 1)}
    if is_cached:
        candidates["cached"] = (cached, 100)
    times = max(3, min(300, 60_000 // len(statement)))
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, (run, calls) in candidates.items():
            run()
            start = time.process_time()
            for _ in range(times):
                run()
            took = (time.process_time() - start) / times / calls * 1e6
            best[name] = min(took, best.get(name, took))
    return best


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true")
    as_json = options.parse_args(arguments).json
    found = {name: measure(statement) for name, statement in STATEMENTS.items()}
    ratios = {
        name: {
            "uncached/parser": round(times["uncached"] / times["parser"], 2),
            **({"uncached/cached": round(times["uncached"] / times["cached"])} if "cached" in times else {}),
        }
        for name, times in found.items()
    }
    if as_json:
        print(json.dumps({"microseconds": found, "ratios": ratios}))
        return
    for name, times in found.items():
        parts = ", ".join(f"{candidate} {took:.2f} µs" for candidate, took in times.items())
        print(f"{name:12} {ratios[name]}  ({parts})")


if __name__ == "__main__":
    main(sys.argv[1:])
