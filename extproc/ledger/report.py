"""What a verifier found: problems, each writer's state, and what could not be checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_PROBLEMS = 1000
"""Problems kept one by one; the rest are counted."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `seq` is the first record it concerns and `last` the last, if they differ.

    `seq` is -1 where no record can be named. Codes: malformed, altered, missing, repeated, foreign, torn,
    rewritten, truncated, missing-writer, missing-segment, predecessor, signature, checkpoint, alarm,
    payload-missing, payload-erased, payload-mismatch, witness.
    """

    code: str
    writer: str
    seq: int
    message: str
    last: int = -1
    place: str = ""

    def __str__(self) -> str:
        where = self.writer or "checkpoints.log"
        if self.seq >= 0:
            where += f":{self.seq}" + (f"-{self.last}" if self.last > self.seq else "")
        return f"{where}: {self.code}: {self.message}" + (f" ({self.place})" if self.place else "")

    def to_json(self) -> dict[str, Any]:
        """The form `verify --json` prints."""
        shown: dict[str, Any] = {"code": self.code, "writer": self.writer, "seq": self.seq}
        if self.last > self.seq:
            shown["last"] = self.last
        return shown | {"message": self.message, "place": self.place}


@dataclass(slots=True)
class WriterReport:
    """One writer as it was found. Hashes in hex, times as in the lines."""

    writer: str
    records: int = 0
    head: str = ""
    root: str = ""
    first_at: str = ""
    last_at: str = ""
    signed: int = 0
    torn_bytes: int = 0
    stopped: bool = False
    payloads: int = 0
    erased: int = 0
    erased_unsigned: int = 0
    """Of `erased`: those whose tombstone is under no checkpoint."""
    sealed: int = 0

    @property
    def unsigned(self) -> int:
        """Records after the last checkpoint."""
        return max(0, self.records - self.signed)

    def to_json(self) -> dict[str, Any]:
        """The form `verify --json` prints."""
        shown = {name: getattr(self, name) for name in self.__slots__}
        return shown | {"unsigned": self.unsigned}


@dataclass(slots=True)
class Report:
    """The verdict. `ok` means that nothing is wrong in what could be checked; `unchecked` says what could not."""

    problems: list[Problem] = field(default_factory=list)
    more_problems: int = 0
    writers: dict[str, WriterReport] = field(default_factory=dict)
    checkpoints: int = 0
    last_checkpoint: str = ""
    notes: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """No problem was found."""
        return not self.problems

    @property
    def records(self) -> int:
        """Records in all writers."""
        return sum(writer.records for writer in self.writers.values())

    @property
    def unsigned(self) -> int:
        """Records after the last checkpoint, in all writers."""
        return sum(writer.unsigned for writer in self.writers.values())

    def add(self, problem: Problem) -> None:
        """Keep it, or count it if there are very many."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        else:
            self.more_problems += 1

    def to_json(self) -> dict[str, Any]:
        """The form `verify --json` prints."""
        return {
            "ok": self.ok,
            "records": self.records,
            "unsigned": self.unsigned,
            "checkpoints": self.checkpoints,
            "last_checkpoint": self.last_checkpoint,
            "problems": [problem.to_json() for problem in self.problems],
            "more_problems": self.more_problems,
            "writers": [writer.to_json() for writer in self.writers.values()],
            "notes": self.notes,
            "unchecked": self.unchecked,
        }
