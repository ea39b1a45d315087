"""Believing Envoy: the payload that its jwt_authn filter verified and forwarded as dynamic metadata.

Only sound while nobody but Envoy can call the processor (docs/identity.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from extproc.domain.errors import ConfigError
from extproc.domain.principal import Principal
from extproc.identity.challenge import token_error
from extproc.identity.claims import (
    MAX_DEPTH,
    ClaimRules,
    check_audience,
    check_shape,
    check_times,
    principal_from_claims,
)
from extproc.identity.compact import parse_compact

MAX_BEARER: Final = 16_384


@dataclass(frozen=True, slots=True)
class MetadataTrust:
    """Which metadata is believed: `metadata[namespace][key]` holds the claims. `skew` is in seconds.

    Raises ConfigError when the issuer or the audiences are missing: they are checked again here.
    """

    namespace: str
    key: str
    issuer: str
    audiences: tuple[str, ...]
    provider: str = "metadata"
    skew: float = 30.0
    claims: ClaimRules = ClaimRules()

    def __post_init__(self) -> None:
        if not (self.namespace and self.key and self.issuer and self.audiences and all(self.audiences)):
            raise ConfigError(
                "identity.trust.metadata: namespace, key, issuer and audiences are all required"
            )


def principal_from_metadata(
    metadata: Mapping[str, Any], trust: MetadataTrust, bearer: str | None, now: float
) -> Principal:
    """The principal that Envoy's metadata names. `bearer` is the request's own token when Envoy left one there.

    Raises TokenError: `missing` without the payload, `unknown_issuer`, `wrong_audience`, `expired`, `not_yet_valid`
    and `bad_claims` as for a token; `too_large`, `malformed` or `subject_mismatch` when the bearer does not name
    the same subject.
    """
    namespace = metadata.get(trust.namespace)
    payload = namespace.get(trust.key) if isinstance(namespace, Mapping) else None
    if not isinstance(payload, Mapping) or not payload:
        raise token_error("missing")
    claims = {name: _whole(value, MAX_DEPTH) for name, value in payload.items()}
    check_shape(claims)
    if claims.get("iss") != trust.issuer:
        raise token_error("unknown_issuer")
    expires = check_times(claims, now, trust.skew)
    audience = check_audience(claims, frozenset(trust.audiences))
    if bearer is not None:
        if len(bearer) > MAX_BEARER:
            raise token_error("too_large")
        named = parse_compact(bearer).claims
        if (named.get("iss"), named.get("sub")) != (claims.get("iss"), claims.get("sub")):
            raise token_error("subject_mismatch")
    return principal_from_claims(
        claims,
        trust.claims,
        provider=trust.provider,
        audience=audience,
        expires_at=expires,
        proof=orjson.dumps(claims, option=orjson.OPT_SORT_KEYS),
    )


def _whole(value: Any, depth: int) -> Any:
    """Undo the protobuf Struct, whose only number is a double: 1.7e9 was the integer 1700000000 in the token."""
    if depth < 0:
        raise token_error("bad_claims")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, Mapping):
        return {name: _whole(inner, depth - 1) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_whole(inner, depth - 1) for inner in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise token_error("bad_claims")
