"""A writer in a process of its own, to be killed: prints each acknowledged sequence number."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from extproc.adapters.ledger_files import LedgerWriter
from tests.support.books import intent, outcome


def main() -> None:
    directory, name = sys.argv[1:]
    writer = LedgerWriter(Path(directory), writer_id=name, clock=time.time, segment_bytes=200_000)
    for number in range(1_000_000):
        writer.append(intent(number))
        writer.append(outcome(number))
        writer.commit()
        sys.stdout.write(f"{2 * number + 2}\n")  # after the start, and two by two
        sys.stdout.flush()


if __name__ == "__main__":
    main()
