"""Operators: what each writes, which is stricter, and that nothing of a value shows where nothing may."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.errors import PolicyError
from extproc.domain.mask import MaskSpec, OperatorName
from extproc.masking import STRICTNESS, MaskSecrets
from extproc.masking.operators import Operator, build_operator, strictest
from tests.masking.support import JSON, SECRETS, masker

WRITES = [
    # operator, entity, value, result
    ("redact", "EMAIL_ADDRESS", "alice@example.com", ""),
    ("null", "EMAIL_ADDRESS", "alice@example.com", None),
    ("keep", "EMAIL_ADDRESS", "alice@example.com", "alice@example.com"),
    ("replace", "EMAIL_ADDRESS", "alice@example.com", "[EMAIL_ADDRESS]"),
    ("partial", "EMAIL_ADDRESS", "alice@example.com", "a***@example.com"),
    ("partial", "EMAIL_ADDRESS", "a@example.com", "***@example.com"),
    ("partial", "EMAIL_ADDRESS", "alice%40example.com", "a***%40example.com"),
    ("partial", "CREDIT_CARD", "4111 1111 1111 1111", "**** **** **** 1111"),
    ("partial", "CREDIT_CARD", "4111111111111111", "************1111"),
    ("partial", "IBAN_CODE", "DE89 3704 0044 0532 0130 00", "**** **** **** **** **30 00"),
    ("partial", "US_SSN", "123-45-6789", "***-**-6789"),
    ("partial", "PHONE_NUMBER", "+1 (202) 555-0143", "+* (***) ***-0143"),
    ("partial", "IP_ADDRESS", "192.168.1.20", "192.168.*.*"),
    ("partial", "IP_ADDRESS", "2001:db8::1", "2001:db8:*"),
    ("partial", "IP_ADDRESS", "::ffff:10.0.0.1", "*"),
    ("partial", "JWT", "eyJhbGciOiJIUzI1NiJ9.eyJ9.x", "********"),
    ("partial", "AWS_ACCESS_KEY", "AKIAIOSFODNN7EXAMPLE", "********"),
    ("partial", "PEM_PRIVATE_KEY", "-----BEGIN PRIVATE KEY-----", "********"),
    ("partial", "LITERAL", "injected credential", "********"),
    ("partial", "MASKED", "anything else", "*********else"),
    ("partial", "MASKED", "four", "****"),
    ("partial", "MASKED", "abc", "***"),
    ("partial", "MASKED", "", ""),
]  # fmt: skip


def operator_for(name: OperatorName, replacement: str = "", keep_last: int = 4) -> Operator:
    spec = MaskSpec("m", operator=name, replacement=replacement, keep_last=keep_last)
    return build_operator(spec, SECRETS)


@pytest.mark.parametrize(
    ("name", "entity", "value", "result"), WRITES, ids=[f"{o}-{e}-{v[:12]}" for o, e, v, _ in WRITES]
)
def test_an_operator_writes(name, entity, value, result):
    assert operator_for(name).apply(entity, value) == result


def test_replace_writes_the_configured_text():
    assert operator_for("replace", replacement="hidden").apply("JWT", "x") == "hidden"


def test_partial_keeps_as_many_as_configured():
    assert (
        operator_for("partial", keep_last=2).apply("CREDIT_CARD", "4111 1111 1111 1111")
        == "**** **** **** **11"
    )
    assert (
        operator_for("partial", keep_last=0).apply("EMAIL_ADDRESS", "alice@example.com") == "***@example.com"
    )
    assert operator_for("partial", keep_last=0).apply("IP_ADDRESS", "10.0.0.1") == "*"
    assert operator_for("partial", keep_last=0).apply("MASKED", "abc") == "***"


def test_hash_is_salted_and_repeatable():
    value = "alice@example.com"
    expected = hashlib.sha256(value.encode() + SECRETS.hash_salt).hexdigest()
    assert operator_for("hash").apply("EMAIL_ADDRESS", value) == expected
    assert operator_for("hash").apply("EMAIL_ADDRESS", value) == expected


def test_hmac_is_keyed():
    expected = hmac.digest(SECRETS.hmac_key, b"alice@example.com", "sha256").hex()
    assert operator_for("hmac").apply("EMAIL_ADDRESS", "alice@example.com") == expected


def test_digests_take_lone_surrogates():
    assert len(operator_for("hash").apply("MASKED", "\ud800") or "") == 64
    assert len(operator_for("hmac").apply("MASKED", "\ud800") or "") == 64


@pytest.mark.parametrize(("name", "what"), [("hash", "hash salt"), ("hmac", "HMAC key")])
def test_a_weak_key_is_refused_without_being_told(name, what):
    weak = MaskSecrets(hash_salt=b"weak-salt", hmac_key=b"weak-key")
    with pytest.raises(PolicyError, match=what) as problem:
        build_operator(MaskSpec("m", operator=name), weak)
    assert "weak-" not in str(problem.value)


def test_keys_do_not_show():
    assert "enough" not in repr(SECRETS)


def test_an_unknown_operator_is_refused():
    with pytest.raises(PolicyError, match='unknown operator "shred"'):
        build_operator(MaskSpec("m", operator="shred"), SECRETS)


def test_a_negative_keep_last_is_refused():
    with pytest.raises(PolicyError, match="keep_last"):
        operator_for("partial", keep_last=-1)


def test_every_operator_has_a_strictness():
    assert set(STRICTNESS) == set(get_args(OperatorName))
    assert STRICTNESS["keep"] < STRICTNESS["partial"] < STRICTNESS["hash"] == STRICTNESS["hmac"]
    assert STRICTNESS["hmac"] < STRICTNESS["null"] < STRICTNESS["replace"] == STRICTNESS["redact"]


ALL = [operator_for(name) for name in get_args(OperatorName)] + [
    operator_for("partial", keep_last=2),
    operator_for("replace", replacement="x"),
]


def test_the_strictest_is_the_same_in_any_order():
    for first, second in itertools.permutations(ALL, 2):
        assert strictest(first, second) is strictest(second, first)
        assert strictest(first, second).rank == max(first.rank, second.rank)
    assert strictest(operator_for("partial", keep_last=4), ALL[-2]) is ALL[-2]
    assert strictest(None, None) is None


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        ("keep", "partial", b'["a***@b.io"]'),
        ("partial", "replace", b'["[EMAIL_ADDRESS]"]'),
        ("null", "partial", b"[null]"),
        ("redact", "null", b'[""]'),
        ("redact", "replace", b'[""]'),
        ("keep", "keep", b'["alice@b.io"]'),
    ],
)
def test_the_strictest_of_two_specs_wins(first, second, result):
    specs = [MaskSpec(name, entities=("EMAIL_ADDRESS",), operator=name) for name in (first, second)]
    for order in (specs, specs[::-1]):
        assert masker(*order).body(b'["alice@b.io"]', JSON).data == result


@pytest.mark.parametrize(
    ("on_path", "on_entity", "result"),
    [
        ("partial", "redact", b'{"v":"' + b"*" * 11 + b'ow"}'),
        ("partial", "replace", b'{"v":"' + b"*" * 24 + b' now"}'),
        ("null", "redact", b'{"v":null}'),
        ("redact", "partial", b'{"v":""}'),
        ("partial", "partial", b'{"v":"' + b"*" * 19 + b' now"}'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_entity_inside_a_path_is_treated_no_less_strictly(on_path, on_entity, result):
    plan = masker(
        MaskSpec("p", paths=("$.v",), operator=on_path, keep_last=2 if on_entity == "redact" else 4),
        MaskSpec("e", entities=("EMAIL_ADDRESS",), operator=on_entity),
    )
    assert plan.body(b'{"v":"write to alice@b.io now"}', JSON).data == result


def test_a_stricter_entity_that_is_the_whole_value_decides_alone():
    plan = masker(
        MaskSpec("p", paths=("$.v",), operator="partial"),
        MaskSpec("e", entities=("EMAIL_ADDRESS",), operator="replace"),
    )
    assert plan.body(b'{"v":"alice@b.io"}', JSON).data == b'{"v":"[EMAIL_ADDRESS]"}'


def test_overlapping_findings_become_one_and_show_nothing():
    plan = masker(entities=("EMAIL_ADDRESS", "PHONE_NUMBER"), operator="partial")
    text, counts = plan.text("x +12025550143@example.com y")
    assert "2025550143" not in text
    assert "0143" not in text
    assert sum(counts.values()) == 1


@given(st.sampled_from(sorted(STRICTNESS.keys() - {"keep"})), st.text(min_size=1, max_size=30))
def test_no_operator_returns_the_value(name, value):
    if name == "partial" and not value.strip("*"):
        return
    result = operator_for(name).apply("MASKED", value)
    assert result != value
