from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.errors import TokenError
from extproc.domain.request import Headers
from extproc.identity import MESSAGES, extract_bearer, http_status, token_error, www_authenticate

CANARY = "canary-7f3a"


def headers(*values: str, name: str = "authorization") -> Headers:
    return Headers(((":method", "GET"), *((name, value) for value in values)))


def refusal(found: Headers, name: str = "authorization") -> str:
    with pytest.raises(TokenError) as caught:
        extract_bearer(found, name)
    assert CANARY not in str(caught.value) + repr(caught.value)
    return caught.value.code


@pytest.mark.parametrize(
    "value",
    ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c", "Bearer    a.b.c", " Bearer a.b.c ", "bEaReR a.b.c"],
)
def test_the_scheme_is_read_in_any_case(value: str):
    assert extract_bearer(headers(value)) == "a.b.c"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ((), "missing"),
        (("",), "missing"),
        (("Bearer",), "missing"),
        (("Bearer ",), "missing"),
        (("Basic Y2FuYXJ5",), "missing"),
        (("a.b.c",), "missing"),
        (("Bearer a.b.c", "Bearer a.b.c"), "malformed"),
        (("Bearer a.b.c", "Basic x"), "malformed"),
        ((f"Bearer {CANARY}, Bearer b",), "malformed"),
        ((f"Bearer {CANARY} b",), "malformed"),
        ((f"Bearer {CANARY}\tb",), "malformed"),
        ((f'Bearer token="{CANARY}"',), "malformed"),
        ((f"Bearer {CANARY}é",), "malformed"),
        ((f"Bearer {CANARY}\x00",), "malformed"),
        (("Bearer =",), "malformed"),
        (("Bearer\ta.b.c",), "missing"),
    ],
    ids=repr,
)
def test_anything_but_one_bearer_token_is_refused(values: tuple[str, ...], code: str):
    assert refusal(headers(*values)) == code


def test_padding_is_left_for_the_verifier_to_refuse():
    assert extract_bearer(headers("Bearer YWJj==")) == "YWJj=="


def test_a_header_of_its_own_needs_no_scheme():
    for value in ("a.b.c", "Bearer a.b.c"):
        assert extract_bearer(headers(value, name="x-agent-token"), "x-agent-token") == "a.b.c"
    assert refusal(headers("Bearer", name="x-agent-token"), "x-agent-token") == "missing"
    assert refusal(headers("Basic abc", name="x-agent-token"), "x-agent-token") == "missing"
    assert refusal(headers("Bearer a.b.c"), "x-agent-token") == "missing"


@given(st.lists(st.text(max_size=40), max_size=3))
def test_any_headers_give_a_token_or_a_known_code(values: list[str]):
    try:
        assert extract_bearer(headers(*values))
    except TokenError as error:
        assert error.code in {"missing", "malformed"}


# ---- the challenge ----


def test_a_request_without_a_token_gets_the_bare_challenge():
    assert www_authenticate(None, "customers-api") == 'Bearer realm="customers-api"'
    assert www_authenticate(token_error("missing"), "customers-api") == 'Bearer realm="customers-api"'


@pytest.mark.parametrize("code", sorted(set(MESSAGES) - {"missing"}))
def test_a_refused_token_is_told_why(code: str):
    challenge = www_authenticate(token_error(code), "r")

    assert challenge == f'Bearer realm="r", error="invalid_token", error_description="{MESSAGES[code]}"'


def test_the_challenge_uses_the_table_and_not_the_error():
    challenge = www_authenticate(TokenError("expired", CANARY), "r")

    assert CANARY not in challenge
    assert CANARY not in www_authenticate(TokenError("unheard-of", CANARY), "r")


def test_resource_metadata_is_added():
    challenge = www_authenticate(
        None, "r", resource_metadata="https://api.test/.well-known/oauth-protected-resource"
    )

    assert challenge.endswith('resource_metadata="https://api.test/.well-known/oauth-protected-resource"')


def test_a_realm_cannot_break_out_of_its_quotes():
    assert www_authenticate(None, 'a"b\\c\r\nSet-Cookie: x\x00é') == 'Bearer realm="a\\"b\\\\cSet-Cookie: x"'


def test_messages_fit_a_quoted_string():
    # RFC 6750 section 3: error_description has neither quotes nor backslashes
    for message in MESSAGES.values():
        assert message.isascii()
        assert not set('"\\') & set(message)


def test_only_our_own_trouble_is_not_401():
    assert {code for code in MESSAGES if http_status(token_error(code)) != 401} == {"keys_unavailable"}
    assert http_status(token_error("keys_unavailable")) == 503
