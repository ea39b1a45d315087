"""From verified claims to a Principal."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from extproc.domain.principal import KINDS, Principal, PrincipalKind
from extproc.identity.challenge import token_error

MAX_DATE: Final = 253_402_300_799
"""9999-12-31T23:59:59Z in Unix seconds: the last NumericDate anybody can mean."""
MAX_NAME: Final = 1024
"""Characters in a subject, person or client id."""
MAX_DEPTH: Final = 16
_INT64: Final = 1 << 63

# Protocol material that names or replays a token and says nothing about the caller. The id of the token is `token_id`.
_WITHHELD = frozenset(
    {"jti", "nonce", "at_hash", "c_hash", "s_hash", "access_token", "id_token", "refresh_token", "assertion"}
)


@dataclass(frozen=True, slots=True)
class ClaimPath:
    """Where a claim is: a name, a dotted path (`realm_access.roles`) or a JSON pointer (`/realm_access/roles`).

    A top-level claim with exactly this name wins, so that names such as `https://example.com/groups` work.
    """

    text: str
    steps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> ClaimPath:
        """Any text is a path; the empty one leads nowhere."""
        if text.startswith("/"):
            steps = tuple(step.replace("~1", "/").replace("~0", "~") for step in text[1:].split("/"))
        else:
            steps = tuple(text.split("."))
        return cls(text, steps if text else ())

    def read(self, claims: Mapping[str, Any]) -> Any:
        """The value there, or None."""
        if not self.steps or self.text in claims:
            return claims.get(self.text) if self.text else None
        value: Any = claims
        for step in self.steps:
            if not isinstance(value, Mapping) or step not in value:
                return None
            value = value[step]
        return value


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """Which claims say what. An empty `person` means `issuer|subject`."""

    groups: ClaimPath = ClaimPath("groups", ("groups",))
    kind: ClaimPath = ClaimPath("kind", ("kind",))
    person: ClaimPath = ClaimPath("", ())
    default_kind: PrincipalKind = "agent"
    """The kind of whoever's token names none. An unknown one is `agent`."""

    @classmethod
    def of(
        cls,
        *,
        groups: str = "groups",
        kind: str = "kind",
        person: str = "",
        default_kind: PrincipalKind = "agent",
    ) -> ClaimRules:
        """From the texts in the configuration."""
        return cls(ClaimPath.parse(groups), ClaimPath.parse(kind), ClaimPath.parse(person), default_kind)


def check_shape(claims: Mapping[str, Any]) -> None:
    """Refuse what later readers could not hold: deep nesting, integers beyond 64 bits, non-finite numbers.

    Raises TokenError("bad_claims").
    """
    if not _fits(claims, MAX_DEPTH):
        raise token_error("bad_claims")


def _fits(value: Any, depth: int) -> bool:
    if isinstance(value, Mapping):
        return depth > 0 and all(_fits(inner, depth - 1) for inner in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_fits(inner, depth - 1) for inner in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or -_INT64 <= value < _INT64


def check_times(claims: Mapping[str, Any], now: float, skew: float) -> int:
    """`exp` (required), `nbf` and `iat` against `now` in Unix seconds (RFC 7519 section 4.1). Returns `exp`.

    Raises TokenError: `bad_claims` for anything but a whole number of seconds, `expired`, `not_yet_valid`.
    """
    expires = _numeric_date(claims, "exp")
    if expires is None:
        raise token_error("bad_claims")
    if now >= expires + skew:
        raise token_error("expired")
    for name in ("nbf", "iat"):
        date = _numeric_date(claims, name)
        if date is not None and date > now + skew:
            raise token_error("not_yet_valid")
    return expires


def _numeric_date(claims: Mapping[str, Any], name: str) -> int | None:
    if name not in claims:
        return None
    date = claims[name]
    if type(date) is not int or not 0 <= date <= MAX_DATE:  # type(): True is an int and no date
        raise token_error("bad_claims")
    return date


def check_audience(claims: Mapping[str, Any], accepted: frozenset[str]) -> tuple[str, ...]:
    """`aud`, a string or a list of strings, must name one of `accepted`. Returns all it names.

    Raises TokenError: `wrong_audience` (also when there is none), `bad_claims` for another type.
    """
    named = claims.get("aud", [])
    audience = [named] if isinstance(named, str) else named
    if not isinstance(audience, list) or not all(isinstance(one, str) for one in audience):
        raise token_error("bad_claims")
    if accepted.isdisjoint(audience):
        raise token_error("wrong_audience")
    return tuple(audience)


def principal_from_claims(
    claims: Mapping[str, Any],
    rules: ClaimRules,
    *,
    provider: str,
    audience: tuple[str, ...],
    expires_at: float,
    proof: bytes,
) -> Principal:
    """Name the caller. `claims` were verified; `proof` is what names the token when it has no `jti`.

    Raises TokenError("bad_claims") when there is no usable `sub`.
    """
    issuer, subject = claims.get("iss"), claims.get("sub")
    if not isinstance(issuer, str) or not _is_name(subject):
        raise token_error("bad_claims")
    client = claims.get("azp", claims.get("client_id"))
    return Principal(
        issuer=issuer,
        subject=str(subject),
        kind=_kind(rules.kind.read(claims), rules.default_kind),
        person=_person(claims, rules.person) or f"{issuer}|{subject}",
        groups=_groups(rules.groups.read(claims)),
        client_id=client if _is_name(client) else "",
        provider=provider,
        audience=audience,
        expires_at=float(expires_at),
        token_id=_token_id(issuer, claims.get("jti"), proof),
        claims=_shown(claims),
    )


def _is_name(value: object) -> bool:
    """Text that can stand in a log line and be read back as the same name."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_NAME
        and value.isprintable()
        and value == value.strip()
    )


def _kind(value: object, default: PrincipalKind) -> PrincipalKind:
    if value is None:
        return default
    for kind in KINDS:
        if value == kind:
            return kind
    return "agent"  # the least trusted kind: it may not approve


def _groups(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,) if value else ()
    if isinstance(value, list) and all(isinstance(group, str) for group in value):
        return tuple(dict.fromkeys(group for group in value if group))
    return ()


def _person(claims: Mapping[str, Any], path: ClaimPath) -> str:
    """Who is behind the token, or "" when the claim is absent or its issuer says that it is not verified.

    `|` is refused because `issuer|subject` is the name of somebody without this claim.
    """
    value = path.read(claims)
    if not isinstance(value, str) or not _is_name(value) or "|" in value:
        return ""
    if path.steps:
        verified = ClaimPath.parse(f"{path.text}_verified").read(claims)
        if verified is not None and verified is not True and verified != "true":
            return ""
    if "@" in value:  # one mailbox, one person, however it is typed
        return unicodedata.normalize("NFKC", value).casefold()
    return value


def _token_id(issuer: str, jti: object, proof: bytes) -> str:
    if isinstance(jti, str) and jti:
        return "jti:" + hashlib.sha256(f"{issuer}\0{jti}".encode()).hexdigest()
    return "tok:" + hashlib.sha256(proof).hexdigest()


def _shown(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Claims for rules and records: without protocol material, without embedded tokens, well typed where kept."""
    shown = {
        name: value
        for name, value in claims.items()
        if name not in _WITHHELD and not _looks_like_a_token(value)
    }
    for name, kind in (("acr", str), ("auth_time", int), ("amr", list)):
        if name in shown and type(shown[name]) is not kind:
            del shown[name]
    if not all(isinstance(method, str) for method in shown.get("amr", ())):
        del shown["amr"]
    return shown


def _looks_like_a_token(value: object) -> bool:
    return isinstance(value, str) and value.startswith("eyJ") and value.count(".") >= 2
