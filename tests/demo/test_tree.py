"""A trace becomes a tree that people can read and that nothing in it can forge."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.demo.otlp import AttributeValue, ReceivedSpan
from extproc.demo.tree import describe, draw_trace, duration, escape, print_traces

TRACE = "0af7651916cd43dd8448eb211c80319c"


def span(
    id: str,
    parent: str = "",
    *,
    name: str = "",
    at: int = 0,
    took: int = 1_000_000,
    trace: str = TRACE,
    error: str | None = None,
    service: str = "",
    **attributes: AttributeValue,
) -> ReceivedSpan:
    told = {key.replace("__", "."): value for key, value in attributes.items()}
    return ReceivedSpan(trace, id, parent, name or id, "internal", at, at + took, told, service, error=error)


def test_children_hang_below_their_parents():
    spans = [
        span("a", name="GET /customers", took=42_000_000, service="extproc"),
        span("b", "a", name="decide", at=1_200_000, took=250_000),
        span("c", "b", name="rule", at=1_300_000, took=90_000),
        span("d", "a", name="forward", at=3_000_000, took=30_000_000),
    ]
    assert draw_trace(spans).split("\n") == [
        f"trace {TRACE}",
        "└─ GET /customers [extproc] 42.0 ms",
        "   ├─ decide +1.2 ms 250 µs",
        "   │  └─ rule +1.3 ms 90 µs",
        "   └─ forward +3.0 ms 30.0 ms",
    ]


def test_decision_rule_hold_and_mask_are_in_the_line():
    line = describe(
        span(
            "a",
            name="POST /payments",
            http__request__method="POST",
            url__path="/payments",
            http__response__status_code=403,
            extproc__decision="hold",
            extproc__rule="big-payments",
            extproc__hold="hold-1",
            extproc__masked__EMAIL_ADDRESS=3,
            extproc__masked__IBAN_CODE=1,
            extproc__record__hash="0123456789abcdef0123456789abcdef",
            unrelated="not shown",
        )
    )
    assert line == (
        "POST /payments 1.0 ms request=POST /payments status=403 decision=hold rule=big-payments hold=hold-1 "
        "record=0123456789ab masked=EMAIL_ADDRESS 3, IBAN_CODE 1"
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [({"EMAIL_ADDRESS": 2}, "EMAIL_ADDRESS 2"), ("EMAIL_ADDRESS=2", "EMAIL_ADDRESS=2"), (["a", 1], "a,1")],
    ids=str,
)
def test_masked_counts_may_come_in_one_attribute(value: AttributeValue, told: str):
    assert describe(span("a", extproc__masked=value)).endswith(f" masked={told}")


def test_an_error_is_named():
    assert describe(span("a", error="no\nway")).endswith("error=no\\x0away")
    assert describe(span("a", error="")).endswith(" error")


def test_a_span_without_its_parent_is_drawn_and_says_so():
    assert draw_trace([span("b", "feed")]).endswith("└─ b 1.0 ms (parent feed not here)")


@pytest.mark.parametrize(
    "spans",
    [
        [span("a", "a")],
        [span("a", "b"), span("b", "a")],
        [span("r"), span("a", "b"), span("b", "c"), span("c", "a")],
    ],
    ids=["self", "two", "three-beside-a-root"],
)
def test_circles_are_drawn_once(spans: list[ReceivedSpan]):
    lines = draw_trace(spans).split("\n")[1:]
    assert len(lines) == len(spans)
    assert all(sum(f"─ {span.name} " in line for line in lines) == 1 for span in spans)


def test_a_deep_trace_neither_recurses_nor_runs_off_the_screen():
    deep = [span("0"), *(span(str(n), str(n - 1)) for n in range(1, 5000))]
    lines = draw_trace(deep).split("\n")
    assert len(lines) == 5001
    assert max(map(len, lines)) < 200


def test_a_span_received_twice_is_drawn_once():
    assert print_traces([span("a"), span("a")]).count("└─") == 1


def test_traces_follow_each_other():
    text = print_traces(
        [span("a", trace="1" * 32), span("b", trace="2" * 32), span("c", "a", trace="1" * 32)]
    )
    assert [line[:8] for line in text.splitlines()] == [
        "trace 11",
        "└─ a 1.0",
        "   └─ c ",
        "trace 22",
        "└─ b 1.0",
    ]
    assert (print_traces([]), draw_trace([])) == ("", "")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本", "plain é 日本"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\r\nb\tc\x00", "a\\x0d\\x0ab\\x09c\\x00"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2066x\u2069\u200b\ufeff", "\\u2066x\\u2069\\u200b\\ufeff"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\xa0\u3000", "\\xa0\\u3000"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\\x1b", "\\\\x1b"),
        ("x" * 70, "x" * 60 + "…(+10)"),
    ],
    ids=ascii,
)
def test_what_could_mislead_is_escaped(text: str, shown: str):
    assert escape(text) == shown


@pytest.mark.parametrize(
    ("nanoseconds", "shown"),
    [(0, "0 µs"), (999_999, "999 µs"), (1_500_000, "1.5 ms"), (3_200_000_000, "3.2 s"), (-1, "? ms")],
)
def test_durations_are_for_people(nanoseconds: int, shown: str):
    assert duration(nanoseconds) == shown


anything = st.text(max_size=12)
spans = st.builds(
    ReceivedSpan,
    trace_id=st.sampled_from(["1" * 32, "2" * 32]),
    span_id=st.sampled_from("abcdef"),
    parent_id=st.sampled_from(["", *"abcdefg"]),
    name=anything,
    kind=st.just(""),
    start=st.integers(0, 2**64 - 1),
    end=st.integers(0, 2**64 - 1),
    attributes=st.dictionaries(
        st.sampled_from(
            ["url.path", "extproc.rule", "extproc.masked", "extproc.masked.X", "extproc.record.hash"]
        ),
        st.one_of(
            anything, st.integers(), st.none(), st.lists(anything), st.dictionaries(anything, anything)
        ),
    ),
    service=anything,
    error=st.none() | anything,
)


@settings(max_examples=60)
@given(st.lists(spans, max_size=12))
def test_any_spans_draw_one_printable_line_each(received: list[ReceivedSpan]):
    text = print_traces(received)
    distinct = {(span.trace_id, span.span_id) for span in received}
    assert text.count("\n") == len(distinct) + len({trace for trace, _ in distinct})
    assert text.replace("\n", "").isprintable()
