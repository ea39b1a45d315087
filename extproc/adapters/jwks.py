"""The key sets of all providers: looked up without waiting, refreshed one flight at a time, and gone when too old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import httpx2

from extproc.adapters.jwks_sources import FETCH_SECONDS, KeySource, KeySourceError, load_keys
from extproc.identity import HeldKey, KeyAbsence, KeySet

MAX_REMEMBERED_KIDS: Final = 1_000
"""Per provider: kids asked for, and kids known to be unknown."""


@dataclass(frozen=True, slots=True)
class KeyTimes:
    """All in seconds. A set is renewed from `refresh_after`, stale from `max_age` and gone `stale_if_error` later.

    A provider is asked at most once per `min_interval`, whoever wants it; an unknown kid is not asked for again
    within `unknown_for`. Files are looked at every `file_interval`.
    """

    refresh_after: float = 300.0
    max_age: float = 600.0
    stale_if_error: float = 3_600.0
    min_interval: float = 10.0
    unknown_for: float = 60.0
    file_interval: float = 10.0
    deadline: float = FETCH_SECONDS


@dataclass(frozen=True, slots=True)
class KeyHealth:
    """How a provider's keys stand. `age` is in seconds, None when none are held; `error` is the last refresh's."""

    provider: str
    keys: int
    age: float | None
    is_stale: bool
    error: str
    notes: dict[str, int]
    """Published keys that were left out or mended, by reason."""


@dataclass(slots=True)
class _Held:
    """What is known of one provider. Times are Unix seconds; minus infinity means never."""

    source: KeySource
    keys: KeySet | None = None
    stamp: tuple[int, ...] = ()
    fetched_at: float = float("-inf")
    asked_at: float = float("-inf")
    error: str = ""
    wanted: dict[str, None] = field(default_factory=dict)
    """Kids that the next refresh will be judged by."""
    unknown: dict[str, float] = field(default_factory=dict)
    """Kids that a refresh did not bring, and until when that is believed."""


class JwksKeys:
    """A KeyLookup over key sources. Lookups are synchronous; `refresh` and `run` do the waiting.

    One event loop, no locks. Keys that a refresh no longer brings, or that became too old, raise `generation`.
    """

    def __init__(
        self,
        sources: Iterable[KeySource],
        times: KeyTimes | None = None,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Reads the machine's certificate authorities (or `SSL_CERT_FILE`) once; a change of them needs a restart."""
        self._held = {source.provider: _Held(source) for source in sources}
        self._times = times or KeyTimes()
        asks_the_network = transport is None and any(not held.source.is_file for held in self._held.values())
        self._tls = httpx2.create_ssl_context() if asks_the_network else None
        self._transport = transport
        self._flights: dict[str, asyncio.Task[bool]] = {}
        self.generation = 0
        """Grows whenever a key that could have verified a token is no longer held."""

    def key(self, provider: str, kid: str, alg: str, now: float) -> HeldKey | KeyAbsence:
        """See KeyLookup. KeyError for a provider that has no source."""
        held = self._held[provider]
        self._drop_if_too_old(held, now)
        if held.keys is None:
            return KeyAbsence.FETCH if self._may_ask(held, now) else KeyAbsence.UNAVAILABLE
        is_stale = not self._is_within(held.fetched_at, self._times.max_age, now)
        if is_stale and self._is_due(held, now):
            return KeyAbsence.FETCH
        key = held.keys.find(kid, alg)
        if key is not None:
            return HeldKey(key, held.fetched_at + self._times.max_age + self._times.stale_if_error)
        if held.keys.knows(kid):
            return KeyAbsence.MISFIT
        if held.unknown.get(kid, now) > now or not self._may_ask(held, now):
            return KeyAbsence.UNKNOWN
        _remember(held.wanted, kid, None)
        return KeyAbsence.FETCH

    async def refresh(self, provider: str, now: float) -> bool:
        """Ask the provider's source, joining a flight that is under way. Whether the keys are now fresh.

        Returns False without asking when it was asked less than `min_interval` ago. Never raises for a source's
        failure: it stays in `health`. A caller that leaves does not end the flight others wait for.
        """
        flight = self._flights.get(provider)
        if flight is None:
            held = self._held[provider]
            if not self._is_due(held, now):
                return self._is_within(held.fetched_at, self._times.min_interval, now)
            held.asked_at = now
            flight = asyncio.create_task(self._fly(held, now), name=f"keys of {provider}")
            self._flights[provider] = flight
            flight.add_done_callback(lambda _: self._flights.pop(provider, None))
        return await asyncio.shield(flight)

    async def refresh_due(self, now: float) -> None:
        """Refresh every provider whose keys are missing or old enough to be renewed."""
        await asyncio.gather(*(self.refresh(name, now) for name in self.due(now)))

    def due(self, now: float) -> list[str]:
        """The providers that `refresh_due` would ask."""
        return [name for name, held in self._held.items() if self._renewal_is_due(held, now)]

    async def run(
        self,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Keep all keys fresh until cancelled. A set is renewed well before it is stale, so requests seldom wait."""
        while True:
            await self.refresh_due(clock())
            await sleep(1.0)

    async def close(self) -> None:
        """End the flights that are under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def health(self, now: float) -> list[KeyHealth]:
        """One entry per provider, in the order of the configuration."""
        found = []
        for name, held in self._held.items():
            self._drop_if_too_old(held, now)
            age = None if held.keys is None else max(0.0, now - held.fetched_at)
            is_stale = age is None or age >= self._times.max_age
            keys, notes = (0, {}) if held.keys is None else (len(held.keys), held.keys.notes)
            found.append(KeyHealth(name, keys, age, is_stale, held.error, dict(notes)))
        return found

    async def _fly(self, held: _Held, now: float) -> bool:
        wanted = list(held.wanted)
        try:
            loaded = await load_keys(
                held.source,
                held.stamp,
                seconds=self._times.deadline,
                tls=self._tls,
                transport=self._transport,
            )
        except KeySourceError as error:
            held.error = str(error)
            return False
        except Exception as error:  # a surprise in one refresh must not end the refreshing
            held.error = f"refreshing failed unexpectedly ({type(error).__name__})"
            return False
        finally:
            held.wanted.clear()
        if loaded.keys is not None:
            self._replace(held, loaded.keys)
        held.stamp, held.fetched_at, held.error = loaded.stamp, now, ""
        for kid in wanted:
            if held.keys is not None and not held.keys.knows(kid):
                _remember(held.unknown, kid, now + self._times.unknown_for)
        return True

    def _replace(self, held: _Held, keys: KeySet | None) -> None:
        before = set(held.keys.keys) if held.keys is not None else set()
        after = set(keys.keys) if keys is not None else set()
        if before - after:
            self.generation += 1
        held.keys = keys

    def _drop_if_too_old(self, held: _Held, now: float) -> None:
        lifetime = self._times.max_age + self._times.stale_if_error
        if held.keys is not None and not self._is_within(held.fetched_at, lifetime, now):
            self._replace(held, None)
            held.stamp = ()

    def _may_ask(self, held: _Held, now: float) -> bool:
        return held.source.provider in self._flights or self._is_due(held, now)

    def _is_due(self, held: _Held, now: float) -> bool:
        return not self._is_within(held.asked_at, self._times.min_interval, now)

    def _renewal_is_due(self, held: _Held, now: float) -> bool:
        after = self._times.file_interval if held.source.is_file else self._times.refresh_after
        wants = held.keys is None or not self._is_within(held.fetched_at, after, now)
        return wants and self._is_due(held, now)

    @staticmethod
    def _is_within(since: float, seconds: float, now: float) -> bool:
        """Whether `now` is less than `seconds` after `since`. A clock that was set far back counts as long after."""
        return -seconds < now - since < seconds


_V = TypeVar("_V")


def _remember(kids: dict[str, _V], kid: str, value: _V) -> None:
    """Newest last; the oldest makes room, so that made-up kids cannot fill the memory."""
    kids.pop(kid, None)
    kids[kid] = value
    if len(kids) > MAX_REMEMBERED_KIDS:
        del kids[next(iter(kids))]
