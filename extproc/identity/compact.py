"""Reading a compact JWS (RFC 7515 section 7.1) strictly, before any key is touched."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from extproc.identity.challenge import token_error
from extproc.identity.strict_json import parse_json_object

MAX_KID: Final = 256
"""Characters; longer key ids are refused before they are looked up or remembered."""
TYPES: Final = frozenset({"jwt", "at+jwt"})
"""Accepted `typ` values, lower case and without `application/`. Anything else was signed for another purpose
(logout+jwt, dpop+jwt, secevent+jwt …, RFC 8725 section 3.11)."""

_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
_REFUSED_HEADERS = ("crit", "b64", "enc", "zip", "cty")
# The last character of an unpadded group has unused bits, which must be zero: one token, one spelling.
_LAST = {2: frozenset("AQgw"), 3: frozenset("AEIMQUYcgkosw048")}


@dataclass(frozen=True, slots=True)
class CompactToken:
    """A token taken apart and not yet believed. `kid` is empty when the header has none."""

    alg: str
    kid: str
    claims: Mapping[str, Any] = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def parse_compact(token: str) -> CompactToken:
    """Take the token apart. Raises TokenError("malformed").

    `jku`, `x5u`, `jwk` and `x5c` are legal header members and are ignored: keys come from configuration alone.
    """
    match = _COMPACT.fullmatch(token)
    if match is None:
        raise token_error("malformed")
    parts = [decode_base64url(part) for part in match.groups()]
    header_bytes, payload, signature = parts
    if header_bytes is None or payload is None or signature is None:
        raise token_error("malformed")
    header = parse_json_object(header_bytes)
    claims = parse_json_object(payload)
    if header is None or claims is None or not _header_is_sane(header):
        raise token_error("malformed")
    signing_input = token[: match.end(2)].encode("ascii")
    return CompactToken(header["alg"], header.get("kid", ""), claims, signing_input, signature)


def decode_base64url(part: str) -> bytes | None:
    """Unpadded base64url (RFC 7515 section 2) whose alphabet was checked before; None when it is not canonical."""
    rest = len(part) % 4
    if rest == 1 or (rest and part[-1] not in _LAST[rest]):
        return None
    return base64.urlsafe_b64decode(part + "=" * (-rest % 4))


def _header_is_sane(header: Mapping[str, Any]) -> bool:
    alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(alg, str) or any(name in header for name in _REFUSED_HEADERS):
        return False
    if "kid" in header and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID):
        return False
    if "typ" in header:
        return isinstance(typ, str) and typ.lower().removeprefix("application/") in TYPES
    return True
