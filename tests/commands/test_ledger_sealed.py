"""Sealed payloads at the command line: read with the key, refused without it, erased by erasing their keys."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from extproc.adapters.ledger_payloads import Payloads
from extproc.adapters.ledger_scan import writer_lines
from extproc.adapters.ledger_verify import verify_directory
from extproc.app.ledgers import open_ledger
from extproc.cli import main
from extproc.config import load_config
from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.record import Record
from extproc.ledger.alone.verify import Report, parse_key, verify_ledger, verify_packet
from extproc.ledger.sealing import KEY_ENTRY_SIZE, KeyRing
from tests.commands.test_sessions import CONFIG
from tests.support.books import KEY, fill, intent, open_writer, outcome, sign_now

RING = KeyRing("k1", {"k1": b"\x05" * 32})
ANN = {"subject": "ann", "person": "ann@bank.example", "issuer": "i", "kind": "human"}
SEALING = """\
ledger:
  directory: %s
  encryption: {keys: [{id: k1, key: {file: %s}}]}
"""


@pytest.fixture
def home(tmp_path):
    """Six sealed exchanges; the last two are ann's, with answers."""
    writer = open_writer(tmp_path / "ledger", ring=RING, random_bytes=os.urandom)
    fill(writer, 4)
    for number in (4, 5):
        writer.append(intent(number, principal=ANN))
        kept = outcome(number)
        writer.append(Record(kept.kind, kept.at, kept.fields, {"response": b'{"rows":"masked"}'}))
        writer.commit()
    writer.close()
    sign_now(tmp_path / "ledger")
    (tmp_path / "policies").mkdir()
    use_key(tmp_path, RING.keys["k1"].hex())
    return tmp_path


def use_key(home: Path, text: str) -> None:
    (home / "k1.key").unlink(missing_ok=True)
    (home / "k1.key").write_text(text + "\n")
    (home / "k1.key").chmod(0o600)
    lines = CONFIG.splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.startswith("ledger:"))
    lines[at] = SEALING % (home / "ledger", home / "k1.key")
    (home / "extproc.yaml").write_text("".join(lines))


def run(home: Path, *arguments: object):
    return CliRunner().invoke(main, [*map(str, arguments), "--config", str(home / "extproc.yaml")])


def verdicts(ledger: Path) -> list[list[str]]:
    ours = Report()
    verify_ledger(ledger, parse_key(str(KEY.key)), ours)
    theirs = verify_directory(ledger, KEY.key, thorough=True)
    return [[problem.code for problem in theirs.problems], [problem.code for problem in ours.problems]]


def states(ledger: Path, ring: KeyRing | None = RING) -> list[str]:
    files = Payloads(ledger, ring)
    return [
        files.read(line, name).state for line in writer_lines(ledger, "worker0-a-1") for name in line.payloads
    ]


def test_what_the_service_writes_is_sealed_when_a_key_is_given(home):
    ledger = open_ledger(load_config(home / "extproc.yaml"), "worker7")
    ledger.append(intent(77))
    ledger.commit()
    ledger.close()
    (payloads,) = (home / "ledger").glob("worker7-*/*.payloads")
    (keys,) = (home / "ledger").glob("worker7-*/*.keys")
    assert b"masked 77" not in payloads.read_bytes()
    assert keys.stat().st_size == KEY_ENTRY_SIZE
    assert "masked 77" in run(home, "ledger", "show", "d77").stdout


@pytest.mark.parametrize(
    ("text", "what"),
    [(None, "No such file"), ("zz", "is not 32 bytes in hexadecimal"), ("ab" * 31, "is not 32 bytes")],
    ids=["missing", "no key", "too short"],
)
def test_without_its_key_the_ledger_does_not_open_and_says_why(home, text, what):
    use_key(home, text or "")
    if text is None:
        (home / "k1.key").unlink()
    with pytest.raises(LedgerUnavailableError, match=what) as trouble:
        open_ledger(load_config(home / "extproc.yaml"), "worker7")
    assert "ledger.encryption.keys[0].key" in str(trouble.value)
    assert "abab" not in str(trouble.value)
    assert not list((home / "ledger").glob("worker7-*"))


def test_two_keys_may_not_share_an_id(home):
    path = home / "extproc.yaml"
    path.write_text(path.read_text().replace("[{id: k1", "[{id: k1, key: {env: X}}, {id: k1"))
    result = run(home, "ledger", "show", "d1")
    assert result.exit_code == 2
    assert '"k1" is taken by keys[0]' in result.output


def test_a_record_is_shown_with_its_payload_to_whoever_has_the_key(home):
    (shown,) = [
        one for one in json.loads(run(home, "ledger", "show", "d1", "--json").stdout) if "payloads" in one
    ]
    assert shown["payloads"]["request"]["content"] == {"body": "masked 1"}


@pytest.mark.parametrize(("key", "state"), [("06" * 32, "wrong-key"), ("05" * 32, "good")])
def test_a_wrong_key_shows_nothing(home, key, state):
    use_key(home, key)
    (shown,) = [
        one for one in json.loads(run(home, "ledger", "show", "d1", "--json").stdout) if "payloads" in one
    ]
    assert shown["payloads"]["request"]["state"] == state
    assert ("content" in shown["payloads"]["request"]) is (state == "good")


def test_files_alone_show_the_record_and_say_that_it_is_sealed(home):
    result = CliRunner().invoke(main, ["ledger", "show", "d1", "--dir", str(home / "ledger"), "--json"])
    assert json.loads(result.stdout)[0]["payloads"]["request"]["state"] == "sealed"


def test_verify_looks_inside_when_it_has_the_key(home):
    key = ["--key", str(KEY.key)]
    assert "not checked: what is inside" not in run(home, "ledger", "verify", *key).stdout
    alone = CliRunner().invoke(main, ["ledger", "verify", "--dir", str(home / "ledger"), *key])
    assert (alone.exit_code, "what is inside 8 sealed payloads" in alone.stdout) == (0, True)
    use_key(home, "06" * 32)
    wrong = run(home, "ledger", "verify", *key)
    assert wrong.exit_code == 1
    assert "cannot be opened" in wrong.stderr


def test_a_packet_holds_what_the_key_opened_and_verifies_without_it(home, tmp_path):
    period = ["--from", "2026-11-23", "--to", "2026-11-24", "--reason", "r"]
    assert (
        run(
            home, "evidence", "export", *period, "--dir", home / "ledger", "-o", tmp_path / "with.zip"
        ).exit_code
        == 0
    )
    with zipfile.ZipFile(tmp_path / "with.zip") as packet:
        assert b"masked 1" in packet.read("ledger/payloads.jsonl")
    report = Report()
    verify_packet(tmp_path / "with.zip", parse_key(str(KEY.key)), report)
    assert report.problems == []
    arguments = [
        "evidence",
        "export",
        *period,
        "--dir",
        str(home / "ledger"),
        "-o",
        str(tmp_path / "without.zip"),
    ]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    with zipfile.ZipFile(tmp_path / "without.zip") as packet:
        assert packet.read("ledger/payloads.jsonl") == b""
        assert json.loads(packet.read("manifest.json"))["payloads_left_out"] > 0


def test_a_single_record_is_shared_with_its_payload_only_if_it_opens(home):
    assert "masked 1" in run(home, "evidence", "share", "worker0-a-1:3", "--payloads").stdout
    use_key(home, "06" * 32)
    refused = run(home, "evidence", "share", "worker0-a-1:3", "--payloads")
    assert (refused.exit_code, "sealed" in refused.stderr) == (1, True)


def test_a_purge_erases_keys_and_with_them_every_copy(home, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(home / "ledger", copy, ignore=shutil.ignore_patterns("*.keys"))
    assert run(home, "ledger", "purge", "--older-than", "1d").stdout == "8 payloads of 148 bytes erased\n"
    assert verdicts(home / "ledger") == [[], []]
    assert states(home / "ledger") == ["erased"] * 8
    (keys,) = (home / "ledger").glob("worker0-*/*.keys")
    assert not keys.read_bytes().replace(b"XKE1\xff", b"").strip(b"\0")
    assert states(copy) == ["sealed"] * 8
    shutil.copy(keys, copy / "worker0-a-1")  # whoever brings the keys as they are now opens nothing
    assert states(copy) == ["erased"] * 8
    sign_now(home / "ledger")
    assert verdicts(home / "ledger") == [[], []]
    assert run(home, "ledger", "purge", "--older-than", "1d").stdout == "0 payloads of 0 bytes erased\n"


def test_an_erased_key_alone_is_finished_by_the_next_purge(home, monkeypatch):
    from extproc.adapters import retention_files

    whole = retention_files.build_erased_header
    monkeypatch.setattr(retention_files, "build_erased_header", lambda size: 1 / 0)
    assert isinstance(run(home, "ledger", "purge", "--older-than", "1d").exception, ZeroDivisionError)
    assert states(home / "ledger").count("erased") == 6
    assert verdicts(home / "ledger") == [[], []]
    monkeypatch.setattr(retention_files, "build_erased_header", whole)
    assert run(home, "ledger", "purge", "--older-than", "1d").exit_code == 0
    assert states(home / "ledger") == ["erased"] * 8
    assert verdicts(home / "ledger") == [[], []]


@pytest.mark.parametrize(
    ("only", "gone"),
    [
        (["--record", "worker0-a-1:3"], {3}),
        (["--record", "worker0-a-1:3", "--payload", "response"], set()),
        (["--older-than", "0s", "--principal", "ann@bank.example"], {9, 10, 11, 12}),
        (["--older-than", "0s", "--principal", "ann", "--payload", "response"], {10, 12}),
        (["--older-than", "0s", "--principal", "*"], {1, 3, 5, 7, 9, 10, 11, 12}),
        (["--older-than", "0s", "--principal", "nobody"], set()),
    ],
)
def test_one_record_or_all_of_one_person_can_be_erased(home, only, gone):
    assert run(home, "ledger", "purge", *only, "--reason", "asked by ann").exit_code == 0
    files = Payloads(home / "ledger", RING)
    found = {
        (line.seq, files.read(line, name).state)
        for line in writer_lines(home / "ledger", "worker0-a-1")
        for name in line.payloads
    }
    assert {seq for seq, state in found if state == "erased"} == gone
    assert {state for seq, state in found if seq not in gone} <= {"good"}
    assert verdicts(home / "ledger") == [[], []]


def test_a_legal_hold_keeps_the_keys(home):
    assert run(home, "ledger", "hold", "add", "--principal", "ann", "--reason", "case 9").exit_code == 0
    assert run(home, "ledger", "purge", "--record", "worker0-a-1:9").exit_code == 1
    assert states(home / "ledger") == ["good"] * 8


def test_a_person_is_named_with_an_age(home):
    assert run(home, "ledger", "purge", "--principal", "ann").exit_code == 2
