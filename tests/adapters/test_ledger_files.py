import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from extproc.adapters.ledger_files import Disk, LedgerWriter
from extproc.adapters.ledger_reader import (
    Position,
    TailError,
    WriterTail,
    is_running,
    list_segments,
    read_end,
    read_payload_entry,
)
from extproc.adapters.ledger_verify import verify_directory
from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.record import Record
from extproc.ledger import RecordError, parse_line
from extproc.ledger.payloads import HEADER_SIZE
from tests.support.books import START, fill, intent, kill, line_files, lines_of, open_writer, outcome


class Faults:
    """A disk that can be told to fail: `room` bytes still fit, `failure` is raised once they are used up."""

    def __init__(self) -> None:
        self.room: int | None = None
        self.failure = errno.ENOSPC
        self.short = False
        self.no_truncate = self.no_open = self.no_fsync = False

    def disk(self) -> Disk:
        return Disk(self.open, self.write, self.fsync, self.truncate)

    def open(self, path: str, flags: int, mode: int) -> int:
        if self.no_open:
            raise OSError(errno.EROFS, "read-only")
        return os.open(path, flags, mode)

    def write(self, fd: int, data: bytes) -> int:
        if self.room is None or len(data) <= self.room:
            if self.room is not None:
                self.room -= len(data)
            return os.write(fd, data)
        room, self.room = self.room, 0
        written = os.write(fd, data[:room]) if room else 0
        if self.short and written:
            return written
        raise OSError(self.failure, "no room")

    def fsync(self, fd: int) -> None:
        if self.no_fsync:
            raise OSError(errno.EIO, "lost")

    def truncate(self, fd: int, size: int) -> None:
        if self.no_truncate:
            raise OSError(errno.EIO, "stuck")
        os.ftruncate(fd, size)

    def heal(self) -> None:
        self.room = None
        self.no_truncate = self.no_open = self.no_fsync = False


@pytest.fixture
def faults():
    return Faults()


def kinds(path: Path) -> list[str]:
    return [parse_line(line).kind for line in path.read_bytes().splitlines()]


def assert_sound(directory: Path) -> None:
    assert verify_directory(directory, None, thorough=True).problems == []


def test_a_writer_starts_commits_and_stops(tmp_path):
    writer = open_writer(tmp_path / "ledger", start_fields={"version": "0.1.0"})
    writer.append(intent(0))
    writer.commit()
    writer.close()
    (path,) = line_files(tmp_path / "ledger")
    assert path.name == "000000000000.jsonl"
    assert kinds(path) == ["start", "intent", "stop"]
    start = parse_line(lines_of(tmp_path / "ledger")[0])
    assert start.fields == {"role": "worker0", "durability": "process", "version": "0.1.0"}
    assert_sound(tmp_path / "ledger")


def test_nothing_is_written_before_the_commit(tmp_path):
    writer = open_writer(tmp_path)
    writer.append(intent(0))
    assert len(lines_of(tmp_path)) == 1
    writer.discard()
    writer.append(outcome(7))
    writer.commit()
    assert [parse_line(line).seq for line in lines_of(tmp_path)] == [0, 1]
    assert_sound(tmp_path)


def test_a_commit_is_one_write_of_lines_after_one_of_payloads(tmp_path):
    calls: list[tuple[str, int]] = []

    def write(fd: int, data: bytes) -> int:
        calls.append((os.readlink(f"/proc/self/fd/{fd}").rpartition(".")[2], len(data)))
        return os.write(fd, data)

    writer = open_writer(tmp_path, disk=Disk(write=write))
    calls.clear()
    for number in range(5):
        writer.append(intent(number))
        writer.append(outcome(number))
    writer.commit()
    assert [name for name, _ in calls] == ["payloads", "jsonl"]
    writer.commit()
    assert len(calls) == 2


def test_only_the_owner_can_read_it(tmp_path):
    before = os.umask(0)
    try:
        writer = open_writer(tmp_path / "ledger")
        fill(writer, 1)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "ledger").rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert stat.S_IMODE((tmp_path / "ledger").stat().st_mode) == 0o700


def test_segments_are_named_by_their_first_record_and_continue_the_chain(tmp_path):
    writer = open_writer(tmp_path, segment_bytes=5000)
    fill(writer, 40)
    writer.close()
    segments = list_segments(tmp_path / "worker0-a-1")
    assert len(segments) > 3
    for segment in segments:
        lines = segment.path.read_bytes().splitlines()
        assert parse_line(lines[0]).seq == segment.first
    assert_sound(tmp_path)


def test_payloads_are_kept_beside_the_line_with_a_salt_of_their_own(tmp_path):
    writer = open_writer(tmp_path)
    fill(writer, 3)
    first, second = (parse_line(lines_of(tmp_path)[at]).payloads["request"] for at in (1, 3))
    entries = [
        read_payload_entry(tmp_path, "worker0-a-1", place.ref, place.size) or b"" for place in (first, second)
    ]
    assert [entry[HEADER_SIZE:] for entry in entries] == [b'{"body":"masked 0"}', b'{"body":"masked 1"}']
    assert entries[0][16:48] != entries[1][16:48]
    assert b"masked" not in lines_of(tmp_path)[1].replace(b'"masked":{"EMAIL', b"")


def test_a_record_that_has_no_canonical_form_leaves_no_trace(tmp_path):
    writer = open_writer(tmp_path)
    writer.append(intent(0))
    with pytest.raises(RecordError):
        writer.append(Record("intent", START, {"risk": 0.5}, {"request": b"lost"}))
    writer.append(intent(1))
    writer.commit()
    assert len(lines_of(tmp_path)) == 3
    assert_sound(tmp_path)


def test_the_same_writer_cannot_be_opened_twice(tmp_path):
    writer = open_writer(tmp_path)
    with pytest.raises(LedgerUnavailableError):
        open_writer(tmp_path)
    writer.close()
    with pytest.raises(LedgerUnavailableError):
        open_writer(tmp_path)


def test_whether_a_writer_runs_can_be_seen(tmp_path):
    writer = open_writer(tmp_path)
    assert is_running(tmp_path / "worker0-a-1")
    writer.close()
    assert not is_running(tmp_path / "worker0-a-1")
    assert not is_running(tmp_path / "nobody")


def test_a_closed_writer_takes_nothing(tmp_path):
    writer = open_writer(tmp_path)
    writer.close()
    writer.close()
    writer.append(intent(0))
    with pytest.raises(LedgerUnavailableError):
        writer.commit()


def test_a_forked_child_may_not_write(tmp_path):
    writer = open_writer(tmp_path)
    child = os.fork()
    if child == 0:
        try:
            writer.append(intent(0))
            writer.commit()
        except LedgerUnavailableError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    fill(writer, 1)
    assert_sound(tmp_path)


# ---------------------------------------------------------------- the write boundary


def commit_size(directory: Path) -> tuple[int, int]:
    """Bytes of payloads and of lines that one exchange takes."""
    writer = open_writer(directory)
    (path,) = line_files(directory)
    before = path.stat().st_size
    fill(writer, 1)
    writer.close()
    (payloads,) = directory.glob("*/*.payloads")
    end = path.read_bytes().rfind(b"\n", 0, -1) + 1
    return payloads.stat().st_size, end - before


@pytest.mark.parametrize("short", [True, False], ids=["short write", "error"])
def test_a_write_that_stops_at_any_byte_leaves_whole_lines_and_a_sound_ledger(tmp_path, short):
    payload_bytes, line_bytes = commit_size(tmp_path / "measure")
    total = payload_bytes + line_bytes
    for room in range(total):
        directory = tmp_path / f"at-{room}"
        faults = Faults()
        writer = open_writer(directory, disk=faults.disk())
        faults.room, faults.short = room, short
        writer.append(intent(0))
        writer.append(outcome(0))
        with pytest.raises(LedgerUnavailableError):
            writer.commit()
        (path,) = line_files(directory)
        assert path.read_bytes().endswith(b"\n")
        assert not writer.healthy
        faults.heal()
        fill(writer, 1, first=1)
        assert writer.healthy
        writer.close()
        records = [parse_line(line) for line in lines_of(directory)]
        kept = [record.kind for record in records][1:-4]
        assert kept in ([], ["intent"])  # what reached the file as a whole line stays
        gap = records[-4]
        assert gap.kind == "gap"
        assert (gap.fields["refused_commits"], gap.fields["refused_records"], gap.fields["cause"]) == (
            1,
            2,
            "ENOSPC",
        )
        assert gap.fields.get("kept", []) == (
            [{"writer": "worker0-a-1", "first": 1, "last": 1}] if kept else []
        )
        assert_sound(directory)


def test_a_full_disk_refuses_until_there_is_room_and_counts_what_it_refused(tmp_path, faults):
    writer = open_writer(tmp_path, disk=faults.disk())
    faults.room = 0
    for number in range(5):
        writer.append(intent(number))
        with pytest.raises(LedgerUnavailableError):
            writer.commit()
    faults.heal()
    fill(writer, 1)
    gap = parse_line(lines_of(tmp_path)[1])
    assert (gap.kind, gap.fields["refused_commits"], gap.fields["refused_records"]) == ("gap", 5, 9)
    assert gap.fields["since"].startswith("2026-11-23T")
    assert "kept" not in gap.fields
    assert_sound(tmp_path)


def test_if_cutting_back_fails_a_new_writer_goes_on_and_names_the_torn_bytes(tmp_path, faults):
    writer = open_writer(tmp_path, disk=faults.disk())
    fill(writer, 2)
    faults.room, faults.no_truncate = 40, True
    writer.append(outcome(9))
    with pytest.raises(LedgerUnavailableError):
        writer.commit()
    faults.room = None
    faults.no_open = True
    for _ in range(3):
        writer.append(intent(9))
        with pytest.raises(LedgerUnavailableError):
            writer.commit()
    faults.heal()
    writer.append(intent(10))
    writer.commit()
    assert writer.writer_id == "worker0-a-1-r1"
    broken, following = line_files(tmp_path)
    torn = broken.read_bytes().rpartition(b"\n")[2]
    assert len(torn) == 40
    start, gap, kept = (parse_line(line) for line in following.read_bytes().splitlines())
    assert start.fields["torn"]["bytes"] == 40
    assert start.fields["predecessor"]["seq"] == 4
    assert (gap.kind, gap.fields["refused_commits"], kept.kind) == ("gap", 4, "intent")
    assert_sound(tmp_path)
    assert "named by the start" in verify_directory(tmp_path, None).notes[0]


def test_a_start_that_cannot_be_written_leaves_no_litter(tmp_path, faults):
    faults.room = 10
    with pytest.raises(LedgerUnavailableError):
        open_writer(tmp_path, disk=faults.disk())
    assert list(tmp_path.iterdir()) == []
    faults.heal()
    open_writer(tmp_path, disk=faults.disk()).close()
    assert_sound(tmp_path)


def test_reopening_on_a_full_disk_again_and_again_leaves_no_open_files(tmp_path, faults):
    writer = open_writer(tmp_path, disk=faults.disk())
    faults.room, faults.no_truncate = 10, True
    writer.append(intent(0))
    with pytest.raises(LedgerUnavailableError):
        writer.commit()
    open_files = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        writer.append(intent(0))
        with pytest.raises(LedgerUnavailableError):
            writer.commit()
    assert len(os.listdir("/proc/self/fd")) <= open_files
    faults.heal()
    fill(writer, 1)
    writer.close()
    assert_sound(tmp_path)


def test_after_a_failed_fsync_the_segment_is_not_trusted(tmp_path, faults):
    writer = open_writer(tmp_path, disk=faults.disk(), durability="disk")
    fill(writer, 1)
    faults.no_fsync = True
    writer.append(intent(1))
    with pytest.raises(LedgerUnavailableError):
        writer.commit()
    faults.heal()
    fill(writer, 1, first=2)
    writer.close()
    _, following = line_files(tmp_path)
    assert kinds(following) == ["start", "gap", "intent", "outcome", "stop"]
    gap = parse_line(following.read_bytes().splitlines()[1])
    assert gap.fields["kept"] == [{"writer": "worker0-a-1", "first": 3, "last": 3}]
    assert gap.fields["cause"] == "EIO"
    assert_sound(tmp_path)


def test_a_failed_background_sync_starts_a_new_writer(tmp_path, faults):
    writer = open_writer(tmp_path, disk=faults.disk())
    fill(writer, 1)
    faults.no_fsync = True
    writer.sync()
    assert not writer.healthy
    faults.heal()
    fill(writer, 1, first=1)
    assert writer.writer_id == "worker0-a-1-r1"
    assert_sound(tmp_path)


def test_every_commit_is_on_the_disk_when_asked_to(tmp_path):
    synced: list[int] = []
    writer = open_writer(
        tmp_path, disk=Disk(fsync=lambda fd: (synced.append(fd), os.fsync(fd))[1]), durability="disk"
    )
    synced.clear()
    writer.append(outcome(0))
    writer.commit()
    assert len(synced) == 1


def test_the_background_thread_syncs_what_was_written(tmp_path):
    import threading

    synced = threading.Event()

    def fsync(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".jsonl"):
            synced.set()

    writer = LedgerWriter(
        tmp_path, writer_id="w-1", clock=lambda: START, sync_interval=0.001, disk=Disk(fsync=fsync)
    )
    synced.clear()
    fill(writer, 1)
    assert synced.wait(30)
    writer.close()


# ---------------------------------------------------------------- restarts


def test_a_start_names_the_head_of_the_writer_before(tmp_path):
    first = open_writer(tmp_path, "worker0-a-1")
    fill(first, 2)
    first.close()
    open_writer(tmp_path, "worker1-b-1").close()
    open_writer(tmp_path, "worker0-c-1").close()
    head = parse_line((tmp_path / "worker0-a-1" / "000000000000.jsonl").read_bytes().splitlines()[-1])
    start = parse_line((tmp_path / "worker0-c-1" / "000000000000.jsonl").read_bytes().splitlines()[0])
    assert start.fields["predecessor"] == {"writer": "worker0-a-1", "seq": 5, "head": head.hash}
    other = parse_line((tmp_path / "worker1-b-1" / "000000000000.jsonl").read_bytes().splitlines()[0])
    assert "predecessor" not in other.fields
    assert_sound(tmp_path)


def test_a_torn_last_line_is_named_by_the_next_start_and_its_bytes_stay(tmp_path):
    writer = open_writer(tmp_path, "worker0-a-1")
    fill(writer, 2)
    path = tmp_path / "worker0-a-1" / "000000000000.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"v":1,"wri')
    kill(writer)
    open_writer(tmp_path, "worker0-b-1")
    start = parse_line((tmp_path / "worker0-b-1" / "000000000000.jsonl").read_bytes().splitlines()[0])
    assert start.fields["torn"]["bytes"] == 11
    assert start.fields["torn"]["offset"] == len(whole)
    assert path.read_bytes() == whole + b'{"v":1,"wri'
    assert_sound(tmp_path)


def test_half_a_line_of_a_writer_that_still_runs_is_not_called_torn(tmp_path):
    """A rolling reload starts a worker beside its predecessor, which may be in the middle of a write."""
    found = []

    def write_in_two(fd: int, data: bytes) -> int:
        begun = os.write(fd, data[:-5])
        if not found and data.startswith(b"{"):
            found.append(open_writer(tmp_path, "worker0-b-1"))
        return begun + os.write(fd, data[begun:])

    disk = Disk()
    writer = open_writer(tmp_path, "worker0-a-1", disk=Disk(write=lambda fd, data: disk.write(fd, data)))
    fill(writer, 1)
    disk = Disk(write=write_in_two)
    fill(writer, 2)
    writer.close()
    found[0].close()
    start = parse_line((tmp_path / "worker0-b-1" / "000000000000.jsonl").read_bytes().splitlines()[0])
    assert "torn" not in start.fields
    assert start.fields["predecessor"]["seq"] == 3
    assert start.fields["predecessor"]["running"] is True
    assert_sound(tmp_path)


def test_a_last_line_that_is_no_record_does_not_stop_the_next_start(tmp_path):
    writer = open_writer(tmp_path, "worker0-a-1")
    fill(writer, 1)
    path = tmp_path / "worker0-a-1" / "000000000000.jsonl"
    path.write_bytes(path.read_bytes() + b"rubbish\n")
    open_writer(tmp_path, "worker0-b-1")
    start = parse_line((tmp_path / "worker0-b-1" / "000000000000.jsonl").read_bytes().splitlines()[0])
    assert start.fields["predecessor"]["unreadable"] is True


@pytest.mark.parametrize("kill_after", [1, 40, 777])
def test_a_killed_writer_leaves_a_ledger_that_verifies_with_all_it_acknowledged(tmp_path, kill_after):
    command = [sys.executable, "-m", "tests.adapters.ledger_process", str(tmp_path), "worker0-a-1"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        acknowledged = -1
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged >= kill_after:
                process.kill()
                break
        for line in process.stdout:
            if line.endswith("\n"):
                acknowledged = int(line)
    open_writer(tmp_path, "worker0-b-1").close()
    report = verify_directory(tmp_path, None, thorough=True)
    assert report.problems == []
    assert report.writers["worker0-a-1"].records > acknowledged


# ---------------------------------------------------------------- reading


def test_a_tail_gives_whole_lines_across_segments_as_they_come(tmp_path):
    writer = open_writer(tmp_path, segment_bytes=3000)
    tail = WriterTail(tmp_path / "worker0-a-1")
    seen = []
    for number in range(30):
        fill(writer, 1, first=number)
        while lines := tail.read(100):
            seen += lines
    assert [parse_line(line.data).seq for line in seen] == list(range(61))
    again = WriterTail(tmp_path / "worker0-a-1", seen[30].place)
    assert again.read()[0].data == seen[30].data
    assert tail.place > Position(0, 0)


def test_a_tail_waits_for_the_rest_of_a_line(tmp_path):
    writer = open_writer(tmp_path)
    fill(writer, 1)
    (path,) = line_files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    tail = WriterTail(tmp_path / "worker0-a-1")
    assert len(tail.read()) == 2
    assert tail.read() == []
    with path.open("ab") as file:
        file.write(whole[-10:])
    assert len(tail.read()) == 1


def spoil_shrunken(path: Path) -> None:
    os.truncate(path, 10)


def spoil_missing(path: Path) -> None:
    path.unlink()


def spoil_replaced(path: Path) -> None:
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


def spoil_oversized(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x" * (1 << 20))


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (spoil_shrunken, "shrunken"),
        (spoil_missing, "missing"),
        (spoil_replaced, "replaced"),
        (spoil_oversized, "oversized"),
    ],
)
def test_a_tail_notices_what_a_segment_may_not_do(tmp_path, spoil, code):
    fill(open_writer(tmp_path), 2)
    tail = WriterTail(tmp_path / "worker0-a-1")
    assert tail.read()
    spoil(line_files(tmp_path)[0])
    with pytest.raises(TailError) as error:
        tail.read()
    assert error.value.code == code


def test_the_end_of_a_writer_is_found_even_if_its_last_segment_is_empty(tmp_path):
    writer = open_writer(tmp_path, segment_bytes=1)
    fill(writer, 3)
    end = read_end(tmp_path / "worker0-a-1")
    assert (end.seq, end.readable, end.torn_bytes) == (6, True, 0)


@pytest.mark.parametrize(
    "ref", ["../../etc/passwd:0", "000000000000.payloads:99999", "000000000009.payloads:0", ""]
)
def test_a_payload_that_is_not_there_is_none(tmp_path, ref):
    fill(open_writer(tmp_path), 1)
    assert read_payload_entry(tmp_path, "worker0-a-1", ref, 10) is None
    assert read_payload_entry(tmp_path, "../x", "000000000000.payloads:0", 10) is None
