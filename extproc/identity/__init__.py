"""Who asks: a bearer token or Envoy's metadata in, a Principal or a TokenError out.

Plain and synchronous. When a key is missing the verifier answers `NeedKeysFor`, and whoever awaits fetches it.
"""

from extproc.identity.bearer import extract_bearer
from extproc.identity.challenge import MESSAGES, http_status, token_error, www_authenticate
from extproc.identity.claims import ClaimPath, ClaimRules
from extproc.identity.identifier import TokenIdentifier
from extproc.identity.keys import (
    ALGORITHMS,
    HeldKey,
    KeyAbsence,
    KeyLookup,
    KeySet,
    KeySetError,
    VerifyingKey,
    parse_key_set,
)
from extproc.identity.metadata import MetadataTrust, principal_from_metadata
from extproc.identity.verifier import NeedKeysFor, ProviderRules, Verifier

__all__ = [
    "ALGORITHMS",
    "MESSAGES",
    "ClaimPath",
    "ClaimRules",
    "HeldKey",
    "KeyAbsence",
    "KeyLookup",
    "KeySet",
    "KeySetError",
    "MetadataTrust",
    "NeedKeysFor",
    "ProviderRules",
    "TokenIdentifier",
    "Verifier",
    "VerifyingKey",
    "extract_bearer",
    "http_status",
    "parse_key_set",
    "principal_from_metadata",
    "token_error",
    "www_authenticate",
]
