"""Policy text from a hostile or careless hand: an error with a place, never a hang, a crash or another exception."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.domain.errors import PolicyError
from tests.policy.build import policies, rule, text

BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
)

HOSTILE = {
    "empty": "",
    "null": "null",
    "a-list": "- a\n- b",
    "text": "just text",
    "alias-bomb": BOMB,
    "recursive-alias": "&a [*a]",
    "merge-key": "a: &a {b: c}\n<<: *a",
    "deep-flow": "[" * 5000 + "]" * 5000,
    "deep-block": "\n".join(" " * i + "a:" for i in range(500)),
    "deep-mapping": "{a: " * 3000 + "}" * 3000,
    "huge": "# " + "x" * 2_000_000,
    "many-values": "[" + "a," * 60_000 + "]",
    "many-keys": "{" + ",".join(f"k{i}: v" for i in range(60_000)) + "}",
    "complex-key": "? [a, b]\n: c",
    "mapping-key": "{{a: b}: c}",
    "python-tag": "!!python/object/apply:os.system ['true']",
    "binary-tag": "a: !!binary aGVsbG8=",
    "directive": "%YAML 1.1\n---\na: b",
    "nul": "a: \0",
    "control": "a: \x07",
    "lone-surrogate": "a: \ud800",
    "byte-order-mark": "\ufeffa: b",
    "tabs": "a:\n\t- b",
    "unclosed": "a: [b, {c: d",
    "unclosed-quote": 'a: "b',
    "only-anchor": "&",
    "two-streams": "--- a\n--- b",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_with_a_place(name: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policies(HOSTILE[name])
    assert str(caught.value).startswith("policies/0.yaml:")
    assert len(str(caught.value)) < 20_000_000


CONDITIONS = {
    "parentheses": "(" * 2000 + "true" + ")" * 2000,
    "not": "!" * 3000 + "request.method",
    "sum": "+".join(["1"] * 3000) + " == 1",
    "fields": "request.json" + ".a" * 2000 + " == 1",
    "lists": "[" * 1000 + "]" * 1000 + " == []",
    "long": " || ".join(['request.method == "A"'] * 1000),
    "breaks-out": "true), (true",
    "breaks-out-of-list": "true, false",
    "unterminated": '"',
    "comment-only": "// nothing",
    "nul": '"\\0"',
}


@pytest.mark.parametrize("engine", ["cel-expr", "cel-python"])
@pytest.mark.parametrize("name", CONDITIONS)
def test_hostile_conditions_are_refused(name: str, engine: str) -> None:
    with pytest.raises(PolicyError, match=r"policies/0\.yaml:"):
        policies(text(rule("r", CONDITIONS[name], "{allow: {}}")), engine=engine)


def test_five_hundred_rules_load_and_more_do_not() -> None:
    rules = [rule(f"r{i}", f'request.url_path == "/{i}"', "{allow: {}}") for i in range(501)]
    policies(text(*rules[:500]))
    with pytest.raises(PolicyError, match="more than 500 rules"):
        policies(text(*rules))


PIECES = st.sampled_from(
    [
        "apiVersion: extproc/v1",
        "kind: Policy",
        "metadata:",
        "{name: p}",
        "target: api",
        "rules:",
        "- ",
        "  ",
        "name: r",
        "when: ",
        "'true'",
        "then: ",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "allow",
        "deny",
        "hold",
        "masks: ",
        "&a",
        "*a",
        "!t",
        "|",
        ">",
        '"',
        "'",
        "\n",
        "#",
        "request.method",
        "==",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=60))
def test_any_text_loads_or_is_refused(body: str) -> None:
    try:
        policies(body)
    except PolicyError as error:
        assert "policies/0.yaml:" in str(error)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="request.methodjs()[]{}\"'=&|!<>+-*/%?:,0123 \n\\u", max_size=40))
def test_any_condition_loads_or_is_refused(condition: str) -> None:
    body = text("  - name: r\n    when: " + repr_yaml(condition) + "\n    then: {allow: {}}\n")
    for engine in ("cel-expr", "cel-python"):
        try:
            policies(body, engine=engine)
        except PolicyError as error:
            assert "policies/0.yaml:" in str(error)


def repr_yaml(value: str) -> str:
    """A double-quoted YAML scalar."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
