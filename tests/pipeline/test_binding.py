"""What an approval is bound to."""

from __future__ import annotations

import pytest

from extproc.domain.principal import Principal
from extproc.domain.request import Headers
from extproc.pipeline.binding import UNBOUND, binding

ALICE = Principal("https://issuer", "alice", "human", "alice")
BASE = (
    (":method", "POST"), (":scheme", "https"), (":authority", "api.example"), (":path", "/payments"),
    ("content-type", "application/json"), ("x-a", "1"), ("x-a", "2"),
)  # fmt: skip


def bound(headers=BASE, *, principal=ALICE, target="pay", body=b"{}", rules="sha256:1", volatile=()):
    return binding(b"k" * 32, principal, target, Headers(tuple(headers)), body, rules, [frozenset(volatile)])


def swapped(name: str, value: str):
    return tuple((n, value if n == name else v) for n, v in BASE)


@pytest.mark.parametrize(
    "other",
    [
        lambda: bound(swapped(":method", "PUT")),
        lambda: bound(swapped(":path", "/payments?x=1")),
        lambda: bound(swapped(":authority", "api.other")),
        lambda: bound(swapped("content-type", "text/plain")),
        lambda: bound((*BASE, ("x-b", "1"))),
        lambda: bound(BASE[:-1]),
        lambda: bound((*BASE[:-2], BASE[-1], BASE[-2])),
        lambda: bound(body=b"{ }"),
        lambda: bound(target="other"),
        lambda: bound(rules="sha256:2"),
        lambda: bound(principal=Principal("https://issuer", "bob", "human", "alice")),
        lambda: bound(principal=Principal("https://other", "alice", "human", "alice")),
        lambda: bound((*BASE, ("prefer", "respond-async"))),
    ],
)
def test_any_difference_in_the_request_is_another_binding(other):
    assert other() != bound()


@pytest.mark.parametrize("name", [*sorted(UNBOUND), "x-envoy-expected-rq-timeout-ms", "x-b3-traceid"])
def test_headers_that_change_with_every_try_do_not_count(name):
    assert bound((*BASE, (name, "anything"))) == bound()


def test_the_wish_not_to_wait_does_not_count():
    assert bound((*BASE, ("prefer", "hold=async"))) == bound()


def test_volatile_headers_of_the_target_do_not_count():
    assert bound((*BASE, ("x-nonce", "1")), volatile=["x-nonce"]) == bound(
        (*BASE, ("x-nonce", "2")), volatile=["x-nonce"]
    )


def test_the_order_of_different_headers_does_not_count():
    assert bound((*BASE[:4], *BASE[5:], BASE[4])) == bound()


def test_parts_cannot_be_moved_between_fields():
    one = bound((*BASE, ("x", "yz")))
    two = bound((*BASE, ("xy", "z")))
    assert one != two


def test_a_wish_inside_a_quoted_string_is_bound():
    first, second = (bound((*BASE, ("prefer", f'mode="a, hold={n}"'))) for n in (1, 2))
    assert first != second
