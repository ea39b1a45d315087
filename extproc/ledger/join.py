"""Joins records into spans: an intent with its outcome, a hold's opening with its decision."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from extproc.domain.record import ACCESS, INTENT, OUTCOME
from extproc.ledger.lines import Line
from extproc.ledger.spans import (
    SpanContext,
    SpanView,
    context_of,
    hold_context,
    hold_id_of,
    hold_span,
    record_span,
    request_span,
)

Place = TypeVar("Place")
REMEMBERED = 20_000
"""Finished requests and holds whose ids are kept for links and parents."""
OUTCOME_GRACE = 30_000_000
"""Microseconds that an outcome may lag behind an intent whose writer has ended."""
OPEN_LIMIT = 6 * 3600 * 1_000_000
"""Microseconds after which an exchange of a living writer is shown without its outcome."""
PARENT_GRACE = 60_000_000
"""Microseconds that a decided hold waits for the request it belongs to."""


@dataclass(slots=True)
class _OpenRequest(Generic[Place]):
    intent: Line
    places: list[Place]


@dataclass(slots=True)
class _OpenHold(Generic[Place]):
    opened: Line
    places: list[Place]
    between: list[Line] = field(default_factory=list)
    """Votes, and an emergency: the approval that follows says so; what else it says is in the request's record."""
    decided: Line | None = None

    @property
    def decision_id(self) -> str:
        return str(self.opened.fields.get("decision_id", ""))

    def span(self, parent: SpanContext | None) -> SpanView:
        return hold_span(self.opened, self.decided, self.between, parent)


class Joiner(Generic[Place]):
    """Takes lines in the order of each writer and gives spans when they are complete.

    `Place` says where a line can be read again; `open_places` are those that are still needed.
    """

    def __init__(self) -> None:
        self._requests: dict[str, _OpenRequest[Place]] = {}
        self._holds: dict[str, _OpenHold[Place]] = {}
        self._waiting: dict[str, list[_OpenHold[Place]]] = {}  # decided, by the decision id of their request
        self._seen_requests = _Remembered()
        self._seen_holds = _Remembered()

    def take(self, line: Line, place: Place) -> Iterator[SpanView]:
        """One more line; what is complete now."""
        if line.kind == INTENT:
            yield from self._take_intent(line, place)
        elif line.kind == OUTCOME:
            yield self._take_outcome(line)
        elif line.kind.startswith("hold."):
            yield from self._take_hold(line, place)
        else:
            yield record_span(line)

    def give_up(self, now_us: int, has_ended: Callable[[str], bool]) -> Iterator[SpanView]:
        """Spans that will not become more complete: `has_ended` knows writers whose lines were all read."""
        for decision_id, request in list(self._requests.items()):
            age = now_us - request.intent.at_us
            if age >= OPEN_LIMIT or (age >= OUTCOME_GRACE and has_ended(request.intent.writer)):
                del self._requests[decision_id]
                yield request_span(request.intent, None, self._hold_of(request.intent))
        for decision_id, holds in list(self._waiting.items()):
            for hold in list(holds):
                if hold.decided is not None and now_us - hold.decided.at_us >= PARENT_GRACE:
                    holds.remove(hold)
                    yield hold.span(None)
            if not holds:
                del self._waiting[decision_id]

    def open_places(self) -> Iterator[Place]:
        """Where the lines stand that are not in any finished span yet."""
        for request in self._requests.values():
            yield from request.places
        for hold in self._holds.values():
            yield from hold.places
        for holds in self._waiting.values():
            for hold in holds:
                yield from hold.places

    def _take_intent(self, line: Line, place: Place) -> Iterator[SpanView]:
        decision_id = str(line.fields.get("decision_id", "")) or line.hash
        context = context_of(line)
        self._seen_requests.put(decision_id, context)
        self._requests[decision_id] = _OpenRequest(line, [place])
        for hold in self._waiting.pop(decision_id, ()):
            yield hold.span(context)

    def _take_outcome(self, line: Line) -> SpanView:
        request = self._requests.pop(str(line.fields.get("decision_id", "")), None)
        if request is None:
            return request_span(None, line)
        return request_span(request.intent, line, self._hold_of(request.intent))

    def _take_hold(self, line: Line, place: Place) -> Iterator[SpanView]:
        hold_id = hold_id_of(line)
        if line.kind == "hold.opened":
            self._seen_holds.put(hold_id, hold_context(line))
            self._holds[hold_id] = _OpenHold(line, [place])
            return
        hold = self._holds.get(hold_id)
        if hold is None:
            yield record_span(line, self._seen_holds.get(hold_id))
            return
        hold.places.append(place)
        if line.kind in ("hold.vote", "hold.break_glass"):
            hold.between.append(line)
            return
        del self._holds[hold_id]
        hold.decided = line
        request = self._seen_requests.get(hold.decision_id)
        if request is not None or not hold.decision_id:
            yield hold.span(request)
        else:
            self._waiting.setdefault(hold.decision_id, []).append(hold)

    def _hold_of(self, intent: Line) -> SpanContext | None:
        hold_id = hold_id_of(intent)
        return self._seen_holds.get(hold_id) if hold_id else None


def is_spanless(line: Line) -> bool:
    """How a request of ours ended, as Envoy tells it, is in that request's span already."""
    return line.kind == ACCESS and line.fields.get("coverage") == "joined"


class _Remembered:
    """The latest ids, and no more than fit."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, SpanContext] = OrderedDict()

    def put(self, name: str, context: SpanContext) -> None:
        self._kept[name] = context
        if len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)

    def get(self, name: str) -> SpanContext | None:
        return self._kept.get(name)
