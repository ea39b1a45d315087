import json
import os
import shutil
import stat
import threading
from functools import partial
from pathlib import Path

import pytest

from extproc.adapters.checkpoint_key import load_or_create_key
from extproc.adapters.checkpointer import Checkpointer, ForkError, exported_count
from extproc.adapters.clock_state import kernel_clock
from extproc.adapters.ledger_reader import ALARM, CHECKPOINTS, PUBLIC_KEY
from extproc.adapters.ledger_verify import verify_directory
from extproc.adapters.span_feed import SpanFeed
from extproc.domain.errors import ConfigError
from extproc.domain.record import Record
from extproc.ledger import parse_key
from extproc.ledger.checkpoint import Alarm, Checkpoint, CheckpointError, parse_checkpoint
from extproc.ledger.lines import Chain, parse_line
from extproc.ledger.merkle import root_of
from extproc.ledger.note import parse_note, split_notes
from tests.support.books import (
    KEY,
    OTHER_KEY,
    START,
    Ticking,
    fill,
    intent,
    line_files,
    lines_of,
    open_checkpointer,
    open_writer,
    outcome,
    put_lines,
    read_all,
    sign_now,
)


def checkpoints(directory: Path) -> list[Checkpoint]:
    notes, rest = split_notes((directory / CHECKPOINTS).read_bytes())
    assert rest == b""
    return [parse_checkpoint(parse_note(note).text) for note in notes]


@pytest.fixture
def ledger(tmp_path):
    """Ten exchanges, signed, the writer gone."""
    directory = tmp_path / "ledger"
    writer = open_writer(directory)
    fill(writer, 10)
    writer.close()
    sign_now(directory)
    return directory


def look_again(directory: Path, **settings) -> Checkpointer:
    checkpointer = open_checkpointer(directory, **settings)
    read_all(checkpointer)
    checkpointer.sign()
    return checkpointer


def test_a_checkpoint_says_what_the_lines_say(ledger):
    (checkpoint,) = checkpoints(ledger)
    hashes = [bytes.fromhex(parse_line(line).hash) for line in lines_of(ledger)]
    (head,) = checkpoint.heads
    assert (head.writer, head.size, head.head) == ("worker0-a-1", 22, hashes[-1].hex())
    assert head.root == root_of(hashes).hex()
    assert (checkpoint.records, checkpoint.full, checkpoint.number) == (22, True, 0)
    assert checkpoint.counts == {"degraded": 0, "intent": 10, "opaque": 0, "outcome": 10}
    assert verify_directory(ledger, KEY.key).ok
    assert parse_key((ledger / PUBLIC_KEY).read_text()) == KEY.key


def test_degraded_and_opaque_records_are_counted(tmp_path):
    writer = open_writer(tmp_path)
    writer.append(intent(0, degraded=["insecure-listener"]))
    writer.append(outcome(0, response={"code": 101, "inspected": "opaque"}))
    writer.append(outcome(1, response={"code": 200, "inspected": "uninspected"}))
    writer.commit()
    look_again(tmp_path, exported=lambda: 41).close()
    assert checkpoints(tmp_path)[0].counts == {
        "degraded": 1,
        "intent": 1,
        "opaque": 2,
        "outcome": 2,
        "exported": 41,
    }


def test_later_checkpoints_list_only_the_writers_that_moved(tmp_path):
    one, two = open_writer(tmp_path, "worker0-a-1"), open_writer(tmp_path, "worker1-a-1")
    checkpointer = open_checkpointer(tmp_path)
    for writer in (one, two):
        fill(writer, 1)
    read_all(checkpointer)
    checkpointer.sign()
    fill(two, 1)
    read_all(checkpointer)
    checkpointer.sign()
    first, second = checkpoints(tmp_path)
    assert [head.writer for head in first.heads] == ["worker0-a-1", "worker1-a-1"]
    assert [head.writer for head in second.heads] == ["worker1-a-1"]
    assert (second.writers, second.records, second.full) == (2, 8, False)
    assert verify_directory(tmp_path, KEY.key).ok


def test_it_signs_after_a_second_or_after_many_records_and_not_when_idle(tmp_path):
    clock = Ticking()
    writer = open_writer(tmp_path)
    checkpointer = open_checkpointer(tmp_path, clock=clock, sign_every=1.0, sign_after=20)
    read_all(checkpointer)
    assert checkpointer.sign_if_due() is not None
    fill(writer, 3)
    read_all(checkpointer)
    assert checkpointer.sign_if_due() is None
    clock.now += 1
    assert checkpointer.sign_if_due() is not None
    clock.now += 100
    assert checkpointer.sign_if_due() is None
    fill(writer, 1)
    read_all(checkpointer)
    clock.now -= 50
    assert checkpointer.sign_if_due() is not None  # a clock set back does not stop it
    fill(writer, 10)
    read_all(checkpointer)
    assert checkpointer.sign_if_due() is not None


def test_a_line_that_is_not_yet_whole_is_not_signed(tmp_path):
    writer = open_writer(tmp_path)
    fill(writer, 1)
    (path,) = line_files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    checkpointer = look_again(tmp_path)
    assert checkpoints(tmp_path)[0].records == 2
    with path.open("ab") as file:
        file.write(whole[-3:])
    read_all(checkpointer)
    checkpointer.sign()
    assert checkpoints(tmp_path)[1].records == 3
    assert checkpointer.alarms == []


def test_after_a_restart_it_goes_on_where_it_was(ledger):
    writer = open_writer(ledger, "worker0-b-1")
    look_again(ledger).close()
    fill(writer, 1)
    look_again(ledger).close()
    found = checkpoints(ledger)
    assert [checkpoint.number for checkpoint in found] == [0, 1, 2]
    assert [checkpoint.full for checkpoint in found] == [True, True, True]
    assert found[-1].counts["intent"] == 11
    assert verify_directory(ledger, KEY.key).ok


def test_nothing_is_signed_after_a_restart_before_everything_signed_came_out_again(ledger):
    open_writer(ledger, "worker0-b-1")
    checkpointer = open_checkpointer(ledger)
    assert checkpointer.sign() is None
    read_all(checkpointer)
    assert checkpointer.sign() is not None


def rechained(lines: list[bytes], start: int) -> list[bytes]:
    chain = Chain("worker0-a-1", start, parse_line(lines[start - 1]).hash)
    return lines[:start] + [chain.encode("gap", START, {"cause": "forged"}) for _ in lines[start:]]


def edit(directory: Path) -> None:
    lines = lines_of(directory)
    put_lines(directory, [*lines[:5], lines[5].replace(b'"allow"', b'"deny" '), *lines[6:]])


def rewrite(directory: Path) -> None:
    put_lines(directory, rechained(lines_of(directory), 12))


def rewrite_and_extend(directory: Path) -> None:
    lines = rechained(lines_of(directory), 12)
    chain = Chain("worker0-a-1", 22, parse_line(lines[-1]).hash)
    put_lines(directory, [*lines, *(chain.encode("gap", START, {}) for _ in range(9))])


def shrink(directory: Path) -> None:
    put_lines(directory, lines_of(directory)[:-4])


def remove(directory: Path) -> None:
    shutil.rmtree(directory / "worker0-a-1")


def empty(directory: Path) -> None:
    put_lines(directory, [])


@pytest.mark.parametrize(
    ("spoil", "alarm"),
    [
        (edit, Alarm("worker0-a-1", 6, "altered")),
        (rewrite, Alarm("worker0-a-1", 22, "rewritten")),
        (rewrite_and_extend, Alarm("worker0-a-1", 22, "rewritten")),
        (shrink, Alarm("worker0-a-1", 18, "truncated")),
        (remove, Alarm("worker0-a-1", 0, "missing")),
        (empty, Alarm("worker0-a-1", 0, "truncated")),
    ],
)
def test_after_a_restart_a_changed_ledger_is_refused_loudly(ledger, spoil, alarm):
    spoil(ledger)
    other = open_writer(ledger, "worker1-b-1")
    fill(other, 2)
    stop = threading.Event()
    stop.set()
    assert open_checkpointer(ledger).run(stop) == 1
    last = checkpoints(ledger)[-1]
    assert last.alarms == (alarm,)
    sizes = {head.writer: head.size for head in last.heads}
    assert sizes == {"worker0-a-1": 22, "worker1-b-1": 5}  # the others are still witnessed
    shown = json.loads((ledger / ALARM).read_text())
    assert shown["refused"] == [{"writer": "worker0-a-1", "seq": alarm.seq, "code": alarm.code}]
    assert not verify_directory(ledger, KEY.key).ok


@pytest.mark.parametrize("spoil", [rewrite_and_extend, shrink, remove])
def test_while_running_it_refuses_what_does_not_extend_what_it_read(tmp_path, spoil):
    writer = open_writer(tmp_path)
    fill(writer, 10)
    writer.append(Record("gap", START, {}))
    writer.commit()
    checkpointer = look_again(tmp_path)
    spoil(tmp_path)
    read_all(checkpointer)
    checkpointer.sign()
    (alarm,) = checkpointer.alarms
    assert alarm.writer == "worker0-a-1"
    assert checkpoints(tmp_path)[-1].heads == () or checkpoints(tmp_path)[-1].heads[0].size == 22
    assert checkpoints(tmp_path)[-1].alarms == (alarm,)


def test_a_fork_of_the_checkpoint_log_is_not_continued(ledger):
    checkpointer = open_checkpointer(ledger)
    open_writer(ledger, "worker0-b-1")
    read_all(checkpointer)
    with (ledger / CHECKPOINTS).open("ab") as file:
        file.write(b"x\n\n")
    with pytest.raises(ForkError):
        checkpointer.sign()


def test_two_checkpointers_cannot_work_on_one_ledger(ledger):
    first = open_checkpointer(ledger)
    with pytest.raises(ForkError):
        open_checkpointer(ledger)
    first.close()
    open_checkpointer(ledger).close()


def test_with_another_key_it_does_not_start(ledger):
    with pytest.raises(ForkError, match="not signed with this key"):
        open_checkpointer(ledger, OTHER_KEY)


@pytest.mark.parametrize("at", [40, 200, 400])
def test_with_a_changed_log_it_does_not_start(ledger, at):
    data = bytearray((ledger / CHECKPOINTS).read_bytes())
    data[at] ^= 1
    (ledger / CHECKPOINTS).write_bytes(data)
    with pytest.raises(ForkError):
        open_checkpointer(ledger)


@pytest.mark.parametrize("cut", [1, 2, 60, 300])
def test_a_partial_last_checkpoint_is_set_aside_and_signing_goes_on(ledger, cut):
    open_writer(ledger, "worker0-b-1").close()
    look_again(ledger).close()
    path = ledger / CHECKPOINTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    look_again(ledger).close()
    assert [checkpoint.number for checkpoint in checkpoints(ledger)] == [0, 1]
    (aside,) = ledger.glob("checkpoints.torn-*")
    assert aside.read_bytes() in whole
    assert verify_directory(ledger, KEY.key).ok


def test_it_ends_with_a_last_checkpoint(tmp_path):
    fill(open_writer(tmp_path), 4)
    stop = threading.Event()
    stop.set()
    assert open_checkpointer(tmp_path).run(stop) == 0
    assert checkpoints(tmp_path)[-1].records == 9


def test_the_key_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    path = tmp_path / "keys" / "checkpointer.key"
    made = load_or_create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key(path).key == made.key
    assert parse_key((tmp_path / "keys" / "checkpointer.key.pub").read_text()) == made.key
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read"):
        load_or_create_key(path)


@pytest.mark.parametrize(
    "content", [b"", b"rubbish", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_refused(tmp_path, content):
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        load_or_create_key(path)


@pytest.mark.parametrize(
    ("content", "count"),
    [
        (None, None),
        ('{"exported": 7}', 7),
        ("[", None),
        ("[]", None),
        ('{"exported": true}', None),
        ("{}", None),
    ],
)
def test_the_exporters_count_is_read_from_its_cursor(tmp_path, content, count):
    cursor = tmp_path / "cursor.json"
    if content is not None:
        cursor.write_text(content)
    assert exported_count(cursor) == count


def test_the_exporters_own_cursor_gives_the_count_in_a_checkpoint_that_verifies(tmp_path):
    cursor, directory = tmp_path / "cursor.json", tmp_path / "ledger"
    fill(open_writer(directory), 3)
    feed = SpanFeed(directory, cursor)
    feed.counts.exported = len(feed.next_batch(100, START))
    feed.save()
    look_again(directory, exported=partial(exported_count, cursor)).close()
    assert checkpoints(directory)[0].counts["exported"] == 4
    assert verify_directory(directory, KEY.key).ok
    look_again(directory).close()


def test_a_checkpoint_that_would_not_read_back_is_never_signed(tmp_path):
    fill(open_writer(tmp_path), 1)
    checkpointer = open_checkpointer(tmp_path, exported=lambda: "seven")
    read_all(checkpointer)
    with pytest.raises(CheckpointError):
        checkpointer.sign()
    assert (tmp_path / CHECKPOINTS).read_bytes() == b""


def test_the_kernel_can_be_asked_about_its_clock():
    assert kernel_clock().source in ("kernel", "unsynchronised", "unknown")


def test_many_ended_writers_do_not_keep_files_open(tmp_path):
    for number in range(30):
        open_writer(tmp_path, f"worker0-{number:03d}").close()
    before = len(os.listdir("/proc/self/fd"))
    checkpointer = look_again(tmp_path)
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    checkpointer.close()
    assert verify_directory(tmp_path, KEY.key).ok
