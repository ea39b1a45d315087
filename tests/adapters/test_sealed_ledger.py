"""A ledger whose payloads are sealed: written, read back, spoiled and checked by both verifiers."""

import os
import shutil
from pathlib import Path

import pytest

from extproc.adapters.ledger_payloads import Payloads
from extproc.adapters.ledger_scan import writer_lines
from extproc.adapters.ledger_verify import verify_directory
from extproc.adapters.shipping import closed_files
from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.record import Record
from extproc.ledger.alone.verify import Report, parse_key, verify_ledger
from extproc.ledger.lines import PayloadPlace
from extproc.ledger.payloads import HEADER_SIZE, parse_ref
from extproc.ledger.sealing import KEY_ENTRY_SIZE, KeyRing, build_erased_key
from tests.adapters.test_ledger_files import Faults
from tests.support.books import KEY, fill, intent, open_writer, outcome, sign_now

OLD = KeyRing("old", {"old": b"\x01" * 32})
NEW = KeyRing("new", {"new": b"\x02" * 32, "old": b"\x01" * 32})
VICTIM = 3
"""The sequence number of a record with a payload."""


def write(
    directory: Path, name: str = "worker0-a-1", ring: KeyRing = OLD, exchanges: int = 5, **settings
) -> None:
    writer = open_writer(directory, name, ring=ring, random_bytes=os.urandom, **settings)
    fill(writer, exchanges)
    writer.close()


@pytest.fixture
def ledger(tmp_path):
    write(tmp_path / "ledger")
    sign_now(tmp_path / "ledger")
    return tmp_path / "ledger"


def problems(directory: Path, ring: KeyRing | None = None) -> list[tuple[str, int]]:
    """What is wrong. Without a ring both verifiers must say the same."""
    report = verify_directory(directory, KEY.key, thorough=True, ring=ring)
    found = [(problem.code, problem.seq) for problem in report.problems]
    if ring is None:
        ours = Report()
        verify_ledger(directory, parse_key(str(KEY.key)), ours)
        assert [(problem.code, problem.seq) for problem in ours.problems] == found
        sealed = sum(writer.sealed for writer in report.writers.values())
        assert ours.counts.get("payloads sealed", 0) == sealed
        assert [gap for gap in ours.unchecked if "sealed" in gap] == [
            gap for gap in report.unchecked if "sealed" in gap
        ]
    return found


def read(directory: Path, ring: KeyRing | None = OLD, writer: str = "worker0-a-1") -> list[tuple[str, bytes]]:
    payloads = Payloads(directory, ring)
    return [payloads.read(line, "request")[:2] for line in writer_lines(directory, writer) if line.payloads]


def place_of(directory: Path, seq: int) -> PayloadPlace:
    (line,) = (line for line in writer_lines(directory, "worker0-a-1") if line.seq == seq)
    return line.payloads["request"]


def spoil(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_nothing_readable_is_on_the_disk_and_the_key_brings_it_back(ledger):
    kept = b"".join(path.read_bytes() for path in ledger.rglob("*") if path.is_file())
    assert b"masked 0" not in kept
    assert b"\x01" * 32 not in kept
    assert read(ledger) == [("good", b'{"body":"masked %d"}' % number) for number in range(5)]
    assert problems(ledger) == problems(ledger, OLD) == []


def test_the_verifiers_say_what_they_could_not_look_into(ledger):
    report = verify_directory(ledger, KEY.key)
    assert "what is inside 5 sealed payloads: their key is not here" in report.unchecked
    report = verify_directory(ledger, KEY.key, ring=OLD)
    assert not [gap for gap in report.unchecked if "sealed" in gap]


def test_the_files_of_keys_are_the_owners_alone(ledger):
    (keys,) = ledger.glob("*/*.keys")
    assert keys.stat().st_mode & 0o777 == 0o600
    assert keys.stat().st_size == 5 * KEY_ENTRY_SIZE


def test_every_segment_has_keys_of_its_own(tmp_path):
    write(tmp_path, exchanges=40, segment_bytes=5000)
    assert len(list(tmp_path.glob("*/*.keys"))) == len(list(tmp_path.glob("*/*.payloads"))) > 3
    assert [state for state, _ in read(tmp_path)] == ["good"] * 40


def test_after_a_change_of_keys_both_generations_are_read(ledger):
    write(ledger, "worker0-b-1", NEW)
    assert [state for state, _ in read(ledger, NEW) + read(ledger, NEW, "worker0-b-1")] == ["good"] * 10
    assert {state for state, _ in read(ledger, OLD, "worker0-b-1")} == {"unknown-key"}
    assert problems(ledger, NEW) == problems(ledger, OLD) == problems(ledger) == []


def test_plain_payloads_from_before_are_read_as_well(ledger):
    writer = open_writer(ledger, "worker0-0-1")
    fill(writer, 2)
    writer.close()
    assert [state for state, _ in read(ledger, OLD, "worker0-0-1")] == ["good"] * 2
    assert problems(ledger, OLD) == problems(ledger) == []


@pytest.mark.parametrize(
    ("ring", "state"),
    [
        (None, "sealed"),
        (KeyRing("old", {"old": b"\x09" * 32}), "wrong-key"),
        (KeyRing("x", {"x": b"x" * 32}), "unknown-key"),
    ],
    ids=["no key", "a wrong key", "another key"],
)
def test_without_the_right_key_nothing_is_shown_and_the_reason_is_said(ledger, ring, state):
    assert read(ledger, ring) == [(state, b"")] * 5


def test_a_copy_without_keys_verifies_and_cannot_be_read(ledger, tmp_path):
    copy = shutil.copytree(ledger, tmp_path / "copy", ignore=shutil.ignore_patterns("*.keys"))
    assert problems(copy) == problems(copy, OLD) == []
    assert read(copy) == [("sealed", b"")] * 5


def test_keys_are_not_shipped(tmp_path):
    write(tmp_path, exchanges=40, segment_bytes=5000)
    names = [name for name, _ in closed_files(tmp_path, payloads=True)]
    assert {Path(name).suffix for name in names} == {".jsonl", ".payloads"}


def ciphertext_changed(ledger: Path, payloads: Path, keys: Path, offset: int) -> None:
    spoil(payloads, offset + HEADER_SIZE + 40, b"\0\0")


def ciphertext_cut(ledger: Path, payloads: Path, keys: Path, offset: int) -> None:
    os.truncate(payloads, offset + HEADER_SIZE + 40)


def ciphertexts_swapped(ledger: Path, payloads: Path, keys: Path, offset: int) -> None:
    data = payloads.read_bytes()
    size = len(data) // 5
    payloads.write_bytes(data[:size] + data[2 * size : 3 * size] + data[size : 2 * size] + data[3 * size :])


def laid_bare(ledger: Path, payloads: Path, keys: Path, offset: int) -> None:
    spoil(payloads, offset + 4, b"\0")


@pytest.mark.parametrize(
    ("act", "found"),
    [
        (ciphertext_changed, [("payload-mismatch", VICTIM)]),
        (ciphertexts_swapped, [("payload-mismatch", VICTIM), ("payload-mismatch", VICTIM + 2)]),
        (laid_bare, [("payload-mismatch", VICTIM)]),
    ],
)
def test_a_spoiled_ciphertext_is_named_by_whoever_has_no_key(ledger, act, found):
    _, offset = parse_ref(place_of(ledger, VICTIM).ref) or ("", 0)
    (payloads,), (keys,) = ledger.glob("*/*.payloads"), ledger.glob("*/*.keys")
    act(ledger, payloads, keys, offset)
    assert problems(ledger) == problems(ledger, OLD) == found
    assert read(ledger)[1] == ("mismatch", b"")


def test_a_cut_ciphertext_is_named(ledger):
    _, offset = parse_ref(place_of(ledger, 9).ref) or ("", 0)
    (payloads,) = ledger.glob("*/*.payloads")
    ciphertext_cut(ledger, payloads, payloads, offset)
    assert problems(ledger) == problems(ledger, OLD) == [("payload-mismatch", 9)]


def test_an_erased_key_without_a_tombstone_is_named(ledger):
    (keys,) = ledger.glob("*/*.keys")
    spoil(keys, KEY_ENTRY_SIZE, build_erased_key())
    assert problems(ledger) == problems(ledger, OLD) == [("payload-erased", VICTIM)]
    assert read(ledger)[1] == ("erased", b"")


def test_keys_that_are_gone_are_named(ledger):
    (keys,) = ledger.glob("*/*.keys")
    os.truncate(keys, 4 * KEY_ENTRY_SIZE + 50)
    assert problems(ledger) == problems(ledger, OLD) == [("payload-missing", 9)]
    assert read(ledger)[4] == ("key-missing", b"")


def test_a_spoiled_key_is_named_by_whoever_can_open_it(ledger):
    (keys,) = ledger.glob("*/*.keys")
    spoil(keys, KEY_ENTRY_SIZE + 40, b"\0\0\0")
    assert problems(ledger) == []
    assert problems(ledger, OLD) == [("payload-mismatch", VICTIM)]
    assert read(ledger)[1] == ("wrong-key", b"")


def test_swapped_keys_open_nothing(ledger):
    (keys,) = ledger.glob("*/*.keys")
    data = keys.read_bytes()
    keys.write_bytes(
        data[KEY_ENTRY_SIZE : 2 * KEY_ENTRY_SIZE] + data[:KEY_ENTRY_SIZE] + data[2 * KEY_ENTRY_SIZE :]
    )
    assert problems(ledger, OLD) == [("payload-mismatch", 1), ("payload-mismatch", VICTIM)]
    assert [state for state, _ in read(ledger)] == ["wrong-key", "wrong-key", "good", "good", "good"]


def test_a_tombstone_tells_of_an_erased_key(ledger):
    (keys,) = ledger.glob("*/*.keys")
    spoil(keys, KEY_ENTRY_SIZE, build_erased_key())
    retention = open_writer(ledger, "retention-a-1")
    told = {
        "writer_of": "worker0-a-1",
        "payload": "request",
        "seqs": [VICTIM],
        "by": {"uid": 0},
        "reason": "r",
    }
    retention.append(Record("retention.erased", 1_795_456_300.0, told))
    retention.close()
    assert problems(ledger) == problems(ledger, OLD) == []
    assert verify_directory(ledger, KEY.key).writers["worker0-a-1"].erased == 1


def test_a_write_that_stops_at_any_byte_refuses_and_leaves_a_sound_ledger(tmp_path):
    write(tmp_path / "measure", exchanges=1)
    sizes = [path.stat().st_size for path in (tmp_path / "measure").glob("*/*") if path.suffix != ".jsonl"]
    for room in range(sum(sizes) + 1):
        directory = tmp_path / f"at-{room}"
        faults = Faults()
        writer = open_writer(directory, disk=faults.disk(), ring=OLD, random_bytes=os.urandom)
        faults.room, faults.short = room, bool(room % 2)
        writer.append(intent(0))
        writer.append(outcome(0))
        with pytest.raises(LedgerUnavailableError):
            writer.commit()
        faults.heal()
        fill(writer, 2, first=1)
        writer.close()
        assert verify_directory(directory, None, ring=OLD).problems == []
        assert [state for state, _ in read(directory)] == ["good", "good"]


def test_what_was_discarded_leaves_no_key(tmp_path):
    writer = open_writer(tmp_path, ring=OLD, random_bytes=os.urandom)
    writer.append(intent(0))
    writer.discard()
    fill(writer, 1)
    writer.close()
    (keys,) = tmp_path.glob("*/*.keys")
    assert keys.stat().st_size == KEY_ENTRY_SIZE
    assert read(tmp_path) == [("good", b'{"body":"masked 0"}')]


def test_every_commit_and_its_keys_are_on_the_disk_when_asked_to(tmp_path):
    synced = []
    faults = Faults()
    disk = faults.disk()
    disk = type(disk)(
        disk.open, disk.write, lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")), disk.truncate
    )
    writer = open_writer(tmp_path, disk=disk, ring=OLD, random_bytes=os.urandom, durability="disk")
    synced.clear()
    fill(writer, 1)
    assert [Path(name).suffix for name in synced if Path(name).suffix] == [".keys", ".payloads", ".jsonl"]
