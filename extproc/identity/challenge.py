"""Why a token was refused: the codes, their fixed texts, and the challenge that tells the client (RFC 6750).

No text here is made from the token, so none can quote it.
"""

from __future__ import annotations

from typing import Final

from extproc.domain.errors import TokenError

MESSAGES: Final[dict[str, str]] = {
    "missing": "no bearer token was presented",
    "malformed": "the token is not a well-formed signed JWT",
    "too_large": "the token is larger than this service accepts",
    "bad_algorithm": "the token's algorithm is not accepted for its issuer",
    "unknown_issuer": "the token's issuer is not one this service trusts",
    "unknown_key": "the token names a key that its issuer does not publish",
    "keys_unavailable": "the issuer's keys cannot be had now",
    "bad_signature": "the token's signature does not verify",
    "expired": "the token has expired",
    "not_yet_valid": "the token is not valid yet",
    "wrong_audience": "the token was issued for another audience",
    "bad_claims": "a required claim is missing or not usable",
    "subject_mismatch": "the bearer token and the identity metadata name different subjects",
}
"""Every code a TokenError of this package can carry."""


def token_error(code: str) -> TokenError:
    """The error for `code`, with its fixed text. KeyError for a code that is not in the table."""
    return TokenError(code, MESSAGES[code])


def http_status(error: TokenError) -> int:
    """401 for the caller's fault, 503 when the keys are missing through no fault of the caller."""
    return 503 if error.code == "keys_unavailable" else 401


def www_authenticate(error: TokenError | None, realm: str, *, resource_metadata: str = "") -> str:
    """The value of `WWW-Authenticate` (RFC 6750 section 3; `resource_metadata` is RFC 9728 section 5.1).

    A request without any token gets the bare challenge: an error code would be wrong there (RFC 6750 section 3.1).
    """
    fields = [f'realm="{_quoted(realm)}"']
    if error is not None and error.code != "missing":
        fields.append('error="invalid_token"')
        fields.append(f'error_description="{MESSAGES.get(error.code, "the token was refused")}"')
    if resource_metadata:
        fields.append(f'resource_metadata="{_quoted(resource_metadata)}"')
    return "Bearer " + ", ".join(fields)


def _quoted(text: str) -> str:
    """A quoted-string's inside (RFC 9110 section 5.6.4), without anything that could end the header line."""
    kept = "".join(char for char in text if " " <= char <= "~")
    return kept.replace("\\", "\\\\").replace('"', '\\"')
