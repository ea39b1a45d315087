"""What is counted of records, and that labels stay few."""

from __future__ import annotations

from typing import Any

import pytest

from extproc.domain import metric
from extproc.domain.metric import OTHER, Counter, Family, Histogram
from extproc.ledger.lines import Chain
from extproc.ledger.tallies import Tallies
from tests.support.books import START, intent, outcome


class Book:
    """Lines as a writer writes them, counted at once."""

    def __init__(self) -> None:
        self.chain = Chain("worker0-a-1")
        self.tallies = Tallies()

    def write(self, kind: str, **fields: Any) -> None:
        self.tallies.take(self.chain.encode(kind, START, fields))

    def counts(self, name: str) -> dict[tuple[str, ...], float]:
        return {sample.labels: sample.value for sample in self.family(name).samples}

    def family(self, name: str) -> Family:
        return next(family for family in self.tallies.families() if family.name == name)


@pytest.fixture
def book() -> Book:
    return Book()


def test_a_decision_counts_under_its_verdict_and_the_rule_that_made_it(book: Book):
    rules = [
        {"rule": "watching", "effect": "deny", "shadow": True},
        {"rule": "readers", "effect": "allow"},
        {"rule": "no-delete", "effect": "deny"},
    ]
    book.write("intent", **dict(intent(0).fields) | {"verdict": "deny", "rules": rules})
    book.write("intent", **dict(intent(1).fields))
    book.write("intent", **dict(intent(2).fields) | {"verdict": "deny", "rules": []})
    assert book.counts("extproc_decisions_total") == {
        ("http", "customers-api", "request", "deny", "no-delete"): 1,
        ("http", "customers-api", "request", "allow", "readers"): 1,
        ("http", "customers-api", "request", "deny", ""): 1,
    }
    assert (
        book.counts("extproc_rule_matches_total")[("customers-api", "watching", "deny", "true", "false")] == 1
    )


def test_a_statement_is_told_from_its_session(book: Book):
    said = {"protocol": "postgres", "target": "db", "verdict": "allow"}
    book.write("intent", **said, operation="login")
    book.write("intent", **said, operation="statement")
    found = book.counts("extproc_decisions_total")
    assert {labels[2] for labels in found} == {"login", "statement"}


def test_masked_values_count_by_what_they_were(book: Book):
    fields = dict(outcome(0).fields) | {"target": "api"}
    book.write("outcome", **fields)
    book.write("outcome", **fields | {"response": {"masked": {"EMAIL_ADDRESS": 3, "IBAN_CODE": 1}}})
    assert book.counts("extproc_masked_values_total") == {
        ("api", "EMAIL_ADDRESS"): 5,
        ("api", "IBAN_CODE"): 1,
    }


def test_responses_nobody_read_count(book: Book):
    for inspected in ("full", "none", "opaque", "uninspected", "opaque"):
        book.write("outcome", target="api", response={"inspected": inspected})
    assert book.counts("extproc_uninspected_responses_total") == {
        ("api", "opaque"): 2,
        ("api", "uninspected"): 1,
    }


def test_how_long_an_exchange_took_falls_into_one_bucket(book: Book):
    book.write("outcome", target="api", protocol="http", duration_us=20_000)
    book.write("outcome", target="api", protocol="http", duration_us=9_999_999_999)
    family = book.family("extproc_exchange_duration_seconds")
    (spread,) = family.spreads
    assert sum(spread.counts) == 2
    assert spread.counts[family.bounds.index(0.025)] == 1
    assert spread.counts[-1] == 1
    assert spread.total == pytest.approx(9_999.999999 + 0.02)


def test_a_gap_counts_the_records_that_were_refused(book: Book):
    book.write("gap", refused_records=7, refused_commits=2)
    assert book.counts("extproc_ledger_refused_records_total") == {(): 7}


def test_moves_of_holds_count_whatever_stands_in_them(book: Book):
    book.write("hold.opened", rules=["a"], target={"any": "thing"}, response="none")
    book.write("hold.approved", verdict=3)
    assert book.counts("extproc_ledger_records_total") == {("hold.opened",): 1, ("hold.approved",): 1}
    assert book.tallies.unread == 0


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'{"kind":3,"seq":0}', b'{"kind":"intent","seq":0,"rules":3}', b"\xff"],
)
def test_what_is_no_record_is_counted_as_such(data: bytes):
    tallies = Tallies()
    assert tallies.take(data) is None
    assert tallies.unread == 1


def test_a_family_never_has_more_than_its_share_of_series(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metric, "MAX_SERIES", 3)
    counter = Counter("a_total", "", ("name",))
    histogram = Histogram("b_seconds", "", ("name",), (1.0,))
    for number in range(10):
        counter.add(str(number))
        histogram.add(0.5, str(number))
    counter.add("1")
    assert counter.counts == {("0",): 1, ("1",): 2, ("2",): 1, (OTHER,): 7}
    assert sum(sum(counts) for counts in histogram.counts.values()) == 10
    assert len(histogram.counts) == 4
