"""Two processes' worth of SQLite stores, moved at random: whatever goes had every right to, by books of our own.

The books know nothing of `lifecycle` or `quorum`: they count what people said and look at the clock.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from extproc.adapters.hold_sqlite import SqliteHoldStore
from extproc.domain.demand import BreakGlass, HoldDemand, Quorum
from extproc.domain.hold import HeldRequest, HoldAsk, HoldError, HoldState, Verdict
from extproc.domain.principal import Principal
from tests.support.holds import AGENT, ANNA, BERT, CLEO, NOW, OLGA, ask, demand, principal, vote

T = TypeVar("T")
EXPIRES, USE_WITHIN = 3600.0, 600.0
EVERYBODY = [
    ANNA, BERT, CLEO, OLGA, AGENT,
    principal("anna-too", "sre", "dpo", person=ANNA.person),
    principal("alias", "sre", "dpo", person=AGENT.person),
    principal("robot", "sre", "dpo", kind="agent"),
    principal("stranger"),
]  # fmt: skip
DEMANDS: dict[str, HoldDemand] = {
    "one": demand(digest="1" * 64),
    "two": demand(Quorum("sre", 2), digest="2" * 64, break_glass=BreakGlass((("oncall",),), 1000.0)),
    "mixed": demand(Quorum("sre"), Quorum("dpo"), digest="3" * 64),
}


@dataclass
class Book:
    """What we know of one hold: who said yes when it could still be said, and what became of it."""

    ask: HoldAsk
    opened_at: float
    yes: list[Principal] = field(default_factory=list)
    said_no: bool = False
    emergency: bool = False
    approved_at: float = 0.0
    is_closed: bool = False
    went: list[str] = field(default_factory=list)

    def has_quorum(self) -> bool:
        """Every place is somebody else's, tried one way after the other."""
        places = [quorum.group for quorum in self.ask.demand.quorums for _ in range(quorum.count)]
        people: dict[str, set[str]] = {}
        for who in self.yes:
            if who.kind == "human" and who.person != self.ask.requester.person:
                people.setdefault(who.person, set()).update(who.groups)
        return any(
            all(place in people[person] for place, person in zip(places, seated, strict=True))
            for seated in itertools.permutations(people, len(places))
        )


class Story(RuleBasedStateMachine):
    """Requests ask, people decide, processes start anew, time goes on."""

    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="holds-")
        self._runner = asyncio.Runner()
        self._now = NOW
        self._numbers = itertools.count()
        self._books: dict[str, Book] = {}
        self._stores = [self._store(), self._store()]

    def teardown(self) -> None:
        for store in self._stores:
            self._run(store.aclose())
        self._runner.close()
        self._folder.cleanup()

    @rule(
        target=holds,
        which=st.integers(0, 1),
        what=st.sampled_from(["bytes-1", "bytes-2"]),
        policy=st.sampled_from(sorted(DEMANDS)),
        who=st.sampled_from([AGENT, OLGA]),
    )
    def a_request_waits(self, which: int, what: str, policy: str, who: Principal) -> str:
        asked = ask(f"{what} {policy} {who.subject}", requester=who, wants=DEMANDS[policy])
        held = self._run(self._stores[which].open(asked, self._now))
        if held.id not in self._books:
            self._books[held.id] = Book(asked, self._now)
        # never other bytes, never another policy, never somebody else's
        book = self._books[held.id]
        assert (held.ask.binding, held.ask.demand) == (asked.binding, asked.demand) == (
            book.ask.binding, book.ask.demand,
        )  # fmt: skip
        assert not book.is_closed and not book.went
        return held.id

    @rule(which=st.integers(0, 1), hold=holds, who=st.sampled_from(EVERYBODY), approve=st.booleans())
    def somebody_decides(self, which: int, hold: str, who: Principal, approve: bool) -> None:
        book = self._books[hold]
        held = self._try(self._stores[which].vote(hold, vote(who, approve), self._now))
        if held is None or len(held.votes) == len(book.yes) + book.said_no:
            return
        assert not book.is_closed and not book.approved_at and self._now < book.opened_at + EXPIRES
        if approve:
            book.yes.append(who)
        else:
            book.said_no = book.is_closed = True
        if held.state is HoldState.APPROVED:
            assert book.has_quorum()
            book.approved_at = self._now

    @rule(which=st.integers(0, 1), hold=holds, who=st.sampled_from(EVERYBODY))
    def somebody_breaks_the_glass(self, which: int, hold: str, who: Principal) -> None:
        book = self._books[hold]
        held = self._try(self._stores[which].break_glass(hold, who, "down", self._now))
        if held is None or book.emergency:
            return
        assert who == OLGA == book.ask.requester and book.ask.demand.break_glass is not None
        assert not book.is_closed and not book.approved_at
        book.emergency, book.approved_at = True, self._now

    @rule(which=st.integers(0, 1), hold=holds)
    def it_goes(self, which: int, hold: str) -> None:
        book, decision = self._books[hold], f"dec-{next(self._numbers)}"
        held = self._try(self._stores[which].release(hold, decision, self._now))
        in_time = bool(book.approved_at) and self._now < book.approved_at + USE_WITHIN
        entitled = in_time and not book.is_closed and not book.went
        assert (held is not None) == entitled
        if held is not None:
            assert book.has_quorum() or book.emergency
            book.went.append(decision)

    @rule(hold=holds)
    def two_ask_to_go_at_once(self, hold: str) -> None:
        book = self._books[hold]

        async def race() -> list[HeldRequest | BaseException]:
            calls = [
                store.release(hold, f"dec-{next(self._numbers)}", self._now)
                for store in (*self._stores, *self._stores)
            ]
            return await asyncio.gather(*calls, return_exceptions=True)

        ended = self._run(race())
        won = [each.released_to for each in ended if isinstance(each, HeldRequest)]
        assert all(isinstance(each, HoldError) for each in ended if not isinstance(each, HeldRequest))
        book.went += won
        assert len(book.went) <= 1

    @rule(
        which=st.integers(0, 1),
        hold=holds,
        verdict=st.sampled_from([Verdict.REVOKE, Verdict.VOID, Verdict.WITHDRAW, Verdict.ABANDON]),
    )
    def it_is_closed(self, which: int, hold: str, verdict: Verdict) -> None:
        if self._try(self._stores[which].close(hold, verdict, self._now, by="x", reason="y")) is not None:
            assert not self._books[hold].went
            self._books[hold].is_closed = True

    @rule(seconds=st.sampled_from([1.0, 599.0, 600.0, 3000.0]))
    def time_goes_on(self, seconds: float) -> None:
        self._now += seconds

    @rule(which=st.integers(0, 1))
    def a_process_starts_anew(self, which: int) -> None:
        self._run(self._stores[which].aclose())
        self._stores[which] = self._store()

    @invariant()
    def no_hold_went_twice_and_both_processes_see_the_same(self) -> None:
        for hold, book in self._books.items():
            one, two = (self._run(store.get(hold, self._now)) for store in self._stores)
            assert one == two and one is not None
            assert len(book.went) <= 1
            assert (one.state is HoldState.RELEASED) == bool(book.went)
            assert one.released_to == "".join(book.went)

    def _store(self) -> SqliteHoldStore:
        return SqliteHoldStore(Path(self._folder.name) / "holds.db", clock=lambda: self._now)

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def _try(self, call: Coroutine[Any, Any, HeldRequest]) -> HeldRequest | None:
        try:
            return self._run(call)
        except HoldError:
            return None


Story.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestStory = Story.TestCase
