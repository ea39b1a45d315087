"""JSON is masked in place: what is found changes, everything else stays byte for byte."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.domain.errors import MaskingError
from extproc.domain.mask import MaskSpec
from extproc.masking.operators import STRICTNESS
from tests.masking.support import EVERYTHING, JSON, masker

ENTITIES = ("EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS")
VALUES = ["alice@example.com", "4111111111111111", "DE89370400440532013000", "10.0.0.1", "josé@exämple.de"]
PLAIN = masker(entities=ENTITIES)


class Pairs(list[tuple[str, Any]]):
    """A JSON object with its order and its repeated keys."""


def parse(text: bytes | str) -> Any:
    return json.loads(text, object_pairs_hook=Pairs)


def spell(value: Any, chance: random.Random) -> str:
    """JSON for `value` with random white space, escapes and number spellings."""
    gap = chance.choice(["", "", " ", "\n\t"])
    match value:
        case Pairs():
            members = [f"{spell(key, chance)}{gap}:{gap}{spell(member, chance)}" for key, member in value]
            return "{" + gap + f"{gap},{gap}".join(members) + gap + "}"
        case list():
            return "[" + gap + f",{gap}".join(spell(member, chance) for member in value) + gap + "]"
        case str():
            return '"' + "".join(spell_character(char, chance) for char in value) + '"'
    return json.dumps(value)


def spell_character(char: str, chance: random.Random) -> str:
    if chance.random() < 0.2:
        units = char.encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{int.from_bytes(units[at : at + 2]):04x}" for at in range(0, len(units), 2))
    if char == "/" and chance.random() < 0.5:
        return "\\/"
    if "\ud800" <= char <= "\udfff":
        return f"\\u{ord(char):04X}"
    return json.dumps(char, ensure_ascii=False)[1:-1]


words = st.sampled_from(
    [
        "",
        "a",
        "note",
        "x y",
        'say "hi"',
        "tab\t",
        "back\\slash",
        "ünïcode",
        "😀",
        "/path",
        "\ud800",
        "[",
        "{}",
    ]
)
texts = st.one_of(
    words, st.sampled_from(VALUES), st.lists(words | st.sampled_from(VALUES), max_size=4).map(" ".join)
)
scalars = st.one_of(
    texts, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([4111111111111111, 10**30, 0, -1]),
)  # fmt: skip
names = st.one_of(st.sampled_from(["card", "email", "a b", "items", "x"]), texts)


def documents(leaves: st.SearchStrategy[Any] = scalars) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.lists(st.tuples(names, inner), max_size=4).map(Pairs)
        ),
        max_leaves=20,
    )


def reference(value: Any) -> Any:
    """The obvious masking of a parsed tree: every key, string and number by itself."""
    match value:
        case Pairs():
            return Pairs((PLAIN.text(key)[0], reference(member)) for key, member in value)
        case list():
            return [reference(member) for member in value]
        case bool() | None | float():
            return value
        case int():
            masked = PLAIN.text(str(value))[0]
            return value if masked == str(value) else masked
    return reference_text(value)


def reference_text(text: str) -> str:
    if text.lstrip(" \t\r\n")[:1] in ("{", "[") and text.lstrip(" \t\r\n"):
        try:
            return f"document:{reference(parse(text))!r}"
        except ValueError:
            pass
    return PLAIN.text(text)[0]


def opened(value: Any) -> Any:
    """A masked tree with the documents inside its strings opened, to compare with the reference."""
    match value:
        case Pairs():
            return Pairs((key, opened(member)) for key, member in value)
        case list():
            return [opened(member) for member in value]
        case str() if value.lstrip(" \t\r\n")[:1] in ("{", "["):
            try:
                return f"document:{opened(parse(value))!r}"
            except ValueError:
                return value
    return value


@given(documents(), st.randoms(use_true_random=False))
@settings(max_examples=400, deadline=None)
def test_masking_equals_masking_the_parsed_tree(tree, chance):
    body = spell(tree, chance).encode()
    masked = PLAIN.body(body, JSON)
    assert opened(parse(masked.data)) == opened(reference(parse(body)))


@given(documents(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_a_document_inside_a_string_is_masked_as_one(tree, chance):
    inner = " [" + spell(tree, chance) + "]"
    body = spell(Pairs([("payload", inner), ("n", 1.50)]), chance).encode()
    masked = PLAIN.body(body, JSON)
    assert opened(parse(masked.data)) == opened(reference(parse(body)))


@given(
    documents(st.one_of(words, st.integers(-999, 999), st.floats(), st.none())),
    st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_without_a_finding_the_very_same_bytes_come_back(tree, chance):
    body = spell(tree, chance).encode()
    if b"NaN" in body or b"Infinity" in body or PLAIN.findings(body, JSON):
        return
    masked = PLAIN.body(body, JSON)
    assert masked.data is body
    assert not masked.changed
    assert masked.counts == {}


# --- path rules against a naive evaluation ----------------------------------------------------------------------

PATHS = {
    "$..card": (("..", "card"),),
    "$.items[*].email": (("", "items"), ("", "*"), ("", "email")),
    "$['a b']": (("", "a b"),),
    "$.items[1]": (("", "items"), ("", 1)),
    "$..x..email": (("..", "x"), ("..", "email")),
    "$.*.card": (("", "*"), ("", "card")),
    "$[0]": (("", 0),),
    "$..items[*]": (("..", "items"), ("", "*")),
}
OPERATORS = ["null", "redact", "hash", "partial", "replace"]


def leads(steps: tuple[tuple[str, str | int], ...], place: tuple[str | int, ...]) -> bool:
    if not steps:
        return not place
    if not place:
        return False
    kind, wanted = steps[0]
    if kind == ".." and leads(steps, place[1:]):
        return True
    fits = wanted == "*" or (wanted == place[0] and type(wanted) is type(place[0]))
    return fits and leads(steps[1:], place[1:])


@given(
    documents(st.one_of(words, st.integers(), st.booleans(), st.none())),
    st.lists(st.tuples(st.sampled_from(list(PATHS)), st.sampled_from(OPERATORS)), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
@settings(max_examples=400, deadline=None)
def test_path_rules_equal_a_naive_evaluation(tree, rules, chance):
    plan = masker(
        *(MaskSpec(f"m{n}", paths=(path,), operator=operator) for n, (path, operator) in enumerate(rules))
    )
    order = {name: (STRICTNESS[name], name == "redact") for name in OPERATORS}
    single = {name: masker(MaskSpec("s", paths=("$",), operator=name)) for name in OPERATORS}

    def change(name: str, value: Any) -> Any:
        return parse(single[name].body(spell(value, chance).encode(), JSON).data)

    def walk(value: Any, place: tuple[str | int, ...], inherited: str | None) -> Any:
        names = [name for path, name in rules if leads(PATHS[path], place)]
        if inherited is not None:
            names.append(inherited)
        name = max(names, key=order.__getitem__) if names else None
        if name in ("null", "redact", "replace") and isinstance(value, list):
            return change(name, [])
        match value:
            case Pairs():
                return Pairs((key, walk(member, (*place, key), name)) for key, member in value)
            case list():
                return [walk(member, (*place, index), name) for index, member in enumerate(value)]
        return value if name is None or value is None else change(name, value)

    body = spell(tree, chance).encode()
    assert parse(plan.body(body, JSON).data) == walk(parse(body), (), None)


# --- single truths ----------------------------------------------------------------------------------------------

CASES = [
    ("escaped-at", rb'{"e":"alice\u0040example.com"}', rb'{"e":"[EMAIL_ADDRESS]"}'),
    ("upper-case-escape", rb'["alice\u0040EXAMPLE.com \u00E9"]', rb'["[EMAIL_ADDRESS] \u00E9"]'),
    ("every-letter-escaped", b'["' + b"".join(b"\\u%04x" % c for c in b"a@b.io") + b'"]', b'["[EMAIL_ADDRESS]"]'),
    ("escaped-slash-stays", rb'["\/x a@b.io \/y"]', rb'["\/x [EMAIL_ADDRESS] \/y"]'),
    ("newline-before-a-card", rb'["\n4111111111111111"]', rb'["\n[CREDIT_CARD]"]'),
    ("escaped-gap-in-a-card", rb'["4111\u00a01111\u00a01111\u00a01111"]', rb'["[CREDIT_CARD]"]'),
    ("escaped-plus", rb'["\u002B12025550143"]', rb'["[PHONE_NUMBER]"]'),
    ("surrogate-pair-stays", rb'["\ud83d\ude00 a@b.io"]', rb'["\ud83d\ude00 [EMAIL_ADDRESS]"]'),
    ("lone-surrogate-stays", rb'["\ud83d a@b.io"]', rb'["\ud83d [EMAIL_ADDRESS]"]'),
    ("non-ascii-escape-before-at", rb'["jos\u00e9@example.com"]', rb'["[EMAIL_ADDRESS]"]'),
    ("key", b'{"a@b.io":1}', b'{"[EMAIL_ADDRESS]":1}'),
    ("escaped-key", rb'{"a\u0040b.io":1}', rb'{"[EMAIL_ADDRESS]":1}'),
    ("duplicate-keys", b'{"a":"a@b.io","a":"x","a":"c@d.io"}',
     b'{"a":"[EMAIL_ADDRESS]","a":"x","a":"[EMAIL_ADDRESS]"}'),
    ("numbers-keep-spelling", b'[1.0,1e5,1E+2,-0,123456789012345678901234567890,"a@b.io"]',
     b'[1.0,1e5,1E+2,-0,123456789012345678901234567890,"[EMAIL_ADDRESS]"]'),
    ("card-as-number", b'{"c": 4111111111111111 }', b'{"c": "[CREDIT_CARD]" }'),
    ("negative-card", b"[-4111111111111111]", b'["-[CREDIT_CARD]"]'),
    ("named-phone-as-number", b'{"phone": 12025550143}', b'{"phone": "[PHONE_NUMBER]"}'),
    ("named-ssn-as-number", b'{"ssn":123456789}', b'{"ssn":"[US_SSN]"}'),
    ("fraction-is-no-card", b"[0.4111111111111111]", b"[0.4111111111111111]"),
    ("root-string", b' "a@b.io"\n', b' "[EMAIL_ADDRESS]"\n'),
    ("root-number", b"4111111111111111", b'"[CREDIT_CARD]"'),
    ("mark", b'\xef\xbb\xbf["a@b.io"]', b'\xef\xbb\xbf["[EMAIL_ADDRESS]"]'),
    ("white-space", b'{ "a"\t:\r\n"a@b.io" , "b" : [ ] }', b'{ "a"\t:\r\n"[EMAIL_ADDRESS]" , "b" : [ ] }'),
    ("nested-document", rb'["{\"e\":\"a@b.io\",\"n\":1.50}"]', rb'["{\"e\":\"[EMAIL_ADDRESS]\",\"n\":1.50}"]'),
    ("nested-escape", rb'["{\"e\":\"a\\u0040b.io\"}"]', rb'["{\"e\":\"[EMAIL_ADDRESS]\"}"]'),
    ("nested-number", b'["[4111111111111111]"]', rb'["[\"[CREDIT_CARD]\"]"]'),
    ("nested-twice", rb'["[\"[\\\"a\\\\u0040b.io\\\"]\"]"]', rb'["[\"[\\\"[EMAIL_ADDRESS]\\\"]\"]"]'),
    ("nested-only-in-looks", rb'["{not json} a@b.io"]', rb'["{not json} [EMAIL_ADDRESS]"]'),
    ("pem-escaped", rb'["-----BEGIN PRIVATE KEY-----\nMIIE\/x+=\n-----END PRIVATE KEY-----\n"]',
     rb'["[PEM_PRIVATE_KEY]\n"]'),
    ("quote-next-to-it", rb'["\"a@b.io\""]', rb'["\"[EMAIL_ADDRESS]\""]'),
    ("backslash-next-to-it", rb'["\\a@b.io\\"]', rb'["\\[EMAIL_ADDRESS]\\"]'),
]  # fmt: skip


@pytest.mark.parametrize(("body", "masked"), [(b, m) for _, b, m in CASES], ids=[i for i, _, _ in CASES])
def test_only_the_finding_changes(body, masked):
    assert EVERYTHING.body(body, JSON).data == masked
    assert EVERYTHING.residual(masked, JSON) == {}


@pytest.mark.parametrize(("body", "masked"), [(b, m) for _, b, m in CASES], ids=[i for i, _, _ in CASES])
def test_a_walk_for_path_rules_changes_the_same(body, masked):
    from extproc.masking import ENTITIES as ALL

    walking = masker(
        MaskSpec("p", paths=("$..nothing", "$.*.nothing", "$[7]"), operator="null"), entities=ALL
    )
    assert walking.body(body, JSON).data == masked


REFUSED = [
    ("empty-object-cut", b"{", "unparsable-body"),
    ("not-json", b"hello", "unparsable-body"),
    ("nan", b"[NaN]", "unparsable-body"),
    ("infinity", b"[Infinity]", "unparsable-body"),
    ("single-quotes", b"{'a':1}", "unparsable-body"),
    ("trailing-comma", b"[1,]", "unparsable-body"),
    ("trailing-garbage", b"{} x", "unparsable-body"),
    ("two-documents", b"{}{}", "unparsable-body"),
    ("leading-zero", b"[01]", "unparsable-body"),
    ("comment", b"[1] // a@b.io", "unparsable-body"),
    ("raw-newline", b'["a\nb"]', "unparsable-body"),
    ("bad-escape", rb'["\x41"]', "unparsable-body"),
    ("short-escape", rb'["\u004"]', "unparsable-body"),
    ("mark-in-the-middle", b'[\xef\xbb\xbf"a"]', "unparsable-body"),
    ("not-utf-8", b'["\xff a@b.io"]', "charset"),
    ("utf-16-undeclared", '["a@b.io"]'.encode("utf-16-le"), "charset"),
    ("utf-16-mark", '["a@b.io"]'.encode("utf-16"), "charset"),
    ("utf-32", '["a@b.io"]'.encode("utf-32-be"), "charset"),
    ("too-deep", b"[" * 201 + b"]" * 201, "too-deep"),
    ("far-too-deep", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too-deep"),
    (
        "deep-beside-brackets-in-strings",
        b'["]]]","' + b"}" * 300 + b'",' + b"[" * 200 + b"]" * 201,
        "too-deep",
    ),
]


@pytest.mark.parametrize(("body", "code"), [(b, c) for _, b, c in REFUSED], ids=[i for i, _, _ in REFUSED])
def test_a_body_that_is_not_json_is_refused(body, code):
    with pytest.raises(MaskingError) as trouble:
        PLAIN.body(body, JSON)
    assert trouble.value.code == code


def test_two_hundred_levels_are_read():
    body = b"[" * 200 + b'"a@b.io"' + b"]" * 200
    assert PLAIN.body(body, JSON).data == body.replace(b"a@b.io", b"[EMAIL_ADDRESS]")


def test_brackets_in_strings_are_no_levels():
    body = b'["' + b"[{" * 500 + rb"\"[[" + b'","' + b"]" * 300 + b'"]'
    assert PLAIN.body(body, JSON).data is body


def test_documents_inside_documents_have_an_end():
    body = "a@b.io"
    for _ in range(4):
        body = json.dumps([body])
        assert "a@b.io" not in PLAIN.body(body.encode(), JSON).data.decode()
    with pytest.raises(MaskingError) as trouble:
        PLAIN.body(json.dumps([body]).encode(), JSON)
    assert trouble.value.code == "too-deep"


def test_a_cut_document_is_refused_or_sound_at_every_byte():
    body = rb'{"e":"alice\u0040example.com","n":[4111111111111111,1.5e3,null],"\ud83d\ude00":"{\"k\":\"a@b.io\"}"}'
    for end in range(len(body)):
        try:
            masked = EVERYTHING.body(body[:end], JSON)
        except MaskingError as trouble:
            assert trouble.code in ("unparsable-body", "charset")
        else:
            assert end == 0
            assert masked.data == b""


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_masked_or_refused(data):
    for plan in (EVERYTHING, WITH_PATHS):
        try:
            masked = plan.body(data, JSON)
        except MaskingError:
            continue
        if masked.data.removeprefix(b"\xef\xbb\xbf").strip():
            json.loads(masked.data)


WITH_PATHS = masker(MaskSpec("p", paths=("$..card", "$[0]"), operator="partial"), entities=("EMAIL_ADDRESS",))


@given(st.lists(st.sampled_from([*b'{}[]":,\\u0041/etrfalsn \n', 0xC3, 0xA9, 0xFF]), max_size=60).map(bytes))
@settings(max_examples=500, deadline=None)
def test_almost_json_is_masked_or_refused(data):
    for plan in (EVERYTHING, WITH_PATHS):
        try:
            plan.body(data, JSON)
        except MaskingError:
            continue


HUGE = {
    "numbers": b"[" + b"1," * 4_000_000 + b"1]",
    "opening": b"[" * 8_000_000,
    "strings": b"[" + b'"a",' * 2_000_000 + b"1]",
    "one-string": b'"' + b"a" * 8_000_000 + b'"',
    "digits": b'"' + b"4" * 8_000_000 + b'"',
    "digit-groups": b'"' + b"4111 " * 1_600_000 + b'"',
    "at-signs": b'"' + b"a@" * 4_000_000 + b'"',
    "backslashes": b'"' + rb"\\" * 1_000_000 + b'"',
    "key-starts": b'"' + b"-----BEGIN RSA PRIVATE KEY" * 300_000 + b'"',
    "token-starts": b'"' + b"eyJhbGciOi" * 800_000 + b'"',
}


@pytest.mark.parametrize("body", HUGE.values(), ids=list(HUGE))
def test_eight_megabytes_end_soon_whatever_they_hold(body):
    """No clock: anything worse than linear runs into the suite's time limit."""
    for plan in (EVERYTHING, WITH_PATHS):
        try:
            masked = plan.body(body, JSON)
        except MaskingError as trouble:
            assert trouble.code in ("unparsable-body", "too-deep", "over-budget")
        else:
            assert len(masked.data) > 0
