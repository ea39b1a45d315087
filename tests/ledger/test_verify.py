"""A real ledger is spoiled in one way at a time; the verifier names the record."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.adapters.ledger_reader import CHECKPOINTS
from extproc.adapters.ledger_verify import verify_directory
from extproc.domain.record import Record
from extproc.ledger import Report, Segment, WriterFiles, verify
from extproc.ledger.lines import Chain
from extproc.ledger.note import split_notes
from extproc.ledger.payloads import HEADER_SIZE, build_entry
from tests.support.books import (
    KEY,
    OTHER_KEY,
    START,
    fill,
    forge,
    kill,
    line_files,
    lines_of,
    open_checkpointer,
    open_writer,
    put_lines,
    read_all,
    rechain,
    sign_now,
)

EXCHANGES = 150
RECORDS = 2 * EXCHANGES + 2
SIGNED = (101, 201, RECORDS)
VICTIM = 140  # an intent's neighbour in the middle of a signed range


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A ledger of one writer with 302 records and three checkpoints."""
    directory = tmp_path_factory.mktemp("sound") / "ledger"
    writer = open_writer(directory)
    checkpointer = open_checkpointer(directory)
    for first in range(0, EXCHANGES, 50):
        fill(writer, 50, first)
        if first == 100:
            writer.close()
        read_all(checkpointer)
        checkpointer.sign()
    checkpointer.close()
    return directory


@pytest.fixture
def ledger(sound, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(sound, tmp_path / "ledger")


def check(directory: Path, key=KEY.key, **settings) -> Report:
    """With the key, unless there is nothing that it could have signed."""
    return verify_directory(directory, key if (directory / CHECKPOINTS).exists() else None, **settings)


def first_bad(report: Report) -> tuple[str, int]:
    assert report.problems
    return report.problems[0].code, report.problems[0].seq


def named(report: Report) -> int:
    """The record that the first problem is about, or the place where it stands if it claims to be another."""
    problem = report.problems[0]
    return problem.seq if problem.code != "repeated" else int(problem.place.rpartition(" ")[2]) - 1


def test_a_sound_ledger_has_no_problems(ledger):
    report = check(ledger, thorough=True)
    assert report.problems == []
    assert (report.records, report.unsigned, report.checkpoints) == (RECORDS, 0, 3)
    (writer,) = report.writers.values()
    assert (writer.stopped, writer.payloads, writer.signed) == (True, EXCHANGES, RECORDS)
    assert report.unchecked == []


def test_records_after_the_last_checkpoint_are_counted_as_unsigned(ledger):
    notes, _ = split_notes((ledger / CHECKPOINTS).read_bytes())
    (ledger / CHECKPOINTS).write_bytes(b"".join(note + b"\n" for note in notes[:2]))
    report = check(ledger)
    assert report.ok
    assert report.unsigned == RECORDS - SIGNED[1]


def change(line: bytes, **members) -> bytes:
    """The line with other values, nothing else touched."""
    record = orjson.loads(line)
    for name, value in members.items():
        record[name] = value
    return orjson.dumps(record)


EDITS = {
    "v": lambda line: change(line, v=2),
    "writer": lambda line: change(line, writer="worker0-a-2"),
    "seq up": lambda line: change(line, seq=9999),
    "seq down": lambda line: change(line, seq=3),
    "prev": lambda line: change(line, prev="ab" * 32),
    "at": lambda line: change(line, at="2026-11-23T17:50:00.000001Z"),
    "malformed at": lambda line: change(line, at="yesterday"),
    "kind": lambda line: change(line, kind="outcomes"),
    "a field": lambda line: change(line, duration_us=1),
    "a nested field": lambda line: line.replace(b'"code":200', b'"code":201'),
    "one bit": lambda line: line[:-9] + bytes([line[-9] ^ 1]) + line[-8:],
    "a space": lambda line: line.replace(b',"end"', b', "end"'),
    "cut": lambda line: line[:-20],
    "emptied": lambda line: b"",
    "no JSON": lambda line: b"x" * len(line),
    "two halves": lambda line: line[:100] + b"\n" + line[100:],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_an_edited_record_is_named(ledger, edit):
    lines = lines_of(ledger)
    spoiled = edit(lines[VICTIM])
    assert spoiled != lines[VICTIM]
    lines[VICTIM] = spoiled
    put_lines(ledger, lines)
    code, seq = first_bad(check(ledger))
    assert (
        code in ("altered", "malformed", "foreign", "repeated"),
        seq if code != "repeated" else VICTIM,
    ) == (
        True,
        VICTIM,
    )


@pytest.mark.parametrize("victim", [0, 1, 100, 101, 200, RECORDS - 2])
def test_an_edited_record_is_named_wherever_it_stands(ledger, victim):
    lines = lines_of(ledger)
    lines[victim] = lines[victim].replace(b'Z","kind"', b'Z","kind"', 1).replace(b"2026-11", b"2026-12", 1)
    put_lines(ledger, lines)
    assert first_bad(check(ledger)) == ("altered", victim)


def test_an_edit_of_the_last_record_contradicts_the_checkpoint(ledger):
    lines = lines_of(ledger)
    lines[-1] = lines[-1].replace(b"2026-11", b"2026-12", 1)
    put_lines(ledger, lines)
    report = check(ledger)
    assert [problem.code for problem in report.problems] == ["rewritten"]
    assert report.problems[0].seq == SIGNED[1]
    assert report.problems[0].last == RECORDS - 1


def test_edits_of_two_neighbours_name_the_first(ledger):
    lines = lines_of(ledger)
    for at in (VICTIM, VICTIM + 1):
        lines[at] = lines[at].replace(b"2026-11", b"2026-12", 1)
    put_lines(ledger, lines)
    assert first_bad(check(ledger)) == ("altered", VICTIM)


def test_two_edits_are_both_named(ledger):
    lines = lines_of(ledger)
    for at in (VICTIM, VICTIM + 50):
        lines[at] = lines[at].replace(b"2026-11", b"2026-12", 1)
    put_lines(ledger, lines)
    assert [problem.seq for problem in check(ledger).problems] == [VICTIM, VICTIM + 50]


@pytest.mark.parametrize("count", [1, 7])
def test_deleted_records_are_named(ledger, count):
    lines = lines_of(ledger)
    del lines[VICTIM : VICTIM + count]
    put_lines(ledger, lines)
    report = check(ledger)
    assert first_bad(report) == ("missing", VICTIM)
    assert report.problems[0].last == VICTIM + count - 1
    assert len(report.problems) == 1


def test_a_deleted_first_record_is_named(ledger):
    put_lines(ledger, lines_of(ledger)[1:])
    assert first_bad(check(ledger)) == ("missing", 0)


def test_an_inserted_record_is_named(ledger):
    lines = lines_of(ledger)
    lines.insert(VICTIM, forge(lines, VICTIM))
    put_lines(ledger, lines)
    assert [(p.code, p.seq) for p in check(ledger).problems] == [("repeated", VICTIM)]


def test_a_replaced_record_is_named(ledger):
    lines = lines_of(ledger)
    lines[VICTIM] = forge(lines, VICTIM)
    put_lines(ledger, lines)
    assert first_bad(check(ledger)) == ("altered", VICTIM)


def test_a_record_that_stands_twice_is_named(ledger):
    lines = lines_of(ledger)
    lines.insert(VICTIM + 20, lines[VICTIM])
    put_lines(ledger, lines)
    assert [(p.code, p.seq) for p in check(ledger).problems] == [("repeated", VICTIM)]


def test_swapped_records_are_named(ledger):
    lines = lines_of(ledger)
    lines[VICTIM], lines[VICTIM + 1] = lines[VICTIM + 1], lines[VICTIM]
    put_lines(ledger, lines)
    assert first_bad(check(ledger)) == ("missing", VICTIM)


def test_a_moved_block_is_named(ledger):
    lines = lines_of(ledger)
    block = lines[VICTIM : VICTIM + 10]
    del lines[VICTIM : VICTIM + 10]
    lines[200:200] = block
    put_lines(ledger, lines)
    report = check(ledger)
    assert first_bad(report) == ("missing", VICTIM)
    assert len(report.problems) <= 4


@pytest.mark.parametrize("left", [0, 1, 100, 101, 150, RECORDS - 1])
def test_a_cut_off_end_is_named(ledger, left):
    put_lines(ledger, lines_of(ledger)[:left])
    assert first_bad(check(ledger)) == ("truncated", left)


def test_a_torn_record_that_was_signed_is_truncation(ledger):
    (path,) = line_files(ledger)
    path.write_bytes(path.read_bytes()[:-5])
    report = check(ledger)
    assert first_bad(report) == ("truncated", RECORDS - 1)
    assert "torn tail" in report.notes[0]


def test_a_rewritten_tail_contradicts_the_checkpoints(ledger):
    put_lines(ledger, rechain(lines_of(ledger), VICTIM))
    report = check(ledger)
    (problem,) = report.problems
    assert (problem.code, problem.seq, problem.last) == ("rewritten", SIGNED[0], SIGNED[1] - 1)


def test_a_rewritten_tail_without_any_checkpoint_is_said_to_be_uncheckable(ledger):
    put_lines(ledger, rechain(lines_of(ledger), VICTIM))
    (ledger / CHECKPOINTS).unlink()
    assert first_bad(verify_directory(ledger, KEY.key)) == ("signature", -1)
    report = check(ledger)
    assert report.ok
    assert any("truncation and rewriting" in gap for gap in report.unchecked)
    assert report.unsigned == RECORDS


def test_checkpoints_signed_anew_with_another_key_are_refused(ledger):
    put_lines(ledger, rechain(lines_of(ledger), VICTIM))
    (ledger / CHECKPOINTS).unlink()
    sign_now(ledger, OTHER_KEY)
    assert first_bad(check(ledger)) == ("signature", -1)
    assert check(ledger, OTHER_KEY.key).ok  # so the key has to come from somewhere else


@pytest.mark.parametrize("at", range(0, 1400, 23))
def test_no_byte_of_a_checkpoint_can_change_unseen(ledger, at):
    path = ledger / CHECKPOINTS
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(bytes(data))
    assert {problem.code for problem in check(ledger).problems} & {"signature", "checkpoint"}


def test_a_left_out_checkpoint_is_noticed(ledger):
    notes, _ = split_notes((ledger / CHECKPOINTS).read_bytes())
    (ledger / CHECKPOINTS).write_bytes(notes[0] + b"\n" + notes[2] + b"\n")
    assert first_bad(check(ledger)) == ("checkpoint", -1)


def test_a_partial_last_checkpoint_is_a_note(ledger):
    path = ledger / CHECKPOINTS
    path.write_bytes(path.read_bytes()[:-40])
    report = check(ledger)
    assert report.ok
    assert "partial checkpoint" in report.notes[0]
    assert report.checkpoints == 2


def payload_file(directory: Path) -> Path:
    (path,) = directory.glob("*/*.payloads")
    return path


def test_a_changed_payload_is_named(ledger):
    data = bytearray(payload_file(ledger).read_bytes())
    data[HEADER_SIZE] ^= 1
    payload_file(ledger).write_bytes(data)
    assert [(p.code, p.seq) for p in check(ledger).problems] == [("payload-mismatch", 1)]


def test_swapped_payloads_are_named(ledger):
    data = payload_file(ledger).read_bytes()
    size = len(build_entry(b'{"body":"masked 0"}', b"\0" * 32))
    payload_file(ledger).write_bytes(data[size : 2 * size] + data[:size] + data[2 * size :])
    assert [(p.code, p.seq) for p in check(ledger).problems] == [
        ("payload-mismatch", 1),
        ("payload-mismatch", 3),
    ]


def test_a_payload_written_anew_with_its_own_salt_is_named(ledger):
    data = payload_file(ledger).read_bytes()
    made = build_entry(b'{"body":"masked X"}', b"\5" * 32)
    payload_file(ledger).write_bytes(made + data[len(made) :])
    assert [(p.code, p.seq) for p in check(ledger).problems] == [("payload-mismatch", 1)]


def test_an_erased_payload_leaves_the_chain_whole(ledger):
    data = payload_file(ledger).read_bytes()
    size = len(build_entry(b'{"body":"masked 0"}', b"\0" * 32))
    erased = b"XPE1\xff\0\0\0" + (size - HEADER_SIZE).to_bytes(8, "big") + b"\0" * (size - 16)
    payload_file(ledger).write_bytes(erased + data[size:])
    assert [(p.code, p.seq) for p in check(ledger).problems] == [("payload-erased", 1)]


def test_missing_payloads_are_named_and_the_chain_still_verifies(ledger):
    payload_file(ledger).unlink()
    report = check(ledger)
    assert {problem.code for problem in report.problems} == {"payload-missing"}
    assert len(report.problems) == EXCHANGES
    (writer,) = report.writers.values()
    assert writer.signed == RECORDS


def test_a_missing_writer_is_named(ledger):
    shutil.rmtree(ledger / "worker0-a-1")
    assert [(p.code, p.writer) for p in check(ledger).problems] == [("missing-writer", "worker0-a-1")]


def test_a_missing_segment_is_named(tmp_path):
    writer = open_writer(tmp_path, segment_bytes=4000)
    fill(writer, 40)
    writer.close()
    sign_now(tmp_path)
    segments = line_files(tmp_path)
    assert len(segments) > 4
    firsts = [int(path.stem) for path in segments]
    segments[2].unlink()
    report = check(tmp_path)
    assert first_bad(report) == ("missing-segment", firsts[2])
    assert report.problems[0].last == firsts[3] - 1


@pytest.mark.parametrize("at", [0, -1])
def test_a_missing_first_or_last_segment_is_named(tmp_path, at):
    writer = open_writer(tmp_path, segment_bytes=4000)
    fill(writer, 40)
    writer.close()
    sign_now(tmp_path)
    segments = line_files(tmp_path)
    first = int(segments[at].stem)
    segments[at].unlink()
    assert first_bad(check(tmp_path))[1] == first


def test_a_torn_line_in_a_middle_segment_is_a_problem(tmp_path):
    writer = open_writer(tmp_path, segment_bytes=4000)
    fill(writer, 40)
    writer.close()
    segments = line_files(tmp_path)
    segments[1].write_bytes(segments[1].read_bytes() + b"{half")
    assert first_bad(check(tmp_path)) == ("torn", int(segments[2].stem))


def test_a_predecessor_that_lost_its_end_is_noticed_without_any_checkpoint(tmp_path):
    for name in ("worker0-a-1", "worker0-b-1"):
        writer = open_writer(tmp_path, name)
        fill(writer, 5)
        writer.close()
    first = tmp_path / "worker0-a-1" / "000000000000.jsonl"
    first.write_bytes(b"\n".join(first.read_bytes().splitlines()[:-3]) + b"\n")
    assert first_bad(check(tmp_path)) == ("truncated", 9)


def test_a_predecessor_rewritten_at_its_end_is_noticed(tmp_path):
    for name in ("worker0-a-1", "worker0-b-1"):
        writer = open_writer(tmp_path, name)
        fill(writer, 5)
        writer.close()
    first = tmp_path / "worker0-a-1" / "000000000000.jsonl"
    first.write_bytes(first.read_bytes().replace(b'"kind":"stop"', b'"kind":"stap"'))
    assert first_bad(check(tmp_path))[0] == "predecessor"


def test_a_predecessor_that_is_gone_is_noticed(tmp_path):
    for name in ("worker0-a-1", "worker0-b-1"):
        open_writer(tmp_path, name).close()
    shutil.rmtree(tmp_path / "worker0-a-1")
    assert [(p.code, p.writer) for p in check(tmp_path).problems] == [("missing-writer", "worker0-a-1")]


def test_a_changed_torn_tail_is_noticed(tmp_path):
    writer = open_writer(tmp_path)
    fill(writer, 1)
    path = tmp_path / "worker0-a-1" / "000000000000.jsonl"
    path.write_bytes(path.read_bytes() + b'{"v":1,"half')
    kill(writer)
    open_writer(tmp_path, "worker0-b-1").close()
    assert check(tmp_path).ok
    path.write_bytes(path.read_bytes()[:-1])
    assert first_bad(check(tmp_path))[0] == "torn"


def test_without_key_signatures_are_reported_as_unchecked(ledger):
    report = check(ledger, None)
    assert report.ok
    assert any("no key was given" in gap for gap in report.unchecked)


def test_repeated_names_are_found_when_asked_to_be_thorough(tmp_path):
    start = Chain("w").encode("start", START, {"role": "w"})
    chain = Chain("w", 1, sha256(start).hexdigest())
    line = chain.encode("intent", START, {"verdict": "deny"}).replace(b'"deny"', b'"deny","verdict":"allow"')
    files = [WriterFiles("w", [Segment(0, "0", lambda: [start + b"\n" + line + b"\n"])])]
    assert verify(files, (), None, None).ok
    assert first_bad(verify(files, (), None, None, thorough=True)) == ("malformed", 1)


def test_a_key_can_hand_over_to_another():
    from dataclasses import replace

    from extproc.ledger.checkpoint import Checkpoint, Lineage, writers_root
    from extproc.ledger.lines import ZERO_HASH
    from extproc.ledger.note import sign_note

    first = Checkpoint(
        "extproc-ledger", 0, ZERO_HASH, "2026-11-23T17:50:01.000000Z", (), 0, writers_root(()), 0
    )
    handover = replace(first, next_key=OTHER_KEY.key)
    lineage = Lineage()
    both = sign_note(handover.to_text(), KEY, OTHER_KEY)
    lineage.follow(both, handover)
    second = sign_note(replace(first, number=1, previous=lineage.digest, full=False).to_text(), OTHER_KEY)
    alone = sign_note(handover.to_text(), KEY)
    assert verify([], [both + b"\n" + second + b"\n"], KEY.key).checkpoints == 2
    assert first_bad(verify([], [alone + b"\n"], KEY.key)) == ("signature", -1)


def verify_bytes(lines: bytes, checkpoints: bytes = b"", step: int = 1 << 20) -> Report:
    def chunks() -> list[bytes]:
        return [lines[at : at + step] for at in range(0, len(lines), step)]

    entry = build_entry(b"x", b"\0" * 32)
    files = [WriterFiles("worker0-a-1", [Segment(0, "000000000000.jsonl", chunks)])]
    return verify(files, [checkpoints], None, lambda *_: entry, thorough=True)


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_any_bytes_as_a_ledger_give_a_verdict(lines, checkpoints):
    report = verify_bytes(lines, checkpoints)
    assert not (report.ok and b"\n" in lines)
    json.dumps(report.to_json())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["cut", "insert", "flip", "copy"]),
            st.integers(0, 1 << 30),
            st.binary(max_size=30),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
def test_any_damage_gives_a_verdict_and_is_never_good(sound, damage):
    lines = line_files(sound)[0].read_bytes()
    checkpoints = (sound / CHECKPOINTS).read_bytes()
    spoiled = bytearray(lines)
    for how, place, data in damage:
        at = place % len(spoiled)
        if how == "cut":
            del spoiled[at : at + len(data) + 1]
        elif how == "insert":
            spoiled[at:at] = data
        elif how == "copy":
            spoiled[at:at] = spoiled[at // 2 : at // 2 + 40 * len(data)]
        else:
            spoiled[at] ^= (data[0] if data else 1) or 1
    report = verify_bytes(bytes(spoiled), checkpoints)
    json.dumps(report.to_json())
    problems = [p for p in report.problems if not p.code.startswith("payload")]
    assert problems or bytes(spoiled) == lines or bytes(spoiled).startswith(lines)


@given(st.integers(1, 3000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_where_a_file_is_cut_into_chunks_makes_no_difference(sound, step):
    lines = line_files(sound)[0].read_bytes()[:20_000]
    assert verify_bytes(lines, step=step).to_json() == verify_bytes(lines).to_json()


def test_an_endless_line_is_not_kept_in_memory():
    report = verify_bytes(b"x" * (3 << 20) + b"\n" + b"y" * (2 << 20), step=1 << 16)
    assert first_bad(report) == ("malformed", 0)
    assert report.writers["worker0-a-1"].torn_bytes == 2 << 20


def test_a_second_start_record_changes_nothing(tmp_path):
    writer = open_writer(tmp_path)
    writer.append(Record("gap", START, {"cause": "test"}))
    writer.commit()
    writer.close()
    assert check(tmp_path).ok


def test_a_time_that_goes_back_is_noted_and_no_problem(tmp_path: Path):
    ledger = tmp_path / "ledger"
    writer = open_writer(ledger)
    for at in (100.0, 101.0, 100.5, 40.0, 130.0, 100.0, 100.1):
        writer.append(Record("access", START + at, {}))
    writer.commit()
    report = verify_directory(ledger, None)
    assert report.ok
    (note,) = [note for note in report.notes if "time goes back" in note]
    assert "at 2 records, most by 60.5 s at 4" in note


def test_a_checkpoint_s_time_that_goes_back_is_noted(tmp_path: Path):
    ledger, now = tmp_path / "ledger", [START + 1000.0]
    writer = open_writer(ledger)
    checkpointer = open_checkpointer(ledger, clock=lambda: now[0])
    for at in (0.0, 5.0, 2.5):
        now[0] = START + 1000.0 + at
        fill(writer, 1)
        read_all(checkpointer)
        assert checkpointer.sign() is not None
    checkpointer.close()
    writer.close()
    assert "checkpoint 2: the clock went back by 2.5 s" in verify_directory(ledger, KEY.key).notes
