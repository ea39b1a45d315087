"""A KeyLookup in memory, for tests that need no network and no refresh."""

from __future__ import annotations

from extproc.demo.issuer import Issuer
from extproc.identity import HeldKey, KeyAbsence, KeySet, parse_key_set


class MemoryKeys:
    """Keys of providers as a plain mapping. What it does not hold it answers with `absence`."""

    def __init__(self, sets: dict[str, KeySet], absence: KeyAbsence = KeyAbsence.UNKNOWN) -> None:
        self.sets = sets
        self.absence = absence
        self.generation = 0
        self.usable_until = float("inf")
        self.asked: list[tuple[str, str, str]] = []

    @classmethod
    def of(cls, issuer: Issuer, provider: str = "corp") -> MemoryKeys:
        """The keys that `issuer` publishes now."""
        return cls({provider: parse_key_set(issuer.jwks_bytes())})

    def key(self, provider: str, kid: str, alg: str, now: float) -> HeldKey | KeyAbsence:
        self.asked.append((provider, kid, alg))
        held = self.sets.get(provider)
        if held is None:
            return self.absence
        key = held.find(kid, alg)
        if key is not None:
            return HeldKey(key, self.usable_until)
        return KeyAbsence.MISFIT if held.knows(kid) else self.absence
