"""A cut of the ledger: the records of a period, with the proof that they are all of them (docs/evidence.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from extproc.ledger.checkpoint import WriterHead
from extproc.ledger.lines import Line
from extproc.ledger.merkle import prove_consistency, prove_range

Shown = Callable[[Line], bool]

OF_EVERYBODY = (
    "start",
    "stop",
    "gap",
    "policy.activated",
    "policy.refused",
    "config.loaded",
    "evidence.exporting",
)
"""Kinds that are shown whatever target the packet is about: they say whether the rest can be relied on."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Every writer's tree at one checkpoint."""

    checkpoint: int
    heads: Mapping[str, WriterHead]

    def to_json(self) -> dict[str, Any]:
        ordered = sorted(self.heads.values(), key=lambda head: head.writer)
        return {
            "checkpoint": self.checkpoint,
            "heads": [[head.writer, head.size, head.root, head.head] for head in ordered],
        }


@dataclass(slots=True)
class Cut:
    """What goes into a packet. `period` are the lines of the period that are shown, without borders."""

    since: str
    until: str
    before: Heads | None
    after: Heads | None
    shown: list[tuple[Line, bytes]] = field(default_factory=list)
    hidden: list[dict[str, Any]] = field(default_factory=list)
    ranges: list[dict[str, Any]] = field(default_factory=list)
    period: list[Line] = field(default_factory=list)
    counts: list[dict[str, Any]] = field(default_factory=list)

    def add_writer(
        self,
        writer: str,
        hashes: Sequence[bytes],
        times: Sequence[str],
        lines: Callable[[int, int], Iterable[tuple[Line, bytes]]],
        shown: Shown,
        *,
        whole: bool = False,
    ) -> None:
        """Take what belongs to the period from one writer, and one record on each side of it.

        `hashes` and `times` are those of all its records; `lines(first, last)` reads some of them. `whole` takes
        all of them.
        """
        old = self.before.heads[writer].size if self.before and writer in self.before.heads else 0
        size = self.after.heads[writer].size if self.after and writer in self.after.heads else 0
        first, last = (0, len(hashes) - 1) if whole else span(times, self.since, self.until)
        inside = sum(self.since <= at < self.until for at in times[first : last + 1])
        if last < first or (not inside and not whole and size <= old):
            return
        place = {"writer": writer, "first": first, "last": last, "proof": [], "consistency": []}
        signed = min(last + 1, size)
        if signed > first:
            tree = hashes[:size]
            place["proof"] = [node.hex() for node in prove_range(tree, first, signed)]
            if 0 < old < size:
                place["consistency"] = [node.hex() for node in prove_consistency(tree, old)]
        self.ranges.append(place)
        count = 0
        for line, raw in lines(first, last):
            if shown(line):
                self.shown.append((line, raw))
                if self.since <= line.at < self.until:
                    self.period.append(line)
                    count += 1
            else:
                self.hidden.append({"writer": writer, "seq": line.seq, "hash": line.hash})
        self.counts.append(
            {
                "writer": writer,
                "first": first,
                "last": last,
                "in_period": inside,
                "shown": count,
                "tree_before": old,
                "tree_after": size,
                "unsigned": max(0, last + 1 - max(signed, first)),
            }
        )

    def add_record(self, hashes: Sequence[bytes], line: Line, raw: bytes) -> None:
        """A single record from outside the period that something in it rests on, with its own proof."""
        size = self.after.heads[line.writer].size if self.after and line.writer in self.after.heads else 0
        if any(known.writer == line.writer and known.seq == line.seq for known, _ in self.shown):
            return
        proof = prove_range(hashes[:size], line.seq, line.seq + 1) if line.seq < size else []
        place = {"writer": line.writer, "first": line.seq, "last": line.seq, "consistency": [], "extra": True}
        old = self.before.heads[line.writer].size if self.before and line.writer in self.before.heads else 0
        if 0 < old < size and line.seq < size:
            place["consistency"] = [node.hex() for node in prove_consistency(hashes[:size], old)]
        self.ranges.append({**place, "proof": [node.hex() for node in proof]})
        self.shown.append((line, raw))

    def proof(self) -> dict[str, Any]:
        """`ledger/proof.json`."""
        return {
            "before": self.before.to_json() if self.before else None,
            "after": self.after.to_json() if self.after else None,
            "ranges": self.ranges,
            "unchecked": [],
        }


def span(times: Sequence[str], since: str, until: str) -> tuple[int, int]:
    """The first and last index that a period needs, with one record on each side if there is one.

    Nothing before the first lies at `since` or later, nothing after the last before `until`. (0, -1) if empty.
    """
    first = next((at for at, time in enumerate(times) if time >= since), len(times))
    last = next((at for at in reversed(range(len(times))) if times[at] < until), -1)
    return max(first - 1, 0), min(last + 1, len(times) - 1)


def about_target(target: str, holds: frozenset[str]) -> Shown:
    """Shows records about one target: its exchanges, their holds and grants, and what concerns everybody."""

    def shown(line: Line) -> bool:
        return (
            line.kind in OF_EVERYBODY
            or line.fields.get("target") == target
            or (isinstance(line.fields.get("hold"), str) and line.fields["hold"] in holds)
        )

    return shown
