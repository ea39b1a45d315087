from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from extproc.demo.issuer import Issuer, make_key
from extproc.identity import ALGORITHMS, KeySet, KeySetError, parse_key_set

EC = ECKey.generate_key("P-256")
OKP = OKPKey.generate_key("Ed25519")


def jwk(key: Any, private: bool = False, **members: Any) -> dict[str, Any]:
    return {**key.as_dict(private=private), **members}


def parsed(*entries: object) -> KeySet:
    return parse_key_set(json.dumps({"keys": entries}).encode())


def test_a_published_set_is_read_whole(issuer: Issuer):
    keys = parse_key_set(issuer.jwks_bytes())

    assert len(keys) == 3
    assert keys.notes == {}
    for alg in ("RS256", "ES256", "EdDSA"):
        found = keys.find(issuer.kid(alg), alg)
        assert found is not None
        assert found.algorithms == {alg}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": null}',
        b"<html>",
        b'{"keys": [], "keys": []}',
        b"\xff",
    ],
    ids=repr,
)
def test_what_is_no_key_set_is_refused(document: bytes):
    with pytest.raises(KeySetError, match="not a JWK Set"):
        parse_key_set(document)


def test_an_empty_set_is_a_set():
    assert len(parsed()) == 0


def test_more_than_a_hundred_keys_are_refused():
    assert len(parsed(*[{}] * 100)) == 0
    with pytest.raises(KeySetError, match="more than 100"):
        parsed(*[{}] * 101)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (jwk(OctKey.generate_key(256), True, kid="a"), "symmetric"),
        ({"kty": "RSA", "n": "AQAB", "e": "AQAB"}, "malformed"),
        (jwk(ECKey.generate_key("secp256k1")), "unsupported"),
        (jwk(OKPKey.generate_key("X25519")), "unsupported"),
        (jwk(OKPKey.generate_key("Ed448")), "unsupported"),
        ({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}, "unsupported"),
        ({"kty": ["EC"]}, "unsupported"),
        (jwk(EC, use="enc"), "other_use"),
        (jwk(EC, key_ops=["sign"]), "other_use"),
        (jwk(EC, key_ops="verify"), "other_use"),
        (jwk(EC, use="sig", key_ops=[]), "other_use"),
        (jwk(EC, alg="ES384"), "unsupported"),
        (jwk(EC, alg="HS256"), "unsupported"),
        (jwk(EC, alg=7), "unsupported"),
        (jwk(EC, kid=7), "malformed"),
        (jwk(EC, kid="k" * 257), "malformed"),
        (jwk(EC, x="AAAA"), "malformed"),
        (jwk(EC, x=None), "malformed"),
        (jwk(EC, y="====") | {"x": "!"}, "malformed"),
        (jwk(EC) | {"x": jwk(EC)["y"], "y": jwk(EC)["x"]}, "malformed"),  # not a point of the curve
        (jwk(OKP, x="AAAA"), "malformed"),
        ({"kty": "RSA", "n": "", "e": ""}, "malformed"),
        ({"kty": "RSA", "n": "A" * 400, "e": "AQAB"}, "malformed"),
        ("a string", "malformed"),
        (None, "malformed"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_key_that_cannot_be_used_is_left_out_and_counted(entry: object, reason: str):
    keys = parsed(entry, jwk(OKP, kid="good"))

    assert [key.kid for key in keys.keys] == ["good"]
    assert keys.notes == {reason: 1}


def test_an_rsa_key_below_2048_bits_is_weak():
    with pytest.warns(match="2048"):
        weak = RSAKey.generate_key(1024)

    assert parsed(jwk(weak, kid="weak")).notes == {"weak": 1}


def test_an_rsa_modulus_has_a_ceiling():
    key = make_key("RS256")
    modulus = json.loads(json.dumps(jwk(key)))["n"]

    assert parsed(jwk(key, n=modulus * 5)).notes == {"oversized": 1}
    assert parsed(jwk(key, n=modulus * 50)).notes == {"malformed": 1}


def test_private_parts_are_dropped():
    keys = parsed(jwk(EC, True, kid="leaked"))

    found = keys.find("leaked", "ES256")
    assert found is not None
    assert not found.jose.is_private
    assert keys.notes == {"private_part_dropped": 1}
    assert str(jwk(EC, True)["d"]) not in repr((keys, found, found.jose.as_dict()))


def test_the_very_same_key_twice_is_one_key():
    keys = parsed(jwk(EC, kid="a"), jwk(EC, kid="a"))

    assert len(keys) == 1
    assert keys.find("a", "ES256") is not None


def test_different_keys_of_one_name_are_ambiguous_and_both_left_out():
    keys = parsed(jwk(EC, kid="a"), jwk(ECKey.generate_key("P-256"), kid="a"), jwk(OKP, kid="b"))

    assert keys.find("a", "ES256") is None
    assert keys.find("b", "EdDSA") is not None
    assert keys.notes == {"ambiguous": 2}


def test_one_name_for_keys_of_different_types_is_clear():
    keys = parsed(jwk(EC, kid="a"), jwk(OKP, kid="a"))  # RFC 7517 section 4.5 allows it

    assert keys.find("a", "ES256") != keys.find("a", "EdDSA")
    assert len(keys) == 2


def test_a_key_without_alg_serves_every_algorithm_that_fits_it(issuer: Issuer):
    rsa = parsed(jwk(issuer.key("RS256"), kid="a")).keys[0]
    okp = parsed(jwk(OKP, kid="a")).keys[0]

    assert rsa.algorithms == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    assert okp.algorithms == {"EdDSA", "Ed25519"}


def test_without_a_kid_only_the_sole_suitable_key_is_found():
    one = parsed(jwk(EC, kid="a"), jwk(OKP, kid="b"))
    two = parsed(jwk(EC, kid="a"), jwk(ECKey.generate_key("P-256")))

    assert one.find("", "ES256") == one.find("a", "ES256")
    assert two.find("", "ES256") is None
    assert two.find("", "RS256") is None
    assert not two.knows("")


def test_a_key_serves_no_algorithm_but_its_own(issuer: Issuer):
    message = b"message"
    for own in ("RS256", "ES256", "EdDSA"):
        key = parse_key_set(issuer.jwks_bytes()).find(issuer.kid(own), own)
        assert key is not None
        signature = JWSRegistry.algorithms[own].sign(message, issuer.key(own))
        for alg in [*ALGORITHMS, "none", "HS256", "ES256K", ""]:
            assert key.verifies(alg, message, signature) is (alg == own)
        assert not key.verifies(own, message, b"")
        assert not key.verifies(own, message + b".", signature)


JUNK = st.none() | st.integers() | st.text(max_size=60) | st.lists(st.text(max_size=6), max_size=2)


@given(
    kty=st.sampled_from(["RSA", "EC", "OKP", "oct"]) | JUNK,
    members=st.dictionaries(
        st.sampled_from(["kid", "use", "key_ops", "alg", "crv", "x", "y", "n", "e", "d", "k", "x5c", "x5u"]),
        JUNK | st.sampled_from(["P-256", "Ed25519", "sig", "AQAB", "AA", "ES256"]),
    ),
)
@settings(max_examples=300, deadline=None)
def test_any_entry_is_a_key_or_is_counted(kty: object, members: dict[str, Any]):
    keys = parsed({"kty": kty, **members})

    assert (
        len(keys) + sum(count for reason, count in keys.notes.items() if reason != "private_part_dropped")
        == 1
    )


@given(st.binary(max_size=200))
def test_any_bytes_are_a_set_or_refused(document: bytes):
    try:
        parse_key_set(document)
    except KeySetError as error:
        assert error.__context__ is None
