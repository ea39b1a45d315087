"""SQL's own PREPARE and DECLARE: EXECUTE and FETCH are what they run."""

from __future__ import annotations

from extproc.domain.statement import StatementFacts
from extproc.sql import NamedStatements, analyze
from extproc.sql.session import MAX_NAMES


def ran(names: NamedStatements, *texts: str) -> NamedStatements:
    """The server completed all of these."""
    for text in texts:
        for facts in analyze(text):
            names.succeeded(text, facts)
    return names


def resolved(names: NamedStatements, text: str) -> StatementFacts:
    return names.resolve(text, analyze(text))[-1]


def test_execute_does_what_was_prepared() -> None:
    names = ran(NamedStatements(), "PREPARE p(int) AS DELETE FROM t WHERE id = $1 RETURNING a")
    facts = resolved(names, "EXECUTE p(7)")
    assert facts.complete
    assert (facts.verb, facts.verbs, facts.effects) == ("EXECUTE", ("DELETE", "EXECUTE"), ("read", "write"))
    assert (facts.tables_written, facts.columns, facts.has_where) == (("t",), ("t.a", "t.id"), True)
    assert facts.underlying == "PREPARE p(int) AS DELETE FROM t WHERE id = $1 RETURNING a"
    assert facts.shape == ""


def test_an_unknown_name_stays_incomplete() -> None:
    names = ran(NamedStatements(), "PREPARE p AS SELECT 1")
    assert not resolved(names, "EXECUTE q").complete
    assert not resolved(NamedStatements(), "EXECUTE p").complete
    assert not resolved(names, 'EXECUTE "P"').complete


def test_the_arguments_of_execute_count() -> None:
    names = ran(NamedStatements(), "PREPARE p(bigint) AS SELECT $1")
    assert resolved(names, "EXECUTE p(1)").effects == ("read",)
    assert resolved(names, "EXECUTE p(nextval('s'))").effects == ("read", "write")
    assert resolved(names, "EXECUTE p(pg_read_file('/etc/passwd'))").effects == ("file", "read")
    assert not resolved(names, "EXECUTE p((SELECT query_to_xml('x', true, true, '')))").complete


def test_what_holds_an_execute_is_known_as_well() -> None:
    names = ran(NamedStatements(), "PREPARE p AS SELECT a FROM t")
    assert resolved(names, "CREATE TABLE n AS EXECUTE p").effects == ("ddl", "read", "write")
    assert resolved(names, "EXPLAIN ANALYZE EXECUTE p").effects == ("read",)


def test_preparing_what_is_incomplete_leaves_it_incomplete() -> None:
    names = ran(NamedStatements(), "PREPARE p AS SELECT query_to_xml('x', true, true, '')")
    assert not resolved(names, "EXECUTE p").complete


def test_a_name_counts_only_when_the_server_made_it() -> None:
    names = ran(NamedStatements(), "PREPARE p AS DELETE FROM t")
    text = "PREPARE p AS SELECT 1"
    names.resolve(text, analyze(text))  # judged, but the server refused it: the name was taken
    assert resolved(names, "EXECUTE p").effects == ("write",)


def test_a_name_made_earlier_in_the_text_counts_for_the_rest_of_it() -> None:
    names = NamedStatements()
    assert resolved(names, "PREPARE p AS SELECT 1; EXECUTE p").complete
    assert not resolved(names, "EXECUTE p; PREPARE p AS SELECT 1; DEALLOCATE p; EXECUTE p").complete
    assert not resolved(names, "EXECUTE p").complete


def test_deallocate_and_discard_forget() -> None:
    names = ran(NamedStatements(), "PREPARE p AS SELECT 1", "PREPARE q AS SELECT 1", "DEALLOCATE p")
    assert not resolved(names, "EXECUTE p").complete
    assert resolved(names, "EXECUTE q").complete
    assert not resolved(ran(names, "DEALLOCATE ALL"), "EXECUTE q").complete
    ran(names, "PREPARE q AS SELECT 1", "DISCARD ALL")
    assert not resolved(names, "EXECUTE q").complete


def test_prepared_statements_outlive_transactions_and_cursors_do_not() -> None:
    for end in ("COMMIT", "ROLLBACK", "ROLLBACK TO s", "PREPARE TRANSACTION 'x'"):
        names = ran(NamedStatements(), "PREPARE p AS SELECT 1", "DECLARE c CURSOR FOR SELECT a FROM t")
        assert resolved(names, "FETCH 10 FROM c").complete
        ran(names, end)
        assert resolved(names, "EXECUTE p").complete
        assert not resolved(names, "FETCH 10 FROM c").complete, end


def test_fetch_reads_what_was_declared() -> None:
    names = ran(NamedStatements(), "BEGIN", "DECLARE c CURSOR FOR SELECT a, lower(b) FROM t")
    facts = resolved(names, "FETCH ALL IN c")
    assert (facts.verb, facts.verbs, facts.effects) == ("FETCH", ("FETCH", "SELECT"), ("read",))
    assert (facts.tables_read, facts.columns_used) == (("t",), ("t.b",))
    assert resolved(names, "MOVE 5 c").complete
    ran(names, "CLOSE c")
    assert not resolved(names, "FETCH c").complete


def test_idle_means_no_cursors() -> None:
    names = ran(NamedStatements(), "DECLARE c CURSOR WITH HOLD FOR SELECT 1")
    names.idle()
    assert not resolved(names, "FETCH c").complete


def test_names_are_bounded() -> None:
    names = NamedStatements()
    for number in range(MAX_NAMES + 1):
        ran(names, f"PREPARE p{number} AS SELECT 1")
    assert resolved(names, "EXECUTE p0").complete
    assert not resolved(names, f"EXECUTE p{MAX_NAMES}").complete


def test_texts_without_names_pass_as_they_are() -> None:
    found = analyze("SELECT 1; DO $$ $$")
    assert NamedStatements().resolve("SELECT 1; DO $$ $$", found) == found
