"""Payloads are erased when their time is over, never under a legal hold, and the ledger still verifies."""

import fcntl
import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from extproc.adapters import retention_files
from extproc.adapters.ledger_verify import verify_directory
from extproc.cli import main
from extproc.commands import ledger_retention
from extproc.domain.record import Record
from extproc.ledger.alone.verify import Report, parse_key, verify_ledger
from extproc.ledger.lines import Chain
from extproc.ledger.retention import (
    KeepRule,
    LegalHold,
    people_of,
    read_tombstones,
    standing_holds,
    tombstones,
)
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
    assert json.loads(run(home, "purge", "--json").stdout) == {
        "due": 4,
        "bytes": 72,
        "erased": 4,
        "held": {},
        "odd": 0,
    }
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
        "odd": 0,
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
    plan = retention_files.plan_purge(home / "ledger", [KeepRule(0.0)], [], START + 10**6)
    retention_files.erase(home / "ledger", plan.dues[0])
    assert verdicts(home) == [["payload-erased"] * 10, ["payload-erased"] * 10]


def test_a_tombstone_counts_for_what_it_names_only(home):
    ledger = open_writer(home / "ledger", "retention-a-1")
    (fields,) = tombstones("worker0-a-1", "request", [1, 3])
    ledger.append(Record("retention.erased", START, fields))
    ledger.close()
    plan = retention_files.plan_purge(home / "ledger", [KeepRule(0.0)], [], START + 10**6)
    retention_files.erase(home / "ledger", plan.dues[0])
    assert verdicts(home) == [["payload-erased"] * 8, ["payload-erased"] * 8]


def test_a_tombstone_by_another_writer_counts_for_nothing(home):
    other = open_writer(home / "ledger", "worker9-a-1")
    (fields,) = tombstones("worker0-a-1", "request", list(range(20)))
    other.append(Record("retention.erased", START, fields))
    other.close()
    plan = retention_files.plan_purge(home / "ledger", [KeepRule(0.0)], [], START + 10**6)
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
    monkeypatch.setattr("extproc.app.ledgers.open_ledger", fail)
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


# ------------------------------------------------------------------ tombstones that prove nothing


def unchecked(home: Path) -> list[list[str]]:
    """What could not be checked about erasures, as both verifiers say it."""
    ours = Report()
    verify_ledger(home / "ledger", parse_key(str(KEY.key)), ours)
    theirs = verify_directory(home / "ledger", KEY.key, thorough=True)
    return [[gap for gap in gaps if "erased" in gap] for gaps in (theirs.unchecked, ours.unchecked)]


def erase_requests(home: Path) -> None:
    plan = retention_files.plan_purge(home / "ledger", [KeepRule(0.0)], [], START + 10**6)
    retention_files.erase(home / "ledger", next(due for due in plan.dues if due.payload == "request"))


def test_a_tombstone_that_no_newline_ends_is_none(home):
    writer = open_writer(home / "ledger", "retention-a-1")
    writer.close()
    (path,) = (home / "ledger").glob("retention-a-1/*.jsonl")
    lines = path.read_bytes().splitlines()
    (fields,) = tombstones("worker0-a-1", "request", list(range(20)))
    chain = Chain("retention-a-1", len(lines), sha256(lines[-1]).hexdigest())
    path.write_bytes(path.read_bytes() + chain.encode("retention.erased", START, fields))
    erase_requests(home)
    assert verdicts(home) == [["payload-erased"] * 10, ["payload-erased"] * 10]


def test_what_an_unsigned_tombstone_says_is_said_to_be_unchecked(home):
    """Whoever can write files can make a whole writer of tombstones; only a checkpoint vouches for one."""
    writer = open_writer(home / "ledger", "retention-a-1")
    (fields,) = tombstones("worker0-a-1", "request", list(range(20)))
    writer.append(Record("retention.erased", START, fields))
    writer.close()
    erase_requests(home)
    assert verdicts(home) == [[], []]
    told = ["10 payloads erased under tombstones that no checkpoint covers yet"]
    assert unchecked(home) == [told, told]
    sign_now(home / "ledger")
    assert unchecked(home) == [[], []]


# ------------------------------------------------------------------ legal holds that somebody tries to lose


def retention_file(home: Path) -> Path:
    (path,) = (home / "ledger").glob("retention-*/*.jsonl")
    return path


def damage(home: Path) -> None:
    path = retention_file(home)
    path.write_bytes(path.read_bytes().replace(b'"legal_hold"', b'"legal_hold', 1))


def relabel(home: Path) -> None:
    path = retention_file(home)
    path.write_bytes(path.read_bytes().replace(b"retention.held", b"retention.helt", 1))


def drop_line(home: Path) -> None:
    path = retention_file(home)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))


def swap_last(home: Path) -> None:
    """The last record, which nothing in the file vouches for."""
    path = retention_file(home)
    path.write_bytes(path.read_bytes().replace(b'"kind":"stop"', b'"kind":"stap"', 1))


def drop_file(home: Path) -> None:
    retention_file(home).unlink()


def drop_writer(home: Path) -> None:
    shutil.rmtree(retention_file(home).parent)


def drop_first_segment(home: Path) -> None:
    path = retention_file(home)
    path.rename(path.with_name("000000000003.jsonl"))


LOST = [damage, relabel, drop_line, swap_last, drop_file, drop_writer, drop_first_segment]


@pytest.mark.parametrize("lose", LOST, ids=lambda lose: lose.__name__)
def test_nothing_is_erased_while_a_record_of_a_legal_hold_is_damaged(home, lose):
    run(home, "hold", "add", "--reason", "case 17")
    sign_now(home / "ledger")
    lose(home)
    before = payload_bytes(home)
    result = run(home, "purge", "--older-than", "1d")
    assert result.exit_code == 3
    assert "legal holds" in result.stderr
    assert payload_bytes(home) == before
    for command in (("hold", "list"), ("hold", "remove", "lh-1", "--reason", "x")):
        assert run(home, *command).exit_code == 3


def test_a_torn_tail_of_a_retention_writer_is_no_damage(home):
    """A hold that was being written when the power failed was never confirmed."""
    name = run(home, "hold", "add", "--target", "short-*", "--reason", "case 17").stdout.strip()
    sign_now(home / "ledger")
    retention_file(home).open("ab").write(b'{"v":1,"writer":"ret')
    assert name in run(home, "hold", "list").stdout


def test_a_purge_and_a_legal_hold_wait_for_one_another(home, monkeypatch):
    """Otherwise a hold could be confirmed between the plan and the erasure."""
    seen: list[str] = []

    def locked(name, original):
        def call(*arguments):
            with (home / "ledger" / retention_files.LOCK).open("r") as file, pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen.append(name)
            return original(*arguments)

        monkeypatch.setattr(f"extproc.commands.ledger_retention.{name}", call)

    for name in ("retention_lines", "plan_purge", "erase", "_retention_writer"):
        locked(name, getattr(ledger_retention, name))
    assert run(home, "purge", "--older-than", "1d").stdout.startswith("12 payloads")
    assert seen == ["retention_lines", "plan_purge", "_retention_writer", "erase", "erase"]
    assert run(home, "hold", "add", "--reason", "case 17").exit_code == 0
    assert seen[5:] == ["_retention_writer"]
    assert verdicts(home) == [[], []]


def test_a_hold_on_a_person_covers_an_answer_although_a_record_of_the_same_decision_came_before_it(home):
    writer = open_writer(home / "ledger", "worker1-a-1")
    writer.append(intent(20, principal=ANN))
    writer.append(Record("hold.released", START + 20, {"decision_id": "d20", "hold": "h-1"}))
    kept = outcome(20)
    writer.append(Record(kept.kind, kept.at, kept.fields, {"response": b'{"rows":"ann\'s masked"}'}))
    writer.close()
    run(home, "hold", "add", "--principal", "ann@bank.example", "--reason", "case 17")
    run(home, "purge", "--older-than", "1d", "--except-held")
    assert b"ann's masked" in payload_bytes(home)


def test_a_hold_on_a_person_covers_an_answer_of_which_nobody_knows_who_asked(home):
    writer = open_writer(home / "ledger", "worker1-a-1")
    kept = outcome(20)
    writer.append(Record(kept.kind, kept.at, kept.fields, {"response": b'{"rows":"whose masked"}'}))
    writer.close()
    run(home, "hold", "add", "--principal", "ann@bank.example", "--reason", "case 17")
    run(home, "purge", "--older-than", "1d", "--except-held")
    assert b"whose masked" in payload_bytes(home)


def test_an_entry_that_claims_more_than_its_line_says_takes_no_neighbour_with_it(home):
    (path,) = (home / "ledger").glob("worker*/*.payloads")
    data = bytearray(path.read_bytes())
    data[8:16] = (1000).to_bytes(8, "big")
    path.write_bytes(data)
    result = run(home, "purge", "--older-than", "1d", "--payload", "request")
    assert result.exit_code == 1
    assert "1 payloads are not what their lines say" in result.stderr
    assert result.stdout.startswith("9 payloads")
    assert payload_bytes(home).count(b'{"rows":"masked"}') == 2  # the responses are as they were
    assert [codes[:1] for codes in verdicts(home)] == [["payload-mismatch"], ["payload-mismatch"]]
