"""When a session's requests ran and when they waited for people, as bars on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from extproc.domain.display import escape_for_display
from extproc.ledger.exchanges import Exchange
from extproc.ledger.lines import Line

ROWS = 60
"""Bars that are drawn; the timeline has all of them."""
WIDTH = 1000
"""Of the scale, in units of the drawing."""
LABEL = 60
"""Characters of a bar's name."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One exchange or one wait. `left` and `width` are units of the scale."""

    label: str
    kind: str
    left: float
    width: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Waterfall:
    """The bars by their beginnings, how long the scale is, and how many bars are left out."""

    bars: tuple[Bar, ...]
    seconds: float
    omitted: int


def waterfall(exchanges: Sequence[Exchange], moves: Sequence[Line]) -> Waterfall:
    """Bars of exchanges whose end is known, and of holds from their opening to the move that ended the wait."""
    spans: list[tuple[float, float, str, str]] = []
    for exchange in exchanges:
        if exchange.text("operation") == "login":
            continue
        begin = exchange.at_us / 1e6
        end = exchange.outcome.at_us / 1e6 if exchange.outcome is not None else begin
        spans.append((begin, max(begin, end), exchange.text("verdict") or "unknown", exchange.asked))
    opened: dict[str, float] = {}
    for line in sorted(moves, key=lambda move: move.at):
        hold = str(line.fields.get("hold", ""))
        at = _seconds(line.at)
        if line.kind == "hold.opened":
            opened[hold] = at
        elif line.kind.startswith("hold.") and line.kind != "hold.vote" and hold in opened:
            spans.append((opened.pop(hold), at, "waits", f"waits for people: {hold}"))
    if not spans:
        return Waterfall((), 0.0, 0)
    spans.sort()
    start, stop = spans[0][0], max(end for _, end, _, _ in spans)
    scale = WIDTH / ((stop - start) or 1.0)
    bars = tuple(
        Bar(
            label=_label(text), kind=kind, left=round((begin - start) * scale, 1),
            width=round(max((end - begin) * scale, 3.0), 1), seconds=end - begin,
        )
        for begin, end, kind, text in spans[:ROWS]
    )  # fmt: skip
    return Waterfall(bars, stop - start, max(0, len(spans) - ROWS))


def _label(text: str) -> str:
    line = " ".join(text.split())
    return escape_for_display(line if len(line) <= LABEL else line[:LABEL] + "…")


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()
