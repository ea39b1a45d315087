"""What a record says of a text is made once, and is still the truth of every statement."""

from __future__ import annotations

from dataclasses import replace

from extproc.domain.mask import MaskSpec
from extproc.domain.request import Source
from extproc.domain.statement import Parameter, Statement, StatementFacts
from extproc.masking import MaskSecrets, compile_masker
from extproc.pipeline.database_records import MAX_REMEMBERED, SessionScribe
from extproc.sql import analyze

TEXT = "SELECT * FROM customers WHERE id = $1"


def scribe() -> SessionScribe:
    masker = compile_masker(
        [MaskSpec("all", entities=("EMAIL_ADDRESS",), operator="replace")],
        MaskSecrets(hash_salt=b"s" * 16, hmac_key=b"k" * 32),
        literals=[],
        max_bytes=1 << 16,
    )
    return SessionScribe(
        target="db", key=b"k" * 32, session_id="ses_1", decision_id="dec_1", trace_id="1" * 32, span_id="2" * 16,
        started=1.0, masker=masker, source=Source(),
    )  # fmt: skip


def statement(value: str, *, text: str = TEXT, facts: tuple[StatementFacts, ...] | None = None) -> Statement:
    return Statement(
        text=text,
        facts=analyze(text, "postgres") if facts is None else facts,
        parameters=(Parameter(23, 0, value.encode(), value),),
        kind="bound",
    )


def told(by: SessionScribe, asked: Statement, transaction: str = "I") -> dict[str, object]:
    record = by.intent(
        1.0, "dec_2", "3" * 16, asked, verdict="allow", code="allowed", rulings=(), transaction=transaction
    )
    found: dict[str, object] = record.fields["statement"]
    return found


def test_the_same_text_again_has_its_own_parameters_and_transaction() -> None:
    by = scribe()
    first, second = told(by, statement("1")), told(by, statement("ada@example.com"), "T")
    assert first["parameters"] != second["parameters"]
    assert "ada@" not in repr(second["parameters"])
    assert (first["transaction"], second["transaction"]) == ("I", "T")
    changing = ("parameters", "transaction")
    assert {k: v for k, v in first.items() if k not in changing} == {
        k: v for k, v in second.items() if k not in changing
    }
    assert first == told(scribe(), statement("1"))  # as if it had never been seen


def test_a_text_that_means_something_else_now_is_told_anew() -> None:
    by = scribe()
    (facts,) = analyze(TEXT, "postgres")
    told(by, statement("1"))
    other = told(by, statement("1", facts=(replace(facts, underlying="DELETE FROM orders"),)))
    assert other["underlying"] == ["DELETE FROM orders"]
    assert "underlying" not in told(by, statement("1"))


def test_a_connection_remembers_a_bounded_number_of_texts() -> None:
    by = scribe()
    for number in range(3 * MAX_REMEMBERED):
        told(by, statement("1", text=f"SELECT {number}, $1"))
    assert len(by._texts_shown) <= MAX_REMEMBERED
