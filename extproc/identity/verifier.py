"""token + keys + now -> Principal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from extproc.domain.errors import ConfigError
from extproc.domain.principal import Principal
from extproc.identity.challenge import token_error
from extproc.identity.claims import (
    ClaimRules,
    check_audience,
    check_shape,
    check_times,
    principal_from_claims,
)
from extproc.identity.compact import CompactToken, parse_compact
from extproc.identity.keys import ALGORITHMS, HeldKey, KeyAbsence, KeyLookup

CACHE_SECONDS: Final = 300.0
MAX_SKEW: Final = 300.0


@dataclass(frozen=True, slots=True)
class ProviderRules:
    """What is accepted from one issuer. `skew` is in seconds and applies to exp, nbf and iat.

    Raises ConfigError for an empty issuer or audience list, an algorithm outside ALGORITHMS, or a skew beyond 5 min.
    """

    name: str
    issuer: str
    audiences: tuple[str, ...]
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    skew: float = 30.0
    claims: ClaimRules = ClaimRules()

    def __post_init__(self) -> None:
        where = f'identity provider "{self.name}"'
        if not self.name or not self.issuer:
            raise ConfigError(f"{where}: a name and an issuer are required")
        if not self.audiences or not all(self.audiences):
            raise ConfigError(f"{where}: at least one audience is required")
        if not self.algorithms:
            raise ConfigError(f"{where}: at least one algorithm is required")
        for alg in self.algorithms:
            if alg not in ALGORITHMS:
                raise ConfigError(f'{where}: algorithm "{alg}" is not one of {", ".join(ALGORITHMS)}')
        if not 0 <= self.skew <= MAX_SKEW:
            raise ConfigError(f"{where}: skew must be between 0 and {MAX_SKEW:.0f} seconds")


@dataclass(frozen=True, slots=True)
class NeedKeysFor:
    """The token names a key that is not held; fetch `provider`'s keys and verify again."""

    provider: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """A verified token, remembered by digest. Valid in [since, until) and for one generation of keys."""

    principal: Principal
    since: float
    until: float
    generation: int


class Verifier:
    """Verifies tokens of the configured providers and remembers the good ones for a while.

    Use one verifier with one KeyLookup: remembered tokens are tied to the lookup's generation.
    """

    def __init__(
        self, providers: Iterable[ProviderRules], cache_size: int = 10_000, *, max_token_bytes: int = 16_384
    ) -> None:
        """Raises ConfigError when two providers share a name or an issuer: a token must point at exactly one."""
        rules = list(providers)
        self._by_issuer = {provider.issuer: provider for provider in rules}
        if len(self._by_issuer) != len(rules) or len({provider.name for provider in rules}) != len(rules):
            raise ConfigError("identity providers must have different names and different issuers")
        self._audiences = {provider.name: frozenset(provider.audiences) for provider in rules}
        self._cache: dict[bytes, _Entry] = {}
        self._cache_size = cache_size
        self._max_token_bytes = max_token_bytes

    def verify(self, token: str, keys: KeyLookup, now: float) -> Principal | NeedKeysFor:
        """The principal that `token` proves at `now` (Unix seconds), or whose keys are needed to tell.

        Raises TokenError with a code of `challenge.MESSAGES`.
        """
        if not token:
            raise token_error("missing")
        if len(token) > self._max_token_bytes:
            raise token_error("too_large")
        if not token.isascii():
            raise token_error("malformed")
        return self.recall(token, keys, now) or self._verify_anew(token, keys, now)

    def recall(self, token: str, keys: KeyLookup, now: float) -> Principal | None:
        """The principal of exactly this token if it was verified lately; None for any other text."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        entry = self._cache.get(digest)
        if entry is None:
            return None
        if entry.since <= now < entry.until and entry.generation == keys.generation:
            return entry.principal
        del self._cache[digest]
        return None

    def forget(self) -> None:
        """Believe nothing from memory: the configuration or the keys changed."""
        self._cache.clear()

    def __len__(self) -> int:
        return len(self._cache)

    def _verify_anew(self, token: str, keys: KeyLookup, now: float) -> Principal | NeedKeysFor:
        parsed = parse_compact(token)
        provider = self._provider_of(parsed)
        if parsed.alg not in provider.algorithms:
            raise token_error("bad_algorithm")
        generation = keys.generation  # read first: a key withdrawn from here on ends what is remembered below
        held = keys.key(provider.name, parsed.kid, parsed.alg, now)
        if not isinstance(held, HeldKey):
            return self._without_key(held, provider)
        if not held.key.verifies(parsed.alg, parsed.signing_input, parsed.signature):
            raise token_error("bad_signature")
        check_shape(parsed.claims)
        expires = check_times(parsed.claims, now, provider.skew)
        principal = principal_from_claims(
            parsed.claims,
            provider.claims,
            provider=provider.name,
            audience=check_audience(parsed.claims, self._audiences[provider.name]),
            expires_at=expires,
            proof=parsed.signing_input,
        )
        until = min(now + CACHE_SECONDS, expires, held.usable_until)
        digest = hashlib.sha256(token.encode("ascii")).digest()
        self._remember(digest, _Entry(principal, now, until, generation), now)
        return principal

    def _provider_of(self, parsed: CompactToken) -> ProviderRules:
        """By the issuer the token claims; the signature will have to agree. An unknown issuer ends it here."""
        issuer = parsed.claims.get("iss")
        provider = self._by_issuer.get(issuer) if isinstance(issuer, str) else None
        if provider is None:
            raise token_error("unknown_issuer")
        return provider

    def _without_key(self, absence: KeyAbsence, provider: ProviderRules) -> NeedKeysFor:
        match absence:
            case KeyAbsence.FETCH:
                return NeedKeysFor(provider.name)
            case KeyAbsence.UNKNOWN:
                raise token_error("unknown_key")
            case KeyAbsence.MISFIT:
                raise token_error("bad_algorithm")
            case KeyAbsence.UNAVAILABLE:
                raise token_error("keys_unavailable")

    def _remember(self, digest: bytes, entry: _Entry, now: float) -> None:
        if entry.until <= now or self._cache_size <= 0:
            return
        self._cache[digest] = entry
        if len(self._cache) > self._cache_size:
            del self._cache[next(iter(self._cache))]  # the oldest
