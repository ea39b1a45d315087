import json
import shutil

import pytest
from click.testing import CliRunner

from extproc.cli import main
from extproc.domain.record import Record
from extproc.ledger.lines import parse_line
from tests.support.books import (
    KEY,
    OTHER_KEY,
    START,
    fill,
    intent,
    lines_of,
    open_writer,
    outcome,
    put_lines,
    sign_now,
)


@pytest.fixture
def ledger(tmp_path):
    """Three exchanges, signed."""
    directory = tmp_path / "ledger"
    writer = open_writer(directory)
    fill(writer, 3)
    writer.close()
    sign_now(directory)
    return directory


def run(*arguments: object):
    return CliRunner().invoke(main, ["ledger", *map(str, arguments)])


def test_a_sound_ledger_verifies(ledger):
    result = run("verify", "--dir", ledger, "--key", str(KEY.key), "--thorough")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "8 records, 0 after the last checkpoint: nothing is wrong" in result.stdout
    assert "not checked" not in result.stdout


def test_a_key_found_in_the_ledger_is_said_to_prove_little(ledger):
    result = run("verify", "--dir", ledger)
    assert result.exit_code == 0
    assert "not checked: the key: it came from the ledger itself" in result.stdout


def test_the_key_may_be_in_a_file(ledger, tmp_path):
    (tmp_path / "key").write_text(f"{OTHER_KEY.key}\n")
    result = run("verify", "--dir", ledger, "--key", tmp_path / "key")
    assert result.exit_code == 1
    assert "signature" in result.stderr


def test_a_problem_is_named_and_the_exit_code_is_1(ledger):
    lines = lines_of(ledger)
    lines[3] = lines[3].replace(b"customers/1", b"customers/2")
    put_lines(ledger, lines)
    result = run("verify", "--dir", ledger)
    assert result.exit_code == 1
    assert result.stderr.startswith("PROBLEM worker0-a-1:3: altered")
    report = json.loads(run("verify", "--dir", ledger, "--json").stdout)
    assert (report["ok"], report["problems"][0]["seq"]) == (False, 3)


def test_no_ledger_is_exit_code_3_and_a_bad_key_is_wrong_usage(ledger, tmp_path):
    assert run("verify", "--dir", tmp_path / "nowhere").exit_code == 3
    assert run("verify", "--dir", ledger, "--key", "rubbish").exit_code == 2
    assert run("verify", "--config", tmp_path / "missing.yaml").exit_code == 2


def test_tail_shows_the_latest_records_of_all_writers_in_order(ledger):
    other = open_writer(ledger, "worker1-a-1")
    fill(other, 2, 100)
    result = run("tail", "--dir", ledger, "-n", 3)
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["outcome", "intent", "outcome"]
    assert "GET /customers/101 by agent-101" in result.stdout
    every = run("tail", "--dir", ledger, "-n", 1000, "--json").stdout.splitlines()
    times = [json.loads(line)["at"] for line in every]
    assert times == sorted(times)
    assert len(every) == 13


def test_tail_can_be_asked_for_kinds(ledger):
    writer = open_writer(ledger, "worker1-a-1")
    writer.append(Record("hold.opened", START, {"hold": "h1"}))
    writer.append(Record("hold.vote", START, {"hold": "h1"}))
    writer.commit()
    result = run("tail", "--dir", ledger, "--kind", "hold.*", "--kind", "stop")
    assert sorted(line.split()[1] for line in result.stdout.splitlines()) == [
        "hold.opened",
        "hold.vote",
        "stop",
    ]


@pytest.mark.parametrize("what", ["d1", "s1", "worker0-a-1:3", f"{2:032x}"])
def test_show_finds_an_exchange_by_any_of_its_names(ledger, what):
    result = run("show", what, "--dir", ledger, "--json")
    assert result.exit_code == 0
    records = json.loads(result.stdout)
    assert records[0]["decision_id"] == "d1"
    assert records[0]["payloads"]["request"]["content"] == {"body": "masked 1"}
    assert len(records) == (1 if ":" in what else 2)


def test_show_finds_a_record_by_the_beginning_of_its_hash(ledger):
    digest = parse_line(lines_of(ledger)[4]).hash
    (record,) = json.loads(run("show", digest[:12], "--dir", ledger, "--json").stdout)
    assert (record["seq"], record["hash"]) == (4, digest)


def test_show_says_when_nothing_is_known(ledger):
    for what in ("nothing", "worker0-a-1:99", "nobody:1", "../x:0"):
        assert run("show", what, "--dir", ledger).exit_code == 1


def test_a_payload_that_is_gone_or_changed_is_said_and_not_shown(ledger):
    (path,) = ledger.glob("*/*.payloads")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"masked 1", b"forged 1"))
    (record, _) = json.loads(run("show", "d1", "--dir", ledger, "--json").stdout)
    assert record["payloads"]["request"]["state"] == "mismatch"
    assert "content" not in record["payloads"]["request"]
    path.unlink()
    (record, _) = json.loads(run("show", "d1", "--dir", ledger, "--json").stdout)
    assert record["payloads"]["request"]["state"] == "missing"


def test_nothing_recorded_can_steer_the_terminal(tmp_path):
    writer = open_writer(tmp_path / "ledger")
    evil = "/\x1b[2J\u202e\u3164gnp.exe\r\n\x07\x9b1m"
    writer.append(intent(0, request={"method": "GET\x1b[1m", "path": evil}, principal={"subject": evil}))
    writer.append(Record("outcome", START, dict(outcome(0).fields), {"response": evil.encode()}))
    writer.commit()
    shown = (
        run("tail", "--dir", tmp_path / "ledger").stdout
        + run("show", "d0", "--dir", tmp_path / "ledger").stdout
    )
    assert "\\u{1B}[2J\\u{202E}" in shown
    assert "\u3164" not in shown
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_a_damaged_ledger_can_still_be_read(ledger):
    with (ledger / "worker0-a-1" / "000000000000.jsonl").open("ab") as file:
        file.write(b"rubbish\n")
    result = run("tail", "--dir", ledger)
    assert "no record" in result.stderr
    assert len(result.stdout.splitlines()) == 8
    shutil.rmtree(ledger / "worker0-a-1")
    (ledger / "worker0-a-1").mkdir()
    assert run("tail", "--dir", ledger).exit_code == 0


def test_the_verifier_can_be_had_as_a_file():
    result = run("verifier")
    assert result.exit_code == 0
    assert result.stdout.startswith("#!/usr/bin/env python3\n")
    compile(result.stdout, "verify.py", "exec")
