"""The index makes searches read less, and never changes what they find."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from extproc.adapters import ledger_scan
from extproc.adapters.ledger_index import LedgerIndex, build_index, place_of
from extproc.adapters.ledger_reader import SegmentFile, list_segments
from extproc.adapters.ledger_search import matching, whole_session
from extproc.commands.ledger import ledger as command
from extproc.domain.record import Record
from extproc.ledger.search import Wanted
from tests.support.books import START, fill, intent, open_writer, outcome

QUERIES = [
    *(Wanted(session=name) for name in ("s3", "s39", "s", "nobody", "\ud800")),
    *(Wanted(trace=f"{number:032x}"[:cut]) for number, cut in ((4, 32), (4, 31), (30, 32))),
    Wanted(session="s3", principal="agent-3"), Wanted(principal="agent-3"),
]  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    directory = tmp_path / "ledger"
    for name in ("worker0-a-1", "worker1-a-1"):
        writer = open_writer(directory, name, segment_bytes=4000)
        fill(writer, 40)
        writer.append(Record("hold.opened", START + 50, {"hold": "h-1", "session_id": "s3", "move": 1}))
        writer.commit()
        writer.close()
    approvals = open_writer(directory, "approvals-a-1", segment_bytes=300)
    for number in range(9):
        approvals.append(Record("hold.vote", START + 60, {"hold": f"h-{number}", "vote": "approve"}))
        approvals.commit()
    approvals.close()
    return directory


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The segments that are read from now on."""
    seen: list[Path] = []
    real = ledger_scan.raw_lines

    def watched(segment: SegmentFile, *rest: Any) -> Iterator[bytes]:
        seen.append(segment.path)
        return real(segment, *rest)

    monkeypatch.setattr(ledger_scan, "raw_lines", watched)
    return seen


def answers(ledger: Path) -> list[Any]:
    found: list[Any] = [list(matching(ledger, wanted)) for wanted in QUERIES]
    return [*found, *(whole_session(ledger, session) for session in ("s3", "s39", "nobody"))]


def segments(ledger: Path) -> int:
    return sum(len(list_segments(folder)) for folder in ledger.iterdir() if folder.is_dir())


def test_a_search_reads_few_segments_and_finds_the_same(ledger: Path, reads: list[Path]) -> None:
    plain = answers(ledger)
    build_index(ledger)
    reads.clear()
    assert answers(ledger) == plain
    reads.clear()
    list(matching(ledger, Wanted(session="s3")))
    assert 0 < len(reads) < segments(ledger) / 3
    reads.clear()
    list(matching(ledger, Wanted(session="nobody")))
    assert reads == []
    list(matching(ledger, Wanted(principal="agent-3")))
    assert len(reads) == segments(ledger)


def test_what_came_after_is_read(ledger: Path, reads: list[Path]) -> None:
    build_index(ledger)
    writer = open_writer(ledger, "worker2-a-1")
    for each in (intent(500, session_id="late"), outcome(500, session_id="late")):
        writer.append(each)
    writer.commit()
    assert len(list(matching(ledger, Wanted(session="late")))) == 1
    assert build_index(ledger, anew=False)[1] == 0  # its only segment is being written
    writer.close()
    assert build_index(ledger, anew=False) == (segments(ledger), 1)
    assert len(list(matching(ledger, Wanted(session="late")))) == 1


def test_a_segment_that_is_not_as_it_was_is_read(ledger: Path, reads: list[Path]) -> None:
    build_index(ledger)
    path = max(ledger.glob("worker0-a-1/*.jsonl"))
    path.write_bytes(path.read_bytes() + b"{}\n")
    list(matching(ledger, Wanted(session="nobody")))
    assert reads == [path]


DAMAGES = {
    "no database": lambda path: path.write_bytes(b"this is no database" * 100),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "ids gone": lambda path: changed(path, "UPDATE segments SET ids = x''"),
    "ids of another": lambda path: changed(
        path, "UPDATE segments SET (ids, checked) = (SELECT ids, checked FROM segments LIMIT 1)"
    ),
    "numbers": lambda path: changed(path, "UPDATE segments SET ids = 7, checked = 'x'"),
    "another table": lambda path: changed(path, "DROP TABLE segments"),
    "a later version": lambda path: changed(path, "UPDATE segments SET ids = x''; PRAGMA user_version = 2"),
}  # fmt: skip


def changed(path: Path, text: str) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(text)
    db.close()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_changes_no_answer_and_is_made_anew(ledger: Path, damage: str) -> None:
    plain = answers(ledger)
    build_index(ledger)
    DAMAGES[damage](place_of(ledger))
    assert answers(ledger) == plain
    if damage != "a folder":
        count, read = build_index(ledger, anew=False)
        assert count == segments(ledger)
        assert read > 0
        assert answers(ledger) == plain


def test_every_byte_of_an_index_may_be_wrong(ledger: Path) -> None:
    wanted = Wanted(session="s3")
    plain = list(matching(ledger, wanted))
    build_index(ledger)
    path = place_of(ledger)
    whole = path.read_bytes()
    for at in range(0, len(whole), 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :])
        assert list(matching(ledger, wanted)) == plain, at


def test_the_command_says_what_it_read(ledger: Path) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(command, ["rebuild-index", "--dir", str(ledger), *words])

    count = segments(ledger)
    assert f"{count} segments, {count} of them read" in run().output
    assert f"{count} segments, 0 of them read" in run("--update").output
    assert place_of(ledger).stat().st_mode & 0o777 == 0o600
    place_of(ledger).unlink()
    place_of(ledger).mkdir()
    failed = run()
    assert failed.exit_code == 1 and "Is a directory" in failed.output


def test_nothing_is_passed_over_without_an_index(ledger: Path) -> None:
    with LedgerIndex(ledger) as index:
        skips = index.skips("worker0-a-1", ["nobody"])
        assert not any(map(skips, list_segments(ledger / "worker0-a-1")))
