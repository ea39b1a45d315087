from __future__ import annotations

import ast
import json
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc import identity
from extproc.demo.issuer import Issuer
from extproc.domain.errors import ConfigError, TokenError
from extproc.domain.principal import Principal
from extproc.identity import (
    MESSAGES,
    ClaimRules,
    KeyAbsence,
    NeedKeysFor,
    ProviderRules,
    Verifier,
    parse_key_set,
)
from tests.identity.conftest import NOW
from tests.support.keys import MemoryKeys
from tests.support.tokens import BAD_TOKENS, MAX_TOKEN, header_of, join, unverified_email


def rules_for(issuer: Issuer, /, **changes) -> ProviderRules:
    return replace(
        ProviderRules("corp", issuer.issuer, (issuer.audience,), claims=ClaimRules.of(person="email")),
        **changes,
    )


def verifier_for(issuer: Issuer, /, cache_size: int = 100, **changes) -> Verifier:
    return Verifier([rules_for(issuer, **changes)], cache_size)


def verified(issuer: Issuer, token: str, now: float = NOW, **changes) -> Principal:
    found = verifier_for(issuer, **changes).verify(token, MemoryKeys.of(issuer), now)
    assert isinstance(found, Principal)
    return found


def refusal(issuer: Issuer, token: str, now: float = NOW, **changes) -> TokenError:
    with pytest.raises(TokenError) as caught:
        verifier_for(issuer, **changes).verify(token, MemoryKeys.of(issuer), now)
    return caught.value


@pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA"])
def test_a_good_token_names_its_principal(issuer: Issuer, alg: str):
    token = issuer.token("alice", alg=alg, groups=["analysts"], kind="human", azp="cli", jti="one")

    principal = verified(issuer, token)

    assert (principal.issuer, principal.subject, principal.kind) == (issuer.issuer, "alice", "human")
    assert principal.groups == ("analysts",)
    assert principal.person == f"{issuer.issuer}|alice"
    assert principal.client_id == "cli"
    assert principal.provider == "corp"
    assert principal.audience == (issuer.audience,)
    assert principal.expires_at == NOW + 300


@pytest.mark.parametrize("alg", ["RS384", "RS512", "PS256", "PS384", "PS512", "ES384", "ES512", "Ed25519"])
def test_every_other_algorithm_works_once_it_is_configured(alg: str):
    issuer = Issuer(algorithms=[alg], clock=lambda: NOW)

    assert verified(issuer, issuer.token(), algorithms=(alg,)).subject == "alice"
    assert refusal(issuer, issuer.token()).code == "bad_algorithm"


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_bad_token_is_refused_for_its_own_defect(issuer: Issuer, name: str):
    bad = BAD_TOKENS[name]

    assert refusal(issuer, bad(issuer)).code == bad.code


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_no_error_quotes_the_token(issuer: Issuer, name: str):
    token = BAD_TOKENS[name](issuer)
    error = refusal(issuer, token)

    told = " ".join((str(error), repr(error), *traceback.format_exception(error, chain=True)))
    linked = [error.__cause__, error.__context__]

    assert linked == [None, None]
    assert str(error) == MESSAGES[error.code]
    for start in range(0, len(token) - 12, 6):
        assert token[start : start + 12] not in told


def test_every_code_of_the_catalogue_is_documented():
    assert {bad.code for bad in BAD_TOKENS.values()} <= set(MESSAGES)
    assert len(BAD_TOKENS) >= 25


def test_an_empty_token_is_a_missing_one(issuer: Issuer):
    assert refusal(issuer, "").code == "missing"


def test_a_token_in_other_than_ascii_is_malformed(issuer: Issuer):
    assert refusal(issuer, issuer.token() + "é").code == "malformed"


def test_the_size_limit_is_exact(issuer: Issuer):
    token = issuer.token(filler="x" * 800)
    keys = MemoryKeys.of(issuer)

    assert isinstance(
        Verifier([rules_for(issuer)], max_token_bytes=len(token)).verify(token, keys, NOW), Principal
    )
    with pytest.raises(TokenError, match="larger"):
        Verifier([rules_for(issuer)], max_token_bytes=len(token) - 1).verify(token, keys, NOW)


@pytest.mark.parametrize(
    ("claims", "late", "code"),
    [
        ({"exp": NOW}, 29, ""),
        ({"exp": NOW}, 30, "expired"),
        ({"nbf": NOW + 30}, 0, ""),
        ({"nbf": NOW + 31}, 0, "not_yet_valid"),
        ({"iat": NOW + 30}, 0, ""),
        ({"iat": NOW + 31}, 0, "not_yet_valid"),
    ],
)
def test_skew_is_granted_to_the_second(issuer: Issuer, claims: dict[str, float], late: float, code: str):
    dates: dict[str, Any] = {"exp": int(NOW) + 300} | {name: int(date) for name, date in claims.items()}
    token = issuer.token(**dates)

    if code:
        assert refusal(issuer, token, NOW + late).code == code
    else:
        assert verified(issuer, token, NOW + late).subject == "alice"


def test_no_skew_means_none(issuer: Issuer):
    token = issuer.token(exp=int(NOW), iat=None)

    assert verified(issuer, token, NOW - 1, skew=0.0).subject == "alice"
    assert refusal(issuer, token, NOW, skew=0.0).code == "expired"


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "application/at+jwt", None])
def test_types_of_access_tokens_are_accepted(issuer: Issuer, typ: str | None):
    assert verified(issuer, issuer.token(header={"typ": typ})).subject == "alice"


def test_an_audience_in_a_list_is_enough(issuer: Issuer):
    principal = verified(issuer, issuer.token(aud=["another", issuer.audience]))

    assert principal.audience == ("another", issuer.audience)


def test_key_locations_in_the_header_are_ignored(issuer: Issuer):
    located = {
        "jku": "https://attacker.test",
        "x5u": "https://attacker.test",
        "x5c": ["AAAA"],
        "jwk": {"kty": "oct"},
    }

    assert verified(issuer, issuer.token(header=located)).subject == "alice"


def test_an_unverified_address_names_nobody(issuer: Issuer):
    assert verified(issuer, unverified_email(issuer)).person == f"{issuer.issuer}|bob"


def test_a_token_without_kid_needs_exactly_one_suitable_key():
    issuer = Issuer(algorithms=["ES256", "EdDSA"], clock=lambda: NOW)
    token = issuer.token(header={"kid": None})

    assert verified(issuer, token).subject == "alice"
    issuer.rotate("ES256")
    assert refusal(issuer, token).code == "unknown_key"


def test_an_unknown_issuer_never_asks_for_keys(issuer: Issuer):
    keys = MemoryKeys({}, absence=KeyAbsence.FETCH)

    with pytest.raises(TokenError, match="not one this service trusts"):
        verifier_for(issuer).verify(issuer.token(iss="https://attacker.test"), keys, NOW)
    assert keys.asked == []


def test_a_refused_algorithm_never_asks_for_keys(issuer: Issuer):
    keys = MemoryKeys({}, absence=KeyAbsence.FETCH)

    with pytest.raises(TokenError, match="algorithm"):
        verifier_for(issuer).verify(join({"alg": "none"}, issuer.claims()), keys, NOW)
    assert keys.asked == []


@pytest.mark.parametrize(
    ("absence", "code"),
    [
        (KeyAbsence.UNKNOWN, "unknown_key"),
        (KeyAbsence.UNAVAILABLE, "keys_unavailable"),
        (KeyAbsence.MISFIT, "bad_algorithm"),
    ],
)
def test_the_absence_of_a_key_says_why(issuer: Issuer, absence: KeyAbsence, code: str):
    with pytest.raises(TokenError) as caught:
        verifier_for(issuer).verify(issuer.token(), MemoryKeys({}, absence), NOW)
    assert caught.value.code == code


def test_a_missing_key_that_may_be_fetched_is_asked_for(issuer: Issuer):
    keys = MemoryKeys({}, KeyAbsence.FETCH)
    verifier = verifier_for(issuer)

    assert verifier.verify(issuer.token(), keys, NOW) == NeedKeysFor("corp")
    keys.sets["corp"] = parse_key_set(issuer.jwks_bytes())
    assert isinstance(verifier.verify(issuer.token(), keys, NOW), Principal)


def test_the_issuer_chooses_the_provider():
    one = Issuer(algorithms=["ES256"], issuer="https://one.test", clock=lambda: NOW)
    two = Issuer(algorithms=["ES256"], issuer="https://two.test", clock=lambda: NOW)
    keys = MemoryKeys({"one": parse_key_set(one.jwks_bytes()), "two": parse_key_set(two.jwks_bytes())})
    verifier = Verifier([rules_for(one, name="one"), rules_for(two, name="two")])

    named = [verifier.verify(issuer.token(), keys, NOW) for issuer in (one, two)]
    assert [principal.provider for principal in named if isinstance(principal, Principal)] == ["one", "two"]
    with pytest.raises(TokenError) as caught:  # a key of one provider proves nothing about the other
        verifier.verify(one.token(iss=two.issuer), keys, NOW)
    assert caught.value.code == "unknown_key"
    with pytest.raises(TokenError) as caught:
        verifier.verify(one.token(iss=two.issuer, header={"kid": two.kid()}), keys, NOW)
    assert caught.value.code == "bad_signature"


# ---- the cache ----


def test_a_remembered_token_costs_no_key(issuer: Issuer):
    verifier, keys, token = verifier_for(issuer), MemoryKeys.of(issuer), issuer.token()

    first = verifier.verify(token, keys, NOW)
    again = verifier.verify(token, keys, NOW + 299)

    assert again is first
    assert len(keys.asked) == 1


@pytest.mark.parametrize(
    ("lifetime", "usable", "remembered", "forgotten"),
    [
        (3600, float("inf"), 299, 300),  # five minutes
        (100, float("inf"), 99, 100),  # exp, without the skew
        (3600, NOW + 50, 49, 50),  # the key's own end
    ],
)
def test_memory_ends_with_the_first_limit(
    issuer: Issuer, lifetime: int, usable: float, remembered: int, forgotten: int
):
    verifier, keys, token = verifier_for(issuer), MemoryKeys.of(issuer), issuer.token(lifetime=lifetime)
    keys.usable_until = usable

    for late in (0, remembered):
        verifier.verify(token, keys, NOW + late)
    assert len(keys.asked) == 1
    verifier.verify(token, keys, NOW + forgotten)
    assert len(keys.asked) == 2


def test_memory_does_not_outlive_expiry(issuer: Issuer):
    verifier, keys, token = verifier_for(issuer), MemoryKeys.of(issuer), issuer.token(lifetime=100)
    verifier.verify(token, keys, NOW)

    with pytest.raises(TokenError, match="expired"):
        verifier.verify(token, keys, NOW + 130)
    assert len(verifier) == 0


def test_a_clock_that_is_set_back_is_not_answered_from_memory(issuer: Issuer):
    verifier, keys, token = verifier_for(issuer), MemoryKeys.of(issuer), issuer.token(nbf=int(NOW))
    verifier.verify(token, keys, NOW)

    with pytest.raises(TokenError, match="not valid yet"):
        verifier.verify(token, keys, NOW - 100)


def test_a_withdrawn_key_ends_what_is_remembered(issuer: Issuer):
    verifier, keys, token = verifier_for(issuer), MemoryKeys.of(issuer), issuer.token()
    verifier.verify(token, keys, NOW)

    keys.sets["corp"] = parse_key_set(b'{"keys": []}')
    keys.generation += 1

    with pytest.raises(TokenError) as caught:
        verifier.verify(token, keys, NOW)
    assert caught.value.code == "unknown_key"


def test_forgetting_forgets_everything(issuer: Issuer):
    verifier, keys, token = verifier_for(issuer), MemoryKeys.of(issuer), issuer.token()
    verifier.verify(token, keys, NOW)

    verifier.forget()

    assert len(verifier) == 0
    verifier.verify(token, keys, NOW)
    assert len(keys.asked) == 2


def test_the_token_verified_longest_ago_makes_room(issuer: Issuer):
    verifier, keys = verifier_for(issuer, cache_size=2), MemoryKeys.of(issuer)
    a, b, c = (issuer.token(name, alg="EdDSA") for name in "abc")

    for token in (a, b, a, c, b, c):
        verifier.verify(token, keys, NOW)
    assert len(keys.asked) == 3
    verifier.verify(a, keys, NOW)
    assert len(keys.asked) == 4
    verifier.verify(c, keys, NOW)
    assert len(keys.asked) == 4  # b made room for a
    assert len(verifier) == 2


def test_refused_tokens_are_not_remembered(issuer: Issuer):
    verifier, keys = verifier_for(issuer), MemoryKeys.of(issuer)

    for bad in BAD_TOKENS.values():
        with pytest.raises(TokenError):
            verifier.verify(bad(issuer), keys, NOW)
    assert len(verifier) == 0


def test_a_cache_of_no_size_verifies_every_time(issuer: Issuer):
    verifier, keys, token = verifier_for(issuer, cache_size=0), MemoryKeys.of(issuer), issuer.token()

    for _ in range(2):
        verifier.verify(token, keys, NOW)
    assert len(keys.asked) == 2


# ---- any text at all ----


@given(
    st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{0,60}(\.[A-Za-z0-9_-]{0,60}){0,4}", fullmatch=True)
)
@settings(max_examples=300, deadline=None)
def test_any_text_is_refused_with_a_known_code(issuer: Issuer, text: str):
    assert refusal(issuer, text).code in MESSAGES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
HEADER_NAMES = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "enc", "cty", "zip", "jku", "jwk", "x"])
CLAIM_NAMES = st.sampled_from(
    [
        "iss",
        "sub",
        "aud",
        "exp",
        "nbf",
        "iat",
        "jti",
        "groups",
        "kind",
        "email",
        "email_verified",
        "azp",
        "acr",
        "amr",
    ]
)


@given(
    header=st.dictionaries(HEADER_NAMES, JSON, max_size=3),
    claims=st.dictionaries(CLAIM_NAMES, JSON, max_size=4),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_signed_content_gives_a_principal_or_a_known_code(
    issuer: Issuer, header: dict[str, Any], claims: dict[str, Any]
):
    full_header = json.dumps(header_of(issuer, "EdDSA") | header).encode()
    token = issuer.sign(full_header, json.dumps(issuer.claims() | claims).encode(), alg="EdDSA")

    try:
        found = verifier_for(issuer).verify(token, MemoryKeys.of(issuer), NOW)
    except TokenError as error:
        assert error.code in MESSAGES
    else:
        assert isinstance(found, Principal)
        json.dumps(found.to_record(), allow_nan=False).encode()


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_no_change_of_a_character_leaves_a_good_token(issuer: Issuer, data: st.DataObject):
    token = issuer.token(alg="ES256", jti="fixed")
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABab01-_.=+/ ~").filter(lambda one: one != token[place]))

    assert refusal(issuer, token[:place] + letter + token[place + 1 :]).code in MESSAGES


# ---- configuration ----


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": ""},
        {"name": ""},
        {"audiences": ()},
        {"audiences": ("",)},
        {"algorithms": ()},
        {"algorithms": ("none",)},
        {"algorithms": ("HS256",)},
        {"algorithms": ("RS256", "ES256K")},
        {"skew": -1.0},
        {"skew": 301.0},
        {"skew": float("nan")},
    ],
    ids=str,
)
def test_rules_that_could_let_anything_in_are_refused(issuer: Issuer, change: dict[str, Any]):
    with pytest.raises(ConfigError, match="identity provider"):
        rules_for(issuer, **change)


def test_two_providers_may_share_neither_name_nor_issuer(issuer: Issuer):
    for change in ({"name": "other"}, {"issuer": "https://other.test"}):
        with pytest.raises(ConfigError, match="different"):
            Verifier([rules_for(issuer), rules_for(issuer, **change)])


def test_the_catalogue_and_the_verifier_agree_on_the_size_limit(issuer: Issuer):
    assert len(BAD_TOKENS["huge"](issuer)) > MAX_TOKEN


def test_the_core_brings_no_loop_no_client_and_no_server_along():
    code = "import sys, extproc.identity; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not {"asyncio", "httpx2", "grpc", "google.protobuf", "threading", "sqlite3"} & set(
        done.stdout.split()
    )


def test_nothing_is_imported_while_a_request_waits():
    for path in Path(identity.__file__).parent.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                assert not [
                    node for node in ast.walk(function) if isinstance(node, ast.Import | ast.ImportFrom)
                ]
