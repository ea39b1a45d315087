"""`verify.py` and `extproc ledger verify` are two verifiers; they agree on 2,000 records spoiled in many ways."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.adapters.ledger_reader import CHECKPOINTS
from extproc.adapters.ledger_verify import verify_directory
from extproc.ledger.alone import VERIFIER
from extproc.ledger.alone.verify import Report, ed25519_verifies, main, parse_key, verify_ledger
from extproc.ledger.note import split_notes
from extproc.ledger.payloads import HEADER_SIZE
from tests.support.books import (
    KEY,
    OTHER_KEY,
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

EXCHANGES = 999
RECORDS = 2 * EXCHANGES + 2
CUTS = (200, 600, EXCHANGES)
SIGNED = (1 + 2 * CUTS[0], 1 + 2 * CUTS[1], RECORDS)
VICTIM = 941
WRITER = "worker0-a-1"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A ledger of 2,000 records and three checkpoints."""
    directory = tmp_path_factory.mktemp("sound") / "ledger"
    writer = open_writer(directory)
    checkpointer = open_checkpointer(directory)
    before = 0
    for upto in CUTS:
        fill(writer, upto - before, before)
        before = upto
        if upto == EXCHANGES:
            writer.close()
        read_all(checkpointer)
        checkpointer.sign()
    checkpointer.close()
    return directory


@pytest.fixture
def ledger(sound, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(sound, tmp_path / "ledger")


def alone(directory: Path, key=KEY.key, every: bool = False) -> Report:
    report = Report()
    verify_ledger(directory, parse_key(str(key)) if key is not None else None, report, every)
    return report


def both(directory: Path, key=KEY.key) -> list[tuple[str, str, int]]:
    """What is wrong, as both verifiers say; they must name the same first problem.

    With the key, unless there is nothing that it could have signed.
    """
    key = key if (directory / CHECKPOINTS).exists() else None
    theirs = [(p.code, p.writer, p.seq) for p in verify_directory(directory, key, thorough=True).problems]
    ours = [(p.code, p.writer, p.seq) for p in alone(directory, key).problems]
    assert bool(ours) == bool(theirs)
    assert ours[:1] == theirs[:1]
    return ours


def test_a_sound_ledger_has_no_problems(ledger):
    report = alone(ledger, every=True)
    assert report.problems == []
    assert report.unchecked == []
    assert report.counts == {
        "records": RECORDS,
        "payloads": EXCHANGES,
        "writers": 1,
        "checkpoints": 3,
        "records after the last checkpoint": 0,
    }
    assert both(ledger) == []


def edited(line: bytes) -> bytes:
    return line.replace(b"2026-11", b"2026-12", 1)


def replaced(lines: list[bytes], at: int, *others: bytes) -> list[bytes]:
    return [*lines[:at], *others, *lines[at + 1 :]]


TAMPERING = {
    "edit": (lambda ls: replaced(ls, VICTIM, edited(ls[VICTIM])), "altered", VICTIM),
    "edit of an intent that has a payload": (
        lambda ls: replaced(ls, VICTIM, ls[VICTIM].replace(b'"allow"', b'"deny"')),
        "altered",
        VICTIM,
    ),
    "edit of the record a checkpoint names": (
        lambda ls: replaced(ls, SIGNED[0] - 1, edited(ls[SIGNED[0] - 1])),
        "altered",
        SIGNED[0] - 1,
    ),
    "edit of two neighbours": (
        lambda ls: [*ls[:VICTIM], *map(edited, ls[VICTIM : VICTIM + 2]), *ls[VICTIM + 2 :]],
        "altered",
        VICTIM,
    ),
    "edit of the first record": (lambda ls: [edited(ls[0]), *ls[1:]], "altered", 0),
    "edit of the last record": (lambda ls: [*ls[:-1], edited(ls[-1])], "rewritten", SIGNED[1]),
    "edit of the link": (
        lambda ls: replaced(
            ls, VICTIM, ls[VICTIM].replace(sha256(ls[VICTIM - 1]).hexdigest().encode(), b"ab" * 32)
        ),
        "altered",
        VICTIM,
    ),
    "edit of the sequence number": (
        lambda ls: replaced(ls, VICTIM, ls[VICTIM].replace(b'"seq":%d' % VICTIM, b'"seq":99999', 1)),
        "altered",
        VICTIM,
    ),
    "a space": (
        lambda ls: replaced(ls, VICTIM, ls[VICTIM].replace(b',"code"', b', "code"')),
        "malformed",
        VICTIM,
    ),
    "no JSON": (lambda ls: replaced(ls, VICTIM, b"x" * len(ls[VICTIM])), "malformed", VICTIM),
    "deletion": (lambda ls: ls[:VICTIM] + ls[VICTIM + 1 :], "missing", VICTIM),
    "deletion of the first": (lambda ls: ls[1:], "missing", 0),
    "deletion of many": (lambda ls: ls[:VICTIM] + ls[VICTIM + 100 :], "missing", VICTIM),
    "insertion": (lambda ls: [*ls[:VICTIM], forge(ls, VICTIM), *ls[VICTIM:]], "repeated", VICTIM),
    "replacement": (lambda ls: replaced(ls, VICTIM, forge(ls, VICTIM)), "altered", VICTIM),
    "a record twice": (lambda ls: [*ls[: VICTIM + 9], ls[VICTIM], *ls[VICTIM + 9 :]], "repeated", VICTIM),
    "reordering of two": (
        lambda ls: [*ls[:VICTIM], ls[VICTIM + 1], ls[VICTIM], *ls[VICTIM + 2 :]],
        "missing",
        VICTIM,
    ),
    "reordering of a block": (
        lambda ls: [*ls[:VICTIM], *ls[VICTIM + 10 : 1600], *ls[VICTIM : VICTIM + 10], *ls[1600:]],
        "missing",
        VICTIM,
    ),
    "truncation": (lambda ls: ls[:VICTIM], "truncated", VICTIM),
    "truncation of one": (lambda ls: ls[:-1], "truncated", RECORDS - 1),
    "truncation of everything": (lambda ls: [], "truncated", 0),
    "a rewritten tail": (lambda ls: rechain(ls, VICTIM), "rewritten", SIGNED[0]),
}


@pytest.mark.parametrize("how", TAMPERING.values(), ids=TAMPERING.keys())
def test_both_verifiers_name_the_first_bad_record(ledger, how):
    tamper, code, seq = how
    lines = lines_of(ledger)
    spoiled = tamper(lines)
    assert spoiled != lines
    put_lines(ledger, spoiled)
    assert both(ledger)[0] == (code, WRITER, seq)


def test_ten_thousand_records_are_no_different(tmp_path):
    writer = open_writer(tmp_path)
    fill(writer, 4999)
    writer.close()
    sign_now(tmp_path)
    assert both(tmp_path) == []
    lines = lines_of(tmp_path)
    put_lines(tmp_path, replaced(lines, 8711, edited(lines[8711])))
    assert both(tmp_path)[0] == ("altered", WRITER, 8711)


def test_a_fork_signed_with_another_key_is_refused(ledger):
    put_lines(ledger, rechain(lines_of(ledger), VICTIM))
    (ledger / CHECKPOINTS).unlink()
    sign_now(ledger, OTHER_KEY)
    assert both(ledger)[0] == ("signature", "", -1)
    assert both(ledger, OTHER_KEY.key) == []  # so the key has to come from somewhere else


def test_a_fork_from_the_second_checkpoint_on_is_refused_there(ledger):
    notes, _ = split_notes((ledger / CHECKPOINTS).read_bytes())
    put_lines(ledger, rechain(lines_of(ledger), SIGNED[0] + 5))
    (ledger / CHECKPOINTS).unlink()
    sign_now(ledger, OTHER_KEY)
    (forged,), _ = split_notes((ledger / CHECKPOINTS).read_bytes())
    forged = forged.replace(b"number 0", b"number 1").replace(
        b"0" * 64, sha256(notes[0]).hexdigest().encode(), 1
    )
    (ledger / CHECKPOINTS).write_bytes(notes[0] + b"\n" + forged + b"\n")
    report = alone(ledger)
    assert report.counts["checkpoints"] == 1
    assert both(ledger)[0] == ("signature", "", -1)
    assert "checkpoint 1" in report.problems[0].message


def test_a_good_last_signature_vouches_for_the_checkpoints_before_it_by_their_links(ledger):
    notes, _ = split_notes((ledger / CHECKPOINTS).read_bytes())
    spoiled = bytearray(notes[1])
    spoiled[-20] = ord("A") if spoiled[-20] != ord("A") else ord("B")
    (ledger / CHECKPOINTS).write_bytes(notes[0] + b"\n" + bytes(spoiled) + b"\n" + notes[2] + b"\n")
    assert both(ledger)[0] == ("signature", "", -1)
    assert alone(ledger).counts["checkpoints"] == 1


@pytest.mark.parametrize("at", range(0, 1400, 61))
def test_no_byte_of_a_checkpoint_can_change_unseen(ledger, at):
    path = ledger / CHECKPOINTS
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(bytes(data))
    assert {p.code for p in alone(ledger).problems} & {"signature", "checkpoint"}


def payload_file(directory: Path) -> Path:
    (path,) = directory.glob("*/*.payloads")
    return path


def test_a_swapped_payload_is_named(ledger):
    data = bytearray(payload_file(ledger).read_bytes())
    size = HEADER_SIZE + len(b'{"body":"masked 0"}')
    data[:size], data[size : 2 * size] = data[size : 2 * size], data[:size]
    payload_file(ledger).write_bytes(data)
    assert both(ledger) == [("payload-mismatch", WRITER, 1), ("payload-mismatch", WRITER, 3)]


def test_payload_files_that_are_gone_are_named(ledger):
    payload_file(ledger).unlink()
    assert both(ledger)[0] == ("payload-missing", WRITER, 1)


def test_missing_segments_and_writers_are_named(tmp_path):
    writer = open_writer(tmp_path, segment_bytes=4000)
    fill(writer, 40)
    writer.close()
    sign_now(tmp_path)
    segments = line_files(tmp_path)
    first = int(segments[2].stem)
    segments[2].rename(tmp_path / "kept")
    assert both(tmp_path)[0] == ("missing-segment", WRITER, first)
    (tmp_path / "kept").rename(segments[2])
    segments[1].write_bytes(segments[1].read_bytes() + b"{half")
    assert both(tmp_path)[0] == ("torn", WRITER, first)
    shutil.rmtree(tmp_path / WRITER)
    assert both(tmp_path) == [("missing-writer", WRITER, 0)]


def test_a_predecessor_that_lost_its_end_is_noticed_without_any_checkpoint(tmp_path):
    for name in (WRITER, "worker0-b-1"):
        writer = open_writer(tmp_path, name)
        fill(writer, 5)
        writer.close()
    path = tmp_path / WRITER / "000000000000.jsonl"
    data = path.read_bytes()
    path.write_bytes(b"\n".join(data.splitlines()[:-3]) + b"\n")
    assert both(tmp_path)[0] == ("truncated", WRITER, 9)
    path.write_bytes(data.replace(b'"kind":"stop"', b'"kind":"stap"'))
    assert both(tmp_path)[0][0] == "predecessor"


def test_a_ledger_whose_checkpoints_are_gone_does_not_verify_with_a_key(ledger):
    """Otherwise whoever rewrites it all would only have to remove them."""
    (ledger / CHECKPOINTS).unlink()
    assert [p.code for p in alone(ledger).problems] == ["signature"]
    assert [p.code for p in verify_directory(ledger, KEY.key).problems] == ["signature"]
    assert both(ledger) == []


def test_a_torn_tail_must_be_the_one_its_successor_names(tmp_path):
    writer = open_writer(tmp_path)
    fill(writer, 1)
    path = tmp_path / WRITER / "000000000000.jsonl"
    path.write_bytes(path.read_bytes() + b'{"v":1,"half')
    kill(writer)
    open_writer(tmp_path, "worker0-b-1").close()
    assert both(tmp_path) == []
    path.write_bytes(path.read_bytes()[:-1])
    assert both(tmp_path)[0] == ("torn", WRITER, -1)


def test_what_cannot_be_checked_is_said(ledger):
    assert any("no key was given" in gap for gap in alone(ledger, None).unchecked)
    (ledger / CHECKPOINTS).unlink()
    assert any("truncation and rewriting" in gap for gap in alone(ledger).unchecked)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["cut", "insert", "flip", "copy"]),
            st.integers(0, 1 << 30),
            st.binary(max_size=30),
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_any_damage_is_never_good(small, tmp_path_factory, damage):
    lines = line_files(small)[0].read_bytes()
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
    copy = shutil.copytree(small, tmp_path_factory.mktemp("spoiled") / "ledger")
    (path,) = line_files(copy)
    path.write_bytes(bytes(spoiled))
    ours = [p for p in alone(copy).problems if not p.code.startswith("payload")]
    assert ours or bytes(spoiled).startswith(lines)
    assert bool(alone(copy).problems) == bool(verify_directory(copy, KEY.key, thorough=True).problems)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Forty exchanges, signed."""
    directory = tmp_path_factory.mktemp("small") / "ledger"
    writer = open_writer(directory)
    fill(writer, 40)
    writer.close()
    sign_now(directory)
    return directory


@given(st.binary(max_size=300), st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_as_a_ledger_give_a_verdict(tmp_path_factory, lines, checkpoints):
    directory = tmp_path_factory.mktemp("bytes")
    (directory / WRITER).mkdir()
    (directory / WRITER / "000000000000.jsonl").write_bytes(lines)
    (directory / CHECKPOINTS).write_bytes(checkpoints)
    assert alone(directory).problems or b"\n" not in lines


# ------------------------------------------------------------------ the file on its own


def test_it_imports_nothing_but_the_standard_library():
    tree = ast.parse(VERIFIER.read_text())
    names = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert names <= set(sys.stdlib_module_names)
    assert names.isdisjoint({"socket", "urllib", "http", "ssl", "subprocess", "ctypes"})


def run_alone(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As an auditor would: a copy of the file elsewhere, without site-packages and without our paths."""
    shutil.copy(VERIFIER, cwd / "verify.py")
    return subprocess.run(
        [sys.executable, "-I", "-S", "verify.py", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_bare_python_runs_it(small, tmp_path):
    good = run_alone(tmp_path, str(small), "--key", str(KEY.key))
    assert (good.returncode, good.stderr) == (0, "")
    assert "records: 82" in good.stdout
    assert "not checked" not in good.stdout
    own = run_alone(tmp_path, str(small), "--json")
    assert own.returncode == 0
    assert "compare" in json.loads(own.stdout)["unchecked"][0]
    bad = run_alone(tmp_path, str(small), "--key", str(OTHER_KEY.key))
    assert bad.returncode == 1
    assert "PROBLEM checkpoints: signature" in bad.stderr
    assert run_alone(tmp_path, str(tmp_path / "nowhere")).returncode == 3
    assert run_alone(tmp_path, str(small), "--key", "rubbish").returncode == 2


def test_nothing_recorded_can_steer_the_terminal(small, tmp_path, capsys):
    copy = shutil.copytree(small, tmp_path / "ledger")
    lines = lines_of(copy)
    put_lines(copy, [*lines, b'{"v":1,"writer":"\x1b[2J"}'])
    assert main([str(copy), "--key", str(KEY.key)]) == 1
    assert "\x1b" not in "".join(capsys.readouterr())


# ------------------------------------------------------------------ Ed25519

# RFC 8032, section 7.1: public key, message, signature of TEST 1, 2 and 3.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize("vector", VECTORS)
def test_the_signatures_of_the_specification_hold(vector):
    public, message, signature = map(bytes.fromhex, vector)
    assert ed25519_verifies(public, message, signature)
    assert not ed25519_verifies(public, message + b"x", signature)
    for at in range(0, 64, 7):
        spoiled = bytearray(signature)
        spoiled[at] ^= 1
        assert not ed25519_verifies(public, message, bytes(spoiled))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
@settings(max_examples=15, deadline=None)
def test_it_agrees_with_the_library(seed, message):
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes_raw()
    signature = private.sign(message)
    assert ed25519_verifies(public, message, signature)
    assert not ed25519_verifies(public, message + b"\0", signature)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64), st.binary(max_size=50))
@settings(max_examples=30, deadline=None)
def test_any_bytes_are_no_signature(public, signature, message):
    assert not ed25519_verifies(public, message, signature)


def test_a_signature_with_s_beyond_the_order_or_a_key_of_small_order_is_refused():
    public, message, signature = map(bytes.fromhex, VECTORS[1])
    order = 2**252 + 27742317777372353535851937790883648493
    malleable = int.from_bytes(signature[32:], "little") + order
    assert not ed25519_verifies(public, message, signature[:32] + malleable.to_bytes(32, "little"))
    identity = (1).to_bytes(32, "little")
    assert not ed25519_verifies(identity, b"anything", identity + bytes(32))
