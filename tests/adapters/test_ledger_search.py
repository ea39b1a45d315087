"""A search by session or trace passes over lines that do not hold the id, and finds what a whole reading finds."""

import pytest

from extproc.adapters.ledger_scan import all_lines, as_written
from extproc.adapters.ledger_search import matching, whole_session
from extproc.domain.record import Record
from extproc.ledger.exchanges import pair
from extproc.ledger.search import Wanted
from tests.support.books import START, fill, intent, open_writer, outcome

ODD = ['say "hi"', "back\\slash", "zwei\nZeilen", "grüße 漢字", "\u2028\x7f\x01"]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    """Sessions of two exchanges each in two writers, some with odd ids; one with a hold that others moved."""
    directory = tmp_path_factory.mktemp("ledger")
    for name in ("worker0-a-1", "worker1-a-1"):
        writer = open_writer(directory, name, segment_bytes=5000)
        fill(writer, 20)
        for number, session in enumerate([*ODD, "held"], 20):
            for each in (intent(number, session_id=session), outcome(number, session_id=session)):
                writer.append(each)
            writer.append(intent(number + 100, session_id=session))  # never ended
            writer.commit()
        writer.append(Record("hold.opened", START + 50, {"hold": "h-1", "session_id": "held", "move": 1}))
        writer.commit()
        writer.close()
    approvals = open_writer(directory, "approvals-a-1")
    for hold in ("h-1", "h-2"):
        approvals.append(Record("hold.vote", START + 60, {"hold": hold, "vote": "approve"}))
    approvals.close()
    return directory


def read_whole(ledger, wanted):
    found = []
    for writer in ("approvals-a-1", "worker0-a-1", "worker1-a-1"):
        lines = [line for line in all_lines(ledger) if line.writer == writer]
        found += [exchange for exchange in pair(lines) if wanted(exchange)]
    return found


@pytest.mark.parametrize(
    "wanted",
    [Wanted(session=name) for name in ["s3", "s", "held", "nobody", *ODD, "\ud800"]]
    + [Wanted(trace=f"{number:032x}"[:cut]) for number, cut in ((4, 32), (4, 31), (40, 32), (121, 32))]
    + [Wanted(session="held", trace=f"{26:032x}"), Wanted(session="s3", principal="agent-3")],
    ids=repr,
)
def test_it_finds_what_a_whole_reading_finds(ledger, wanted):
    assert list(matching(ledger, wanted)) == read_whole(ledger, wanted)


def test_the_searches_of_these_tests_find_something(ledger):
    assert len(list(matching(ledger, Wanted(session="s3")))) == 2
    assert all(len(list(matching(ledger, Wanted(session=name)))) == 4 for name in ODD)


def test_a_session_comes_with_the_moves_of_its_holds_wherever_they_are(ledger):
    exchanges, moves = whole_session(ledger, "held")
    assert len(exchanges) == 4
    assert sorted((line.writer, line.kind) for line in moves) == [
        ("approvals-a-1", "hold.vote"),
        ("worker0-a-1", "hold.opened"),
        ("worker1-a-1", "hold.opened"),
    ]


@pytest.mark.parametrize("text", ODD)
def test_a_text_is_looked_for_as_a_line_holds_it(ledger, text):
    assert any(as_written(text) in path.read_bytes() for path in ledger.glob("*/*.jsonl"))


def test_what_no_line_can_hold_is_not_looked_for():
    assert as_written("\ud800") == b""
