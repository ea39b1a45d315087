from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.errors import TokenError
from extproc.domain.principal import Principal
from extproc.identity import ClaimPath, ClaimRules
from extproc.identity.claims import check_shape, principal_from_claims
from extproc.identity.strict_json import parse_json_object

ISSUER = "https://issuer.test"


def principal(rules: ClaimRules | None = None, **claims: Any) -> Principal:
    return principal_from_claims(
        {"iss": ISSUER, "sub": "alice", **claims},
        rules or ClaimRules(),
        provider="corp",
        audience=("api",),
        expires_at=1.0,
        proof=b"header.payload",
    )


CLAIMS = {
    "groups": ["a"],
    "realm_access": {"roles": ["b"]},
    "https://example.com/groups": ["c"],
    "dotted.name": ["d"],
    "a/b": {"c~d": ["e"]},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("groups", ["a"]),
        ("realm_access.roles", ["b"]),
        ("/realm_access/roles", ["b"]),
        ("https://example.com/groups", ["c"]),
        ("dotted.name", ["d"]),
        ("/a~1b/c~0d", ["e"]),
        ("realm_access.nothing", None),
        ("groups.0", None),
        ("nothing.at.all", None),
        ("/", None),
        ("", None),
    ],
)
def test_a_path_reads_the_claim_it_names(path: str, value: object):
    assert ClaimPath.parse(path).read(CLAIMS) == value


@pytest.mark.parametrize(
    ("value", "groups"),
    [
        (["analysts", "dba"], ("analysts", "dba")),
        (["b", "a", "b"], ("b", "a")),
        ("analysts", ("analysts",)),
        ("a b", ("a b",)),
        ("", ()),
        ([], ()),
        ([""], ()),
        (None, ()),
        (7, ()),
        (True, ()),
        ({"analysts": True}, ()),
        (["analysts", 7], ()),
        ([["analysts"]], ()),
    ],
    ids=repr,
)
def test_groups_are_text_or_a_list_of_texts(value: object, groups: tuple[str, ...]):
    assert principal(groups=value).groups == groups


@pytest.mark.parametrize("kind", ["human", "agent", "service", "machine"])
def test_a_known_kind_is_taken(kind: str):
    assert principal(kind=kind).kind == kind


@pytest.mark.parametrize(
    "kind", [None, "", "Human", "human ", "admin", True, ["human"], {"human": 1}], ids=repr
)
def test_any_other_kind_is_an_agent(kind: object):
    assert principal(kind=kind).kind == "agent"


def test_the_kind_is_read_where_the_configuration_says():
    rules = ClaimRules.of(kind="ext.kind")

    assert principal(rules, ext={"kind": "human"}).kind == "human"
    assert principal(rules, kind="human").kind == "agent"


def test_the_default_kind_is_for_tokens_that_name_none():
    rules = ClaimRules.of(default_kind="human")

    assert principal(rules).kind == "human"
    assert principal(rules, kind="service").kind == "service"
    for unknown in ("", "bot", ["human"], False):
        assert principal(rules, kind=unknown).kind == "agent"


PERSON = ClaimRules.of(person="email")


@pytest.mark.parametrize(
    ("claims", "person"),
    [
        ({"email": "alice@example.com"}, "alice@example.com"),
        ({"email": "Alice@Example.COM"}, "alice@example.com"),
        ({"email": "alice@example.com", "email_verified": True}, "alice@example.com"),
        ({"email": "alice@example.com", "email_verified": "true"}, "alice@example.com"),
        ({"email": "alice@example.com", "email_verified": False}, ""),
        ({"email": "alice@example.com", "email_verified": "false"}, ""),
        ({"email": "alice@example.com", "email_verified": 0}, ""),
        ({"email": "alice@example.com", "email_verified": 1}, ""),
        ({"email": ["alice@example.com"]}, ""),
        ({"email": ""}, ""),
        ({"email": "alice@example.com\n"}, ""),
        ({"email": f"{ISSUER}|bob"}, ""),
        ({"email": "x" * 1025}, ""),
        ({}, ""),
    ],
    ids=repr,
)
def test_the_person_is_the_configured_claim_or_issuer_and_subject(claims: dict[str, Any], person: str):
    assert principal(PERSON, **claims).person == (person or f"{ISSUER}|alice")


def test_verification_is_looked_for_beside_a_nested_claim():
    rules = ClaimRules.of(person="profile.mail")

    assert principal(rules, profile={"mail": "a@b.c"}).person == "a@b.c"
    assert principal(rules, profile={"mail": "a@b.c", "mail_verified": False}).person == f"{ISSUER}|alice"


def test_a_person_that_is_no_address_keeps_its_letters():
    assert principal(ClaimRules.of(person="employee"), employee="E-007").person == "E-007"


@pytest.mark.parametrize(
    ("claims", "client"),
    [
        ({"azp": "cli"}, "cli"),
        ({"client_id": "cli"}, "cli"),
        ({"azp": "a", "client_id": "b"}, "a"),
        ({"azp": 7}, ""),
        ({"azp": "a\nb"}, ""),
        ({}, ""),
    ],
    ids=repr,
)
def test_the_client_is_azp_or_client_id(claims: dict[str, Any], client: str):
    assert principal(**claims).client_id == client


def test_the_token_id_is_a_digest_of_issuer_and_jti():
    digest = hashlib.sha256(f"{ISSUER}\0seven".encode()).hexdigest()

    assert principal(jti="seven").token_id == f"jti:{digest}"
    assert principal(jti="seven", sub="bob").token_id == f"jti:{digest}"


@pytest.mark.parametrize("jti", [None, "", 7])
def test_without_a_jti_the_token_id_is_a_digest_of_the_token(jti: object):
    assert principal(jti=jti).token_id == "tok:" + hashlib.sha256(b"header.payload").hexdigest()


def test_claims_are_shown_without_protocol_material_and_embedded_tokens():
    kept = principal(
        jti="j", nonce="n", access_token="t", upstream="eyJh.eyJi.c", team="blue", acr="2"
    ).claims

    assert kept == {"iss": ISSUER, "sub": "alice", "team": "blue", "acr": "2"}


@pytest.mark.parametrize(
    "claims", [{"acr": 2}, {"auth_time": 1.5}, {"auth_time": True}, {"amr": "pwd"}, {"amr": [1]}]
)
def test_recorded_claims_of_the_wrong_type_are_left_out(claims: dict[str, Any]):
    assert set(principal(**claims).claims) == {"iss", "sub"}
    assert not {"acr", "auth_time", "amr"} & set(principal(**claims).to_record())


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, float("inf"), [[[2**70]]]], ids=repr)
def test_numbers_that_no_reader_can_hold_are_refused(value: object):
    with pytest.raises(TokenError) as caught:
        check_shape({"n": value})
    assert caught.value.code == "bad_claims"


def test_64_bits_are_fine():
    check_shape({"n": [2**63 - 1, -(2**63), 0.5, True, None, "x"]})


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_any_bytes_are_an_object_or_nothing(raw: bytes):
    found = parse_json_object(raw)
    assert found is None or isinstance(found, dict)
