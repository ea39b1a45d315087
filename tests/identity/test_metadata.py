from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.demo.issuer import Issuer
from extproc.domain.errors import ConfigError, TokenError
from extproc.domain.principal import Principal
from extproc.identity import MESSAGES, ClaimRules, MetadataTrust, principal_from_metadata
from tests.identity.conftest import NOW

NAMESPACE = "envoy.filters.http.jwt_authn"


def trust(issuer: Issuer) -> MetadataTrust:
    return MetadataTrust(
        NAMESPACE, "jwt", issuer.issuer, (issuer.audience,), claims=ClaimRules.of(groups="r.roles")
    )


def struct(claims: dict[str, Any]) -> Any:
    """The claims as Envoy hands them over: through a protobuf Struct, where every number is a double."""
    message = struct_pb2.Struct()
    json_format.ParseDict(claims, message)
    return json_format.MessageToDict(message)


def believed(
    issuer: Issuer, claims: dict[str, Any], bearer: str | None = None, now: float = NOW
) -> Principal:
    return principal_from_metadata({NAMESPACE: {"jwt": struct(claims)}}, trust(issuer), bearer, now)


def refusal(issuer: Issuer, metadata: dict[str, Any], bearer: str | None = None, now: float = NOW) -> str:
    with pytest.raises(TokenError) as caught:
        principal_from_metadata(metadata, trust(issuer), bearer, now)
    return caught.value.code


def test_the_payload_names_the_principal(issuer: Issuer):
    principal = believed(
        issuer, issuer.claims("alice", r={"roles": ["dba"]}, kind="human", auth_time=int(NOW))
    )

    assert (principal.issuer, principal.subject, principal.kind) == (issuer.issuer, "alice", "human")
    assert principal.groups == ("dba",)
    assert principal.provider == "metadata"
    assert principal.expires_at == NOW + 300
    assert principal.token_id.startswith("jti:")


def test_doubles_become_the_integers_they_were(issuer: Issuer):
    claims = believed(issuer, issuer.claims(auth_time=int(NOW), nested={"n": [1, 2.5]})).claims

    assert claims["auth_time"] == int(NOW)
    assert type(claims["auth_time"]) is int
    assert claims["nested"] == {"n": [1, 2.5]}
    assert type(claims["nested"]["n"][0]) is int


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {NAMESPACE: {}},
        {NAMESPACE: {"jwt": {}}},
        {NAMESPACE: {"jwt": "text"}},
        {NAMESPACE: {"jwt": None}},
        {NAMESPACE: {"other": {"sub": "alice"}}},
        {NAMESPACE: "text"},
        {"another.namespace": {"jwt": {"sub": "alice"}}},
    ],
    ids=repr,
)
def test_absent_metadata_is_a_missing_identity(issuer: Issuer, metadata: dict[str, Any]):
    assert refusal(issuer, metadata) == "missing"


def test_a_bearer_alone_proves_nothing_here(issuer: Issuer):
    assert refusal(issuer, {}, issuer.token()) == "missing"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"iss": "https://attacker.test"}, "unknown_issuer"),
        ({"iss": None}, "unknown_issuer"),
        ({"aud": "another"}, "wrong_audience"),
        ({"aud": None}, "wrong_audience"),
        ({"exp": NOW - 60}, "expired"),
        ({"exp": NOW + 0.5}, "bad_claims"),
        ({"exp": True}, "bad_claims"),
        ({"exp": None}, "bad_claims"),
        ({"exp": "soon"}, "bad_claims"),
        ({"exp": 1e300}, "bad_claims"),
        ({"nbf": NOW + 60}, "not_yet_valid"),
        ({"sub": None}, "bad_claims"),
        ({"sub": 7}, "bad_claims"),
    ],
    ids=repr,
)
def test_the_payload_is_checked_again(issuer: Issuer, changes: dict[str, Any], code: str):
    claims = issuer.claims(**changes)

    assert refusal(issuer, {NAMESPACE: {"jwt": struct(claims)}}) == code


def test_a_bearer_that_names_the_same_subject_is_fine(issuer: Issuer):
    assert believed(issuer, issuer.claims("alice"), issuer.token("alice")).subject == "alice"


def test_a_bearer_that_names_somebody_else_is_refused(issuer: Issuer):
    metadata = {NAMESPACE: {"jwt": issuer.claims("alice")}}

    assert refusal(issuer, metadata, issuer.token("bob")) == "subject_mismatch"
    assert refusal(issuer, metadata, issuer.token("alice", iss="https://attacker.test")) == "subject_mismatch"
    assert refusal(issuer, metadata, issuer.token(None)) == "subject_mismatch"


def test_a_bearer_that_cannot_be_read_is_refused(issuer: Issuer):
    metadata = {NAMESPACE: {"jwt": issuer.claims("alice")}}

    assert refusal(issuer, metadata, "opaque") == "malformed"
    assert refusal(issuer, metadata, "") == "malformed"
    assert refusal(issuer, metadata, "x" * 20_000) == "too_large"


def test_nesting_has_an_end(issuer: Issuer):
    deep: Any = "x"
    for _ in range(2000):
        deep = [deep]

    assert refusal(issuer, {NAMESPACE: {"jwt": {**issuer.claims(), "deep": deep}}}) == "bad_claims"


def test_values_that_no_struct_can_hold_are_refused(issuer: Issuer):
    assert refusal(issuer, {NAMESPACE: {"jwt": {**issuer.claims(), "x": b"bytes"}}}) == "bad_claims"


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from([NAMESPACE, "other"]), VALUES | st.dictionaries(st.just("jwt"), VALUES))
)
@settings(deadline=None)
def test_any_metadata_is_refused_with_a_known_code(issuer: Issuer, metadata: dict[str, Any]):
    assert refusal(issuer, metadata) in MESSAGES


@given(
    claims=st.dictionaries(st.sampled_from(["sub", "aud", "exp", "nbf", "jti", "groups", "amr", "x"]), VALUES)
)
@settings(deadline=None)
def test_any_payload_of_the_issuer_gives_a_principal_or_a_known_code(issuer: Issuer, claims: dict[str, Any]):
    metadata = {NAMESPACE: {"jwt": issuer.claims() | claims}}
    try:
        principal_from_metadata(metadata, trust(issuer), None, NOW)
    except TokenError as error:
        assert error.code in MESSAGES


@pytest.mark.parametrize("gap", ["namespace", "key", "issuer", "audiences"])
def test_trust_must_be_complete(gap: str):
    complete: dict[str, Any] = {"namespace": "n", "key": "k", "issuer": "i", "audiences": ("a",)}

    with pytest.raises(ConfigError, match="required"):
        MetadataTrust(**complete | {gap: ()})
