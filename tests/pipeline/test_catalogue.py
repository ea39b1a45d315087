"""When the catalogue is asked for, and what a view's rule tells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.pipeline.catalogue import CONTENT, SIGNATURE, Catalogue
from extproc.pipeline.catalogue_reading import MOST_DATABASES, CatalogueReader, Catalogues, SharedCatalogue
from extproc.pipeline.view_trees import view_columns
from tests.support.governed import NOW

Row = tuple[bytes | None, ...]


def content(signature: bytes = b"one", *more: Row) -> list[Row]:
    return [
        (b"s", signature, None, None, None, None),
        (b"c", b"20000", b"public", b"users", b"r", None),
        (b"a", b"20000", b"1", b"email", b"", None),
        (b"b", b"pg_catalog", b"pg_class", None, None, None),
        *more,
    ]


def reader(shared: SharedCatalogue | None = None) -> CatalogueReader:
    """One that knows `users`."""
    made = CatalogueReader(shared or SharedCatalogue())
    assert made.question(["users"], NOW, checked=False) == CONTENT
    made.answered(content(), "utf-8", NOW, "I")
    return made


def test_what_was_read_is_believed_for_a_second_and_then_checked() -> None:
    made = reader()
    assert made.question(["users"], NOW + 0.9, checked=False) == ""
    assert made.question(["users"], NOW + 1.0, checked=False) == SIGNATURE
    made.answered([(b"one",)], "utf-8", NOW + 1.0, "I")
    assert made.question(["users"], NOW + 1.9, checked=False) == ""


def test_a_clock_that_goes_back_is_no_reason_to_believe() -> None:
    assert reader().question(["users"], NOW - 5, checked=False) == SIGNATURE


def test_another_signature_means_that_everything_is_read_again() -> None:
    made = reader()
    made.question(["users"], NOW + 2, checked=False)
    made.answered([(b"two",)], "utf-8", NOW + 2, "I")
    assert made.question(["users"], NOW + 2, checked=True) == CONTENT


def test_a_name_that_is_not_known_is_looked_for_once_per_statement() -> None:
    made = reader()
    assert made.question(["pg_class", "pg_catalog.pg_class"], NOW, checked=False) == ""
    assert made.question(["made_since"], NOW, checked=False) == SIGNATURE
    made.answered([(b"one",)], "utf-8", NOW, "I")
    assert made.question(["made_since"], NOW, checked=True) == ""


def test_what_changes_is_doubted_by_every_connection_for_a_second() -> None:
    shared = SharedCatalogue()
    one, other = reader(shared), CatalogueReader(shared)
    assert other.question(["users"], NOW, checked=False) == ""
    one.changed(NOW)
    assert other.question(["users"], NOW + 0.9, checked=False) == SIGNATURE
    other.answered([(b"one",)], "utf-8", NOW + 0.9, "I")
    assert other.question(["users"], NOW + 0.95, checked=False) == SIGNATURE
    other.answered([(b"one",)], "utf-8", NOW + 1.0, "I")
    assert other.question(["users"], NOW + 1.5, checked=False) == ""
    one.committed(NOW + 1.5)
    assert other.question(["users"], NOW + 1.6, checked=False) == SIGNATURE
    one.committed(NOW + 9)
    assert other.question(["users"], NOW + 9, checked=False) == SIGNATURE


def test_what_a_transaction_sees_is_its_own() -> None:
    shared = SharedCatalogue()
    one, other = reader(shared), CatalogueReader(shared)
    one.changed(NOW)
    one.begin("T")
    assert one.question(["fresh"], NOW, checked=False) == SIGNATURE
    one.answered([(b"mine",)], "utf-8", NOW, "T")
    assert one.question(["fresh"], NOW, checked=True) == CONTENT
    new = (b"c", b"20009", b"public", b"fresh", b"r", None)
    one.answered(content(b"mine", new), "utf-8", NOW, "T")
    assert one.current.named("fresh") and not other.current.named("fresh")
    one.begin("I")
    assert not one.current.named("fresh")


def test_the_rules_of_views_are_asked_for_when_they_are_named_and_gone_ones_show_nothing() -> None:
    made = CatalogueReader(SharedCatalogue())
    made.question(["v"], NOW, checked=False)
    made.answered(content(b"one", (b"c", b"20007", b"public", b"v", b"v", None)), "utf-8", NOW, "I")
    assert made.question(["users"], NOW, checked=False) == ""
    question = made.question(["v"], NOW, checked=False)
    assert "{20007}" in question
    made.answered([], "utf-8", NOW, "I")
    assert made.current.relations[20007].definition == {}
    assert made.question(["v"], NOW, checked=False) == ""


def test_only_so_many_databases_are_remembered() -> None:
    kept = Catalogues()
    first = kept.of("target", "0")
    assert kept.of("target", "0") is first
    for number in range(MOST_DATABASES + 1):
        kept.of("target", f"more {number}")
    assert kept.of("target", "0") is not first


@pytest.mark.parametrize(
    "row", [(b"z", b"1"), (b"c", b"x", b"a", b"b", b"r"), (b"a", b"1", b"\xff", b"a", b"")]
)
def test_rows_that_nobody_asked_for_are_an_error(row: Row) -> None:
    catalogue = Catalogue()
    catalogue.add(content()[1])
    with pytest.raises(ValueError):
        catalogue.add(row if row[0] != b"a" else (b"a", b"20000", b"x", b"a", b""))


@pytest.mark.parametrize(
    "tree",
    [
        "", "(", "({QUERY", "({QUERY :targetList ({TARGETENTRY :resno 1})})", "({QUERY} {QUERY})", "{" * 5000,
        "({QUERY :setOperations <> :rtable <> :targetList ({TARGETENTRY :expr {VAR :varno 9 :varattno 1 :varlevelsup 0}"
        " :resno 1 :resorigtbl 0 :resorigcol 0 :resjunk false})})",
        "({QUERY :setOperations <> :rtable <> :targetList ({TARGETENTRY :expr {VAR :varno 1 :varattno 1 :varlevelsup 7}"
        " :resno 1 :resorigtbl 0 :resorigcol 0 :resjunk false})})",
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_followed_is_an_error(tree: str) -> None:
    with pytest.raises(ValueError):
        view_columns(tree)


@given(st.text(st.sampled_from('{}() :<>\\"1QUERYexpr'), max_size=60))
def test_any_text_is_a_rule_or_an_error(tree: str) -> None:
    try:
        view_columns(tree)
    except ValueError:
        pass
