"""Public keys: reading a JWK Set (RFC 7517) and asking whether a signature is good."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from extproc.domain.errors import ExtprocError
from extproc.identity.compact import MAX_KID
from extproc.identity.strict_json import parse_json_object

ALGORITHMS: Final[dict[str, tuple[str, str]]] = {
    "RS256": ("RSA", ""),
    "RS384": ("RSA", ""),
    "RS512": ("RSA", ""),
    "PS256": ("RSA", ""),
    "PS384": ("RSA", ""),
    "PS512": ("RSA", ""),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
"""What may be configured at all, with key type and curve. `none` and HMAC are absent, so no table entry leads there."""

MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
"""A modulus without a ceiling would let one published key cost seconds per signature."""

_MAX_MEMBER = 8_192  # characters of one number in base64url, well above the ceiling for a modulus
_PUBLIC_MEMBERS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_KEY_TYPES: dict[str, type[RSAKey] | type[ECKey] | type[OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}


class KeySetError(ExtprocError):
    """A document that is no JWK Set. The text names the defect and quotes nothing."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """One public key with the algorithms it may serve. `thumbprint` is RFC 7638's; `kid` may be empty."""

    kid: str
    algorithms: frozenset[str]
    thumbprint: str
    jose: RSAKey | ECKey | OKPKey = field(repr=False, compare=False)

    def verifies(self, alg: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `signing_input`. False for any algorithm it does not serve."""
        if alg not in self.algorithms or not signature:
            return False
        try:
            return JWSRegistry.algorithms[alg].verify(signing_input, signature, self.jose)
        except (JoseError, ValueError):
            return False


class KeySet:
    """The usable keys of one issuer. `notes` counts by reason what was left out or mended, for health displays."""

    __slots__ = ("_by_kid", "_sole", "keys", "notes")

    def __init__(self, keys: Sequence[VerifyingKey], notes: Mapping[str, int] | None = None) -> None:
        self.keys = tuple(keys)
        self.notes = dict(notes or {})
        self._by_kid = {(key.kid, alg): key for key in keys if key.kid for alg in key.algorithms}
        suitable = Counter(alg for key in keys for alg in key.algorithms)
        self._sole = {alg: key for key in keys for alg in key.algorithms if suitable[alg] == 1}

    def find(self, kid: str, alg: str) -> VerifyingKey | None:
        """The key named `kid` that serves `alg`; for an empty `kid` the only key that serves it."""
        return self._by_kid.get((kid, alg)) if kid else self._sole.get(alg)

    def knows(self, kid: str) -> bool:
        """Whether a key has this name, whatever it may serve. The empty kid is no name."""
        return bool(kid) and any(key.kid == kid for key in self.keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"KeySet({len(self.keys)} keys)"


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key we hold, and until when (Unix seconds) anything may be believed because of it."""

    key: VerifyingKey
    usable_until: float


class KeyAbsence(Enum):
    """Why there is no key."""

    FETCH = "fetch"
    """Not held, and the issuer may be asked."""
    UNKNOWN = "unknown"
    """The issuer was asked and does not publish it, or may not be asked again yet."""
    MISFIT = "misfit"
    """The named key is held and may not serve this algorithm."""
    UNAVAILABLE = "unavailable"
    """No keys of this issuer are held and it cannot be asked now."""


class KeyLookup(Protocol):
    """Where the verifier finds keys."""

    @property
    def generation(self) -> int:
        """Grows whenever a key that could have verified a token is no longer held."""

    def key(self, provider: str, kid: str, alg: str, now: float) -> HeldKey | KeyAbsence:
        """The key `kid` of `provider` for `alg`; for an empty `kid` its only suitable key. Never blocks."""


def parse_key_set(document: bytes) -> KeySet:
    """Read a JWK Set (RFC 7517 section 5). Raises KeySetError when it is none or has more than MAX_KEYS keys.

    A key we cannot use is left out and counted: symmetric (an HMAC secret is no public key), weak or oversized RSA,
    other curves and types, `use` or `key_ops` that do not allow verifying, and keys that share kid and algorithm.
    Private members are dropped. `x5u` and `x5c` are never followed.
    """
    parsed = parse_json_object(document)
    entries = parsed.get("keys") if parsed is not None else None
    if not isinstance(entries, list):
        raise KeySetError("the document is not a JWK Set")
    if len(entries) > MAX_KEYS:
        raise KeySetError(f"the JWK Set has more than {MAX_KEYS} keys")
    notes: Counter[str] = Counter()
    keys: dict[tuple[str, str], VerifyingKey] = {}
    for entry in entries:
        key = _parse_key(entry, notes)
        if key is not None:
            keys[key.kid, key.thumbprint] = key  # the very same key twice is one key
    unclear = _shared_names(list(keys.values()))
    notes["ambiguous"] += sum(1 for key in keys.values() if key in unclear)
    return KeySet([key for key in keys.values() if key not in unclear], +notes)


def _parse_key(entry: object, notes: Counter[str]) -> VerifyingKey | None:
    """One member of the set, or None with the reason counted in `notes`."""
    if not isinstance(entry, dict):
        notes["malformed"] += 1
        return None
    kty, kid = entry.get("kty"), entry.get("kid", "")
    if kty == "oct":
        notes["symmetric"] += 1
        return None
    if not isinstance(kty, str) or kty not in _KEY_TYPES:
        notes["unsupported"] += 1
        return None
    if not isinstance(kid, str) or len(kid) > MAX_KID:
        notes["malformed"] += 1
        return None
    if not _may_verify(entry):
        notes["other_use"] += 1
        return None
    algorithms = frozenset(
        alg
        for alg, (needs, curve) in ALGORITHMS.items()
        if needs == kty and curve in ("", entry.get("crv")) and entry.get("alg", alg) == alg
    )
    if not algorithms:
        notes["unsupported"] += 1
        return None
    jose = _import_public(kty, entry)
    if jose is None:
        notes["malformed"] += 1
        return None
    if isinstance(jose, RSAKey) and not MIN_RSA_BITS <= jose.public_key.key_size <= MAX_RSA_BITS:
        notes["weak" if jose.public_key.key_size < MIN_RSA_BITS else "oversized"] += 1
        return None
    if "d" in entry:
        notes["private_part_dropped"] += 1
    return VerifyingKey(kid, algorithms, jose.thumbprint(), jose)


def _may_verify(entry: Mapping[str, Any]) -> bool:
    """RFC 7517 sections 4.2 and 4.3: both members are optional and both must allow it."""
    operations = entry.get("key_ops", ["verify"])
    return entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _import_public(kty: str, entry: Mapping[str, Any]) -> RSAKey | ECKey | OKPKey | None:
    public = {"kty": kty}
    for member in _PUBLIC_MEMBERS[kty]:
        value = entry.get(member)
        if not isinstance(value, str) or len(value) > _MAX_MEMBER:
            return None
        public[member] = value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a small modulus is refused by the caller, with its own reason
            key = _KEY_TYPES[kty].import_key(dict(public))
            key.public_key  # noqa: B018  # builds it now, so that a bad point fails here and not at a request
            return key
    except (JoseError, ValueError, TypeError, KeyError, IndexError, OverflowError, UnsupportedAlgorithm):
        return None


def _shared_names(keys: Sequence[VerifyingKey]) -> list[VerifyingKey]:
    """Keys that another one shares a kid and an algorithm with: choosing among them would be guessing."""
    uses = Counter((key.kid, alg) for key in keys if key.kid for alg in key.algorithms)
    return [key for key in keys if any(uses[key.kid, alg] > 1 for alg in key.algorithms)]
