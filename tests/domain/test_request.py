"""Header fields: order, repetition, and the first of several."""

from __future__ import annotations

import pytest

from extproc.domain.request import Headers

ONCE = (("host", "api.example"), ("accept", "a"))
TWICE = (*ONCE, ("accept", "b"), ("via", ""))


@pytest.mark.parametrize(
    ("items", "name", "values"),
    [
        (ONCE, "accept", ["a"]),
        (ONCE, "via", []),
        ((), "accept", []),
        (TWICE, "accept", ["a", "b"]),
        (TWICE, "host", ["api.example"]),
        (TWICE, "via", [""]),
    ],
    ids=["once", "absent", "none", "twice", "once-among-repeated", "empty-value"],
)
def test_every_value_of_a_name_in_order(items: tuple[tuple[str, str], ...], name: str, values: list[str]):
    headers = Headers(items)
    assert headers.all(name) == values
    assert headers.get(name, "-") == (values[0] if values else "-")
    assert (name in headers) is bool(values)


def test_fields_keep_their_order_and_their_values_out_of_repr():
    headers = Headers((*TWICE, ("authorization", "Bearer secret")))
    assert tuple(headers) == (*TWICE, ("authorization", "Bearer secret"))
    assert len(headers) == 5
    assert "secret" not in repr(headers)
