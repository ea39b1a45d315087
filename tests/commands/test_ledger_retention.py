"""Payloads are erased when their time is over, never under a legal hold, and the ledger still verifies."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from extproc.adapters import retention_files
from extproc.adapters.ledger_reader import verify_directory
from extproc.cli import main
from extproc.domain.record import Record
from extproc.ledger.alone.verify import Report, parse_key, verify_ledger
from extproc.ledger.retention import LegalHold, people_of, read_tombstones, standing_holds, tombstones
from tests.commands.test_sessions import CONFIG
from tests.support.books import KEY, START, fill, intent, open_writer, outcome, sign_now

ANN = {"subject": "ann", "person": "ann@bank.example", "issuer": "i", "kind": "human"}
RULES = """\
  retention:
  - {targets: [short-*], keep: 1h}
  - {payloads: [response], keep: 12h}
"""


@pytest.fixture
def home(tmp_path):
    """Ten exchanges with payloads of 19 bytes, the last two at another target, by ann, with a response kept."""
    directory = tmp_path / "ledger"
    writer = open_writer(directory)
    fill(writer, 8)
    for number in (8, 9):
        writer.append(intent(number, target="short-lived", principal=ANN))
        kept = outcome(number, target="short-lived")
        writer.append(Record(kept.kind, kept.at, kept.fields, {"response": b'{"rows":"masked"}'}))
        writer.commit()
    writer.close()
    sign_now(directory)
    (tmp_path / "policies").mkdir()
    (tmp_path / "extproc.yaml").write_text(CONFIG % directory)
    return tmp_path


def run(home: Path, *arguments: object):
    return CliRunner().invoke(main, ["ledger", *map(str, arguments), "--config", str(home / "extproc.yaml")])


def verdicts(home: Path) -> list[list[str]]:
    """The codes of what is wrong, from both verifiers."""
    ours = Report()
    verify_ledger(home / "ledger", parse_key(str(KEY.key)), ours)
    theirs = verify_directory(home / "ledger", KEY.key, thorough=True)
    return [[problem.code for problem in theirs.problems], [problem.code for problem in ours.problems]]


def payload_bytes(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((home / "ledger").glob("worker*/*.payloads")))


def test_a_purge_erases_the_bytes_leaves_a_tombstone_and_the_ledger_verifies(home):
    before = payload_bytes(home)
    result = run(home, "purge", "--older-than", "1d", "--reason", "policy 7")
    assert (result.exit_code, result.stdout) == (0, "12 payloads of 224 bytes erased\n")
    after = payload_bytes(home)
    assert len(after) == len(before)
    assert b"masked" in before
    assert b"masked" not in after
    assert b"sss" not in after  # the salts are gone as well
    assert verdicts(home) == [[], []]
    sign_now(home / "ledger")
    assert verdicts(home) == [[], []]
    report = verify_directory(home / "ledger", KEY.key)
    assert report.writers["worker0-a-1"].erased == 12
    (path,) = (home / "ledger").glob("retention-*/*.jsonl")
    told = [json.loads(line) for line in path.read_text().splitlines() if '"retention.erased"' in line]
    assert [(one["payload"], len(one["seqs"]), one["reason"]) for one in told] == [
        ("request", 10, "policy 7"),
        ("response", 2, "policy 7"),
    ]
    assert told[0]["by"] == {"uid": os.getuid()}
    assert run(home, "purge", "--older-than", "1d").stdout == "0 payloads of 0 bytes erased\n"


def test_the_rules_of_the_configuration_decide_the_first_that_fits(home):
    assert run(home, "purge").exit_code == 2
    text = (
        (CONFIG % (home / "ledger"))
        .replace("ledger: {directory: ", "ledger:\n  directory: ")
        .replace("}\nprocessor", "\nprocessor")
    )
    head, _, tail = text.partition("processor")
    (home / "extproc.yaml").write_text(head + RULES + "processor" + tail)
    assert json.loads(run(home, "purge", "--json").stdout) == {"due": 4, "bytes": 72, "erased": 4, "held": {}}
    assert payload_bytes(home).count(b"masked") == 8  # the requests of other targets have no rule: they stay


def test_only_what_is_named_goes(home):
    assert run(home, "purge", "--older-than", "1d", "--payload", "response").stdout.startswith("2 payloads")
    assert run(home, "purge", "--older-than", "1d", "--target", "short-*").stdout.startswith("2 payloads")
    assert run(home, "purge", "--older-than", "9000d").stdout.startswith("0 payloads")
    assert run(home, "purge", "--target", "short-*").exit_code == 2
    assert run(home, "purge", "--older-than", "soon").exit_code == 2


def test_a_dry_run_writes_nothing(home):
    before = payload_bytes(home), sorted((home / "ledger").rglob("*"))
    assert (
        run(home, "purge", "--older-than", "1d", "--dry-run").stdout
        == "12 payloads of 224 bytes would be erased\n"
    )
    assert (payload_bytes(home), sorted((home / "ledger").rglob("*"))) == before


HOLDS = {
    "everything": ([], 12),
    "a target": (["--target", "short-*"], 4),
    "a person, answers included": (["--principal", "ann@bank.example"], 4),
    "a time": (["--from", "2026-11-23T17:50:08Z", "--to", "2026-11-23T17:50:09Z"], 2),
}


@pytest.mark.parametrize("case", HOLDS.values(), ids=HOLDS.keys())
def test_nothing_is_erased_under_a_legal_hold(home, case):
    scope, covered = case
    name = run(home, "hold", "add", *scope, "--reason", "case 17").stdout.strip()
    before = payload_bytes(home)
    result = run(home, "purge", "--older-than", "1d")
    assert result.exit_code == 1
    assert f"{covered} kept by the legal hold {name}" in result.stderr
    assert "nothing was erased" in result.stderr
    assert payload_bytes(home) == before
    partly = run(home, "purge", "--older-than", "1d", "--except-held", "--json")
    assert json.loads(partly.stdout) == {
        "due": 12 - covered,
        "bytes": json.loads(partly.stdout)["bytes"],
        "erased": 12 - covered,
        "held": {name: covered},
    }
    assert payload_bytes(home).count(b"masked") == covered
    assert "case 17" in run(home, "hold", "list").stdout
    assert run(home, "hold", "remove", name, "--reason", "settled").exit_code == 0
    assert run(home, "hold", "list").stdout == ""
    assert run(home, "hold", "remove", name, "--reason", "again").exit_code == 1
    assert run(home, "purge", "--older-than", "1d").exit_code == 0
    assert b"masked" not in payload_bytes(home)
    assert verdicts(home) == [[], []]


def test_an_erasure_without_a_tombstone_is_a_problem(home):
    plan = retention_files.plan_purge(home / "ledger", [retention_files.KeepRule(0.0)], [], START + 10**6)
    retention_files.erase(home / "ledger", plan.dues[0])
    assert verdicts(home) == [["payload-erased"] * 10, ["payload-erased"] * 10]


def test_a_tombstone_counts_for_what_it_names_only(home):
    ledger = open_writer(home / "ledger", "retention-a-1")
    (fields,) = tombstones("worker0-a-1", "request", [1, 3])
    ledger.append(Record("retention.erased", START, fields))
    ledger.close()
    plan = retention_files.plan_purge(home / "ledger", [retention_files.KeepRule(0.0)], [], START + 10**6)
    retention_files.erase(home / "ledger", plan.dues[0])
    assert verdicts(home) == [["payload-erased"] * 8, ["payload-erased"] * 8]


def test_a_tombstone_by_another_writer_counts_for_nothing(home):
    other = open_writer(home / "ledger", "worker9-a-1")
    (fields,) = tombstones("worker0-a-1", "request", list(range(20)))
    other.append(Record("retention.erased", START, fields))
    other.close()
    plan = retention_files.plan_purge(home / "ledger", [retention_files.KeepRule(0.0)], [], START + 10**6)
    retention_files.erase(home / "ledger", plan.dues[0])
    assert verdicts(home)[0] == verdicts(home)[1] == ["payload-erased"] * 10


def test_a_crash_between_tombstone_and_erasure_is_made_good_by_the_next_purge(home, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(5, "the disk is gone")

    monkeypatch.setattr("extproc.commands.ledger_retention.erase", fail)
    assert run(home, "purge", "--older-than", "1d").exit_code == 3
    monkeypatch.undo()
    assert b"masked" in payload_bytes(home)
    assert verdicts(home) == [[], []]
    assert run(home, "purge", "--older-than", "1d").exit_code == 0
    assert b"masked" not in payload_bytes(home)
    assert verdicts(home) == [[], []]


def test_a_crash_in_the_middle_of_a_body_is_made_good_by_the_next_purge(home):
    (path,) = (home / "ledger").glob("worker*/*.payloads")
    data = bytearray(path.read_bytes())
    data[4] = 255  # the header of the first entry says erased, the body is still there
    path.write_bytes(data)
    assert run(home, "purge", "--older-than", "1d").stdout.startswith("12 payloads")
    assert b"masked" not in payload_bytes(home)


def test_the_ledger_cannot_be_written_nothing_is_erased(home, monkeypatch):
    from extproc.domain.errors import LedgerUnavailableError

    def fail(*_: object) -> None:
        raise LedgerUnavailableError("full")

    before = payload_bytes(home)
    monkeypatch.setattr("extproc.app.worker.open_ledger", fail)
    assert run(home, "purge", "--older-than", "1d").exit_code == 3
    assert run(home, "hold", "add", "--reason", "x").exit_code == 3
    assert payload_bytes(home) == before


def test_holds_and_tombstones_are_read_back_from_records(tmp_path):
    from extproc.adapters.retention_files import retention_lines

    writer = open_writer(tmp_path, "retention-a-1")
    writer.append(
        Record("retention.held", START, {"legal_hold": "lh-1", "reason": "r", "scope": {"target": "t*"}})
    )
    writer.append(Record("retention.held", START + 1, {"legal_hold": "lh-2", "reason": "r", "scope": {}}))
    writer.append(Record("retention.let_go", START + 2, {"legal_hold": "lh-2"}))
    for fields in tombstones("w", "request", list(range(45_000))):
        writer.append(Record("retention.erased", START + 3, fields))
    writer.append(Record("retention.erased", START + 3, {"writer_of": "w", "payload": 7, "seqs": ["x"]}))
    writer.close()
    lines = list(retention_lines(tmp_path))
    assert standing_holds(lines) == [LegalHold("lh-1", "r", target="t*", at="2026-11-23T17:50:00.000000Z")]
    assert len(read_tombstones(lines)["w"]) == 45_000
    assert people_of(lines[0]) == ()
