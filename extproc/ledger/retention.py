"""How long payloads are kept, what a legal hold keeps from erasure, and the tombstones that say what was erased."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from extproc.ledger.lines import Line, role_of

ROLE = "retention"
"""Role of the writers that hold legal holds and tombstones."""
HELD, LET_GO, ERASED = "retention.held", "retention.let_go", "retention.erased"
MOST_SEQS = 20_000
"""Sequence numbers in one tombstone; more make another."""

Erased = Mapping[str, Mapping[int, frozenset[str]]]
"""Writer → sequence number → names of the payloads that a tombstone tells of."""


@dataclass(frozen=True, slots=True)
class KeepRule:
    """Payloads of these targets, names, principals and records (none: all) are kept this long, in seconds."""

    keep: float
    targets: tuple[str, ...] = ()
    payloads: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    records: tuple[str, ...] = ()

    def is_for(self, line: Line, payload: str, people: Iterable[str]) -> bool:
        """Does this rule say how long it is kept? `people` are the names of whoever the record is about."""
        return (
            _is_in(str(line.fields.get("target", "")), self.targets)
            and _is_in(payload, self.payloads)
            and (not self.principals or any(name and _is_in(name, self.principals) for name in people))
            and (not self.records or f"{line.writer}:{line.seq}" in self.records)
        )


@dataclass(frozen=True, slots=True)
class LegalHold:
    """Nothing it covers is erased while it stands. Empty fields cover everything; times as in lines."""

    id: str
    reason: str
    target: str = ""
    principal: str = ""
    since: str = ""
    until: str = ""
    at: str = ""

    def covers(self, line: Line, people: Iterable[str] | None) -> bool:
        """Would erasing this record's payloads break the hold?

        `people` are the names of whoever it is about; None, if that is not known, may be anybody.
        """
        return (
            (not self.target or fnmatchcase(str(line.fields.get("target", "")), self.target))
            and (not self.principal or _is_about(people, self.principal))
            and (not self.since or line.at >= self.since)
            and (not self.until or line.at < self.until)
        )


def people_of(line: Line) -> tuple[str, ...]:
    """Subject and person of who asked; empty where the record does not say."""
    for name in ("principal", "requester"):
        found = line.fields.get(name)
        if isinstance(found, dict):
            return str(found.get("subject", "")), str(found.get("person", ""))
    return ()


def standing_holds(lines: Iterable[Line]) -> list[LegalHold]:
    """The holds that were not let go, in the order they were made. `lines` are those of retention writers."""
    holds: dict[str, LegalHold] = {}
    for line in sorted(lines, key=lambda line: (line.at, line.writer, line.seq)):
        name = str(line.fields.get("legal_hold", ""))
        if line.kind == HELD:
            scope = line.fields.get("scope")
            kept = {k: str(v) for k, v in scope.items()} if isinstance(scope, dict) else {}
            known = {k: kept.get(k, "") for k in ("target", "principal", "since", "until")}
            holds[name] = LegalHold(name, str(line.fields.get("reason", "")), **known, at=line.at)
        elif line.kind == LET_GO:
            holds.pop(name, None)
    return list(holds.values())


def tombstones(writer: str, payload: str, seqs: list[int]) -> list[dict[str, Any]]:
    """The fields of the records that tell what is erased: one for every MOST_SEQS payloads."""
    return [
        {"writer_of": writer, "payload": payload, "seqs": seqs[at : at + MOST_SEQS]}
        for at in range(0, len(seqs), MOST_SEQS)
    ]


def read_tombstones(lines: Iterable[Line]) -> Erased:
    """What tombstones tell of. `lines` may be of any writers; only those of retention writers count."""
    found: dict[str, dict[int, frozenset[str]]] = {}
    for line in lines:
        if line.kind != ERASED or role_of(line.writer) != ROLE:
            continue
        writer, payload, seqs = (line.fields.get(name) for name in ("writer_of", "payload", "seqs"))
        if isinstance(writer, str) and isinstance(payload, str) and isinstance(seqs, list):
            of_writer = found.setdefault(writer, {})
            for seq in seqs:
                if type(seq) is int:
                    of_writer[seq] = of_writer.get(seq, frozenset()) | {payload}
    return found


def _is_about(people: Iterable[str] | None, principal: str) -> bool:
    return people is None or any(fnmatchcase(name, principal) for name in people)


def _is_in(name: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
