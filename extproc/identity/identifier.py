"""Whose request this is: from its bearer token, or from what Envoy verified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from extproc.domain.errors import TokenError
from extproc.domain.principal import Principal
from extproc.domain.request import Headers
from extproc.domain.steps import NeedKeys
from extproc.identity.bearer import extract_bearer
from extproc.identity.challenge import www_authenticate
from extproc.identity.keys import KeyLookup
from extproc.identity.metadata import MetadataTrust, principal_from_metadata
from extproc.identity.verifier import NeedKeysFor, Verifier

REALM: Final = "extproc"


class TokenIdentifier:
    """Bearer tokens we verify ourselves, or Envoy's verified payload where `trust` says so."""

    __slots__ = ("_header", "_keys", "_trust", "_verifier")

    def __init__(
        self, verifier: Verifier, keys: KeyLookup, header: str, trust: MetadataTrust | None = None
    ) -> None:
        """`header` is the name, in lower case, of the header that carries the token."""
        self._verifier = verifier
        self._keys = keys
        self._header = header
        self._trust = trust

    def identify(self, headers: Headers, metadata: Mapping[str, Any], now: float) -> Principal | NeedKeys:
        """Raises TokenError."""
        if self._trust is not None:
            bearer = extract_bearer(headers, self._header) if self._header in headers else None
            return principal_from_metadata(metadata, self._trust, bearer, now)
        given = headers.all(self._header)
        if len(given) == 1 and given[0].startswith("Bearer "):
            known = self._verifier.recall(given[0][7:], self._keys, now)
            if known is not None:
                return known
        found = self._verifier.verify(extract_bearer(headers, self._header), self._keys, now)
        return NeedKeys(found.provider) if isinstance(found, NeedKeysFor) else found

    def identify_token(self, token: str, now: float) -> Principal | NeedKeys:
        """Always a token that we verify ourselves: Envoy verifies none on a database connection. Raises TokenError."""
        found = self._verifier.verify(token, self._keys, now)
        return NeedKeys(found.provider) if isinstance(found, NeedKeysFor) else found

    def challenge(self, error: Exception | None) -> str:
        """WWW-Authenticate for a 401."""
        return www_authenticate(error if isinstance(error, TokenError) else None, REALM)
