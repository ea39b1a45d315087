"""JSONPath rules: the subset, what is refused, and where each leads."""

from __future__ import annotations

import pytest

from extproc.domain.errors import PolicyError
from extproc.domain.mask import MaskSpec
from extproc.masking.paths import parse_path
from tests.masking.support import JSON, masker

BODY = b'{"card":"1234567890","a":{"card":[12345,null,true],"a b":{"x":"secret"}},"items":[{"e":"one"},{"e":"two"}]}'

LEADS = [
    ("$.card", "null", b'{"card":null,'),
    ("$..card", "null", b'"a":{"card":null,'),
    ("$..card", "partial", b'"card":["*2345",null,"****"]'),
    ("$.a['a b']", "redact", b'"a b":""}'),
    ('$.a["a b"].x', "redact", b'"a b":{"x":""}'),
    ("$.items[*].e", "null", b'"items":[{"e":null},{"e":null}]'),
    ("$.items[1].e", "null", b'"items":[{"e":"one"},{"e":null}]'),
    ("$.items[1]", "replace", b'"items":[{"e":"one"},"[MASKED]"]'),
    ("$.items", "partial", b'"items":[{"e":"***"},{"e":"***"}]'),
    ("$.*.card", "null", b'{"card":"1234567890","a":{"card":null'),
    ("$..[0]", "null", b'"card":[null,null,true]'),
    ("$..*", "null", b'{"card":null,"a":null,"items":null}'),
    ("$", "null", b"null"),
    ("$.missing", "null", BODY),
    ("$.card.deeper", "null", BODY),
    ("$[0]", "null", BODY),
]


@pytest.mark.parametrize(("path", "operator", "part"), LEADS, ids=[f"{p}-{o}" for p, o, _ in LEADS])
def test_a_path_leads_to(path, operator, part):
    assert part in masker(MaskSpec("m", paths=(path,), operator=operator)).body(BODY, JSON).data


def test_counts_name_the_path():
    masked = masker(MaskSpec("m", paths=("$..e",), operator="hash")).body(BODY, JSON)
    assert masked.counts == {"$..e": 2}


def test_a_name_is_found_whatever_its_spelling():
    plan = masker(MaskSpec("m", paths=("$.card",), operator="null"))
    assert plan.body(rb'{"c\u0061rd":"1"}', JSON).data == rb'{"c\u0061rd":null}'


def test_a_path_goes_on_inside_a_document_in_a_string():
    plan = masker(MaskSpec("m", paths=("$..card", "$.p[1]"), operator="null"))
    assert plan.body(rb'{"p":"[{\"card\":1},2.50]"}', JSON).data == rb'{"p":"[{\"card\":null},null]"}'


def test_repeated_keys_are_all_masked():
    plan = masker(MaskSpec("m", paths=("$.card",), operator="null"))
    assert plan.body(b'{"card":1,"card":{"card":2}}', JSON).data == b'{"card":null,"card":null}'


def test_an_entity_beside_a_path_is_masked_as_well():
    plan = masker(MaskSpec("m", paths=("$.items[0]",), operator="redact"), entities=("EMAIL_ADDRESS",))
    assert plan.body(b'{"items":["a@b.io","c@d.io"],"e@f.io":"x"}', JSON).data == (
        b'{"items":["","[EMAIL_ADDRESS]"],"[EMAIL_ADDRESS]":"x"}'
    )


REFUSED = [
    "", "card", "$card", "$.", "$..", "$.a.", "$[", "$[]", "$['a'", "$['a','b']", "$[-1]", "$[0:2]", "$[?(@.a)]",
    "$.a b", "$[01]", "$...a", "$.a[*", r"$['\q']",
]  # fmt: skip


@pytest.mark.parametrize("path", REFUSED)
def test_what_is_not_in_the_subset_is_refused(path):
    with pytest.raises(PolicyError):
        parse_path(path)


def test_a_refusal_names_mask_path_and_column():
    with pytest.raises(PolicyError, match=r'mask "pii": path "\$\.a\[1:2\]": column 4'):
        masker(MaskSpec("pii", paths=("$.a[1:2]",)))


def test_too_many_interwoven_paths_are_refused():
    wild = tuple("$" + "".join(f"..n{(index * step) % 13}" for step in range(1, 9)) for index in range(1, 13))
    with pytest.raises(PolicyError, match="too many states"):
        masker(MaskSpec("m", paths=wild))


def test_steps_are_read_with_their_escapes():
    assert parse_path(r"$['it\'s \u0061']") == ((False, "it's a"),)
