"""Another key takes over under both signatures, and whoever holds an earlier key follows."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from extproc.adapters.checkpoint_key import KeyChange, load_or_create_key
from extproc.adapters.checkpointer import ForkError
from extproc.adapters.ledger_reader import CHECKPOINTS, PUBLIC_KEY
from extproc.adapters.ledger_verify import verify_directory
from extproc.app.checkpointing import signing_key
from extproc.app.evidence import Asked, export
from extproc.app.evidence_share import share_record
from extproc.cli import main
from extproc.config import load_config
from extproc.ledger.alone.verify import Report, parse_key, verify_ledger, verify_packet, verify_record
from extproc.ledger.checkpoint import parse_checkpoint
from extproc.ledger.note import parse_note, split_notes
from tests.commands.test_sessions import CONFIG
from tests.support.books import OTHER_KEY, fill, open_checkpointer, open_writer, read_all


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "keys" / "signing.key"


def work(directory, key_file, exchanges: int, name: str) -> None:
    """A checkpointer's whole life: it signs what was added, changes its key if asked to, and signs again."""
    checkpointer = open_checkpointer(directory, load_or_create_key(key_file), change=KeyChange(key_file))
    for half in ("a", "b"):
        writer = open_writer(directory, f"{name}-{half}")
        fill(writer, exchanges)
        writer.close()
        read_all(checkpointer)
        checkpointer.sign()
    checkpointer.close()


def rotated(directory, key_file, times: int):
    """The keys, the first first."""
    keys = []
    for number in range(times + 1):
        if number:
            KeyChange(key_file).ask()
        keys.append(load_or_create_key(key_file).key)
        work(directory, key_file, 3, f"worker{number}")
    return [*keys[:1], *[handed for handed in handovers(directory) if handed is not None]]


def handovers(directory):
    notes, _ = split_notes((directory / CHECKPOINTS).read_bytes())
    return [parse_checkpoint(parse_note(note).text).next_key for note in notes]


def verdicts(directory, key) -> list[list[str]]:
    """What both verifiers find wrong; the second one with every signature as well."""
    found = [[problem.code for problem in verify_directory(directory, key, thorough=True).problems]]
    for every in (False, True):
        report = Report()
        verify_ledger(directory, parse_key(str(key)), report, every)
        found.append([problem.code for problem in report.problems])
    return found


def test_whoever_holds_any_of_the_keys_can_verify(tmp_path, key_file):
    directory = tmp_path / "ledger"
    keys = rotated(directory, key_file, 3)
    assert len({str(key) for key in keys}) == 4
    assert (directory / PUBLIC_KEY).read_text().strip() == str(keys[0])
    for key in keys:
        assert verdicts(directory, key) == [[], [], []]
    assert verdicts(directory, OTHER_KEY.key) == [["signature"]] * 3
    assert load_or_create_key(key_file).key == keys[-1]
    assert key_file.with_name("signing.key.pub").read_text().strip() == str(keys[-1])
    assert sorted(path.name for path in key_file.parent.iterdir()) == ["signing.key", "signing.key.pub"]


def test_the_old_key_signs_nothing_after_it_handed_over(tmp_path, key_file):
    directory = tmp_path / "ledger"
    work(directory, key_file, 3, "worker0")
    old = load_or_create_key(key_file)
    KeyChange(key_file).ask()
    work(directory, key_file, 3, "worker1")
    with pytest.raises(ForkError, match="not signed with this key"):
        open_checkpointer(directory, old)
    with pytest.raises(ForkError):
        open_checkpointer(directory, OTHER_KEY)


def test_a_handover_without_the_old_keys_signature_is_none(tmp_path, key_file):
    directory = tmp_path / "ledger"
    keys = rotated(directory, key_file, 1)
    log = directory / CHECKPOINTS
    notes, _ = split_notes(log.read_bytes())
    at = next(at for at, handed in enumerate(handovers(directory)) if handed is not None)
    lines = notes[at].splitlines(keepends=True)
    for gone in (-2, -1):
        spoiled = b"".join(line for line in lines if line is not lines[gone])
        log.write_bytes(b"".join(note + b"\n" for note in [*notes[:at], spoiled]))
        for codes in verdicts(directory, keys[0]):
            assert codes[0] == "signature"


@pytest.mark.parametrize("step", ["before the checkpoint", "after it", "while the old key goes"])
def test_a_crash_in_the_middle_is_made_good_by_the_next_start(tmp_path, key_file, step, monkeypatch):
    directory = tmp_path / "ledger"
    work(directory, key_file, 3, "worker0")
    first = load_or_create_key(key_file).key
    change = KeyChange(key_file)
    change.ask()
    following = change.following()
    assert following is not None
    if step != "before the checkpoint":
        checkpointer = open_checkpointer(directory, load_or_create_key(key_file), change=change)
        read_all(checkpointer)
        finish = KeyChange.finish

        def die(self):
            if step == "while the old key goes":
                self._wish.unlink()
            raise OSError(5, "killed")

        monkeypatch.setattr(KeyChange, "finish", die)
        with pytest.raises(OSError, match="killed"):
            checkpointer.sign()
        monkeypatch.setattr(KeyChange, "finish", finish)
        checkpointer.close()
    work(directory, key_file, 3, "worker1")
    assert [handed for handed in handovers(directory) if handed is not None] == [following.key]
    assert load_or_create_key(key_file).key == following.key
    assert not change.is_asked
    for key in (first, following.key):
        assert verdicts(directory, key) == [[], [], []]


def test_packets_and_single_records_verify_with_the_first_key(tmp_path, key_file):
    directory = tmp_path / "ledger"
    keys = rotated(directory, key_file, 2)
    _, data = export(directory, Asked("2026-11-23T00:00:00.000000Z", "2026-11-23T17:51:00.000000Z"), None)
    path = tmp_path / "packet.zip"
    path.write_bytes(data)
    report = Report()
    verify_packet(path, parse_key(str(keys[0])), report)
    assert report.problems == []
    shared = share_record(directory, "worker2-b", 3, payloads=True)
    assert len(shared["handovers"]) == 2
    path.write_text(json.dumps(shared))
    for key, codes in ((keys[0], []), (OTHER_KEY.key, ["signature"])):
        report = Report()
        verify_record(path, parse_key(str(key)), report)
        assert [problem.code for problem in report.problems] == codes


def test_the_public_key_is_the_new_one_before_the_change_counts_as_done(tmp_path, monkeypatch):
    """`rotate-key` prints it as soon as nothing is asked for any more."""
    key_file = tmp_path / "checkpoint.key"
    load_or_create_key(key_file)
    change = KeyChange(key_file)
    change.ask()
    following = change.following()
    assert following is not None
    shown: list[str] = []
    replace = Path.replace

    def look(self: Path, target: Path) -> Path:
        if target == key_file:
            shown.append(key_file.with_name("checkpoint.key.pub").read_text().strip())
        moved: Path = replace(self, target)
        return moved

    monkeypatch.setattr(Path, "replace", look)
    change.finish()
    assert shown == [str(following.key)]
    assert not change.is_asked
    assert load_or_create_key(key_file).key == following.key


def test_the_command_waits_for_the_checkpointer_and_leaves_a_record(tmp_path):
    directory = tmp_path / "ledger"
    (tmp_path / "policies").mkdir()
    (tmp_path / "extproc.yaml").write_text(CONFIG % directory)
    command = ["ledger", "rotate-key", "--config", str(tmp_path / "extproc.yaml"), "--reason", "yearly"]
    directory.mkdir()
    assert CliRunner().invoke(main, command).exit_code == 3
    key_file = signing_key(load_config(tmp_path / "extproc.yaml"))
    first = load_or_create_key(key_file)
    late = CliRunner().invoke(main, [*command, "--wait", "0"])
    assert (late.exit_code, late.stdout) == (1, "")
    checkpointer = open_checkpointer(directory, first, change=KeyChange(key_file), sign_every=0.0)
    stop = threading.Event()
    thread = threading.Thread(target=checkpointer.run, args=(stop,))
    thread.start()
    try:
        done = CliRunner().invoke(main, [*command, "--wait", "60"])
    finally:
        stop.set()
        thread.join()
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == str(load_or_create_key(key_file).key) != str(first.key)
    assert verdicts(directory, first.key) == [[], [], []]
    records = [json.loads(line) for path in directory.glob("reader-*/*.jsonl") for line in path.open()]
    told = [record for record in records if record["kind"] == "admin.key_rotation"]
    assert [(record["reason"], record["signs"]) for record in told] == [("yearly", "checkpoints")] * 2
