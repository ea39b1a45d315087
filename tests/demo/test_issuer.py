from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from extproc.demo.issuer import DISCOVERY_PATH, KEYS_PATH, Issuer
from extproc.demo.pages import Page


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as response:
        return json.load(response)


def test_an_independent_client_can_discover_keys_and_verify_a_token():
    with Issuer(port=0, algorithms=["ES256", "EdDSA"]) as issuer:
        document = get(issuer.issuer + DISCOVERY_PATH)
        assert document["issuer"] == issuer.issuer
        keys = KeySet.import_key_set(get(document["jwks_uri"]))

    token = jwt.decode(issuer.token("alice", groups=["dba"], kind="human", team="blue"), keys, ["ES256"])
    assert token.claims["sub"] == "alice"
    assert token.claims["groups"] == ["dba"]
    assert token.claims["kind"] == "human"
    assert token.claims["team"] == "blue"
    assert token.claims["aud"] == "customers-api"
    assert token.claims["exp"] - token.claims["iat"] == 300


def test_no_private_part_is_published():
    issuer = Issuer()

    for key in issuer.jwks()["keys"]:
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & set(key)


def test_rotation_keeps_the_old_key_published_until_it_is_withdrawn():
    issuer = Issuer(algorithms=["ES256"])
    old = issuer.kid()
    new = issuer.rotate()

    assert issuer.kid() == new
    assert [key["kid"] for key in issuer.jwks()["keys"]] == [old, new]
    issuer.withdraw(new)
    assert issuer.kid() == old
    issuer.withdraw(old)
    assert [key["kid"] for key in issuer.jwks()["keys"]] == [issuer.kid()]
    assert issuer.kid() not in {old, new}


def test_claims_that_are_none_are_left_out():
    claims = Issuer(algorithms=["EdDSA"]).claims(None, aud=None, exp=None, jti=None)

    assert set(claims) == {"iss", "iat"}


def test_pages_can_be_replaced_and_are_counted():
    with Issuer(port=0, algorithms=["EdDSA"]) as issuer:
        issuer.pages[KEYS_PATH] = Page(503, b"{}")
        for path, status in ((KEYS_PATH, 503), ("/elsewhere", 404)):
            with pytest.raises(urllib.error.HTTPError) as caught:
                get(issuer.url + path)
            assert caught.value.code == status
            caught.value.close()
        assert issuer.hits == {KEYS_PATH: 1, "/elsewhere": 1}


def test_without_a_port_it_does_not_listen():
    with pytest.raises(RuntimeError, match="port"):
        Issuer(algorithms=["EdDSA"]).start()
