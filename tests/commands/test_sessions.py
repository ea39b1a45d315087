"""`extproc sessions` and `extproc why` on small real ledgers."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from extproc.adapters.ledger_verify import verify_directory
from extproc.cli import main
from extproc.domain.record import Record
from extproc.ledger.exchanges import COLUMNS, csv_cell
from tests.support.books import KEY, START, intent, open_writer, outcome, sign_now

PRINCIPAL = {
    "issuer": "https://issuer.example",
    "kind": "agent",
    "subject": "clerk",
    "person": "clerk@bank.example",
}
STATEMENT = {
    "text": "SELECT card FROM shop.orders",
    "tables_read": ["shop.orders"],
    "tables_written": [],
    "effects": ["read"],
    "verbs": ["SELECT"],
}


@pytest.fixture
def ledger(tmp_path):
    """An allowed request, a denied one, a database session with a held statement, and one without an outcome."""
    directory = tmp_path / "ledger"
    supervisor = open_writer(directory, "supervisor-a-1")
    activated = {"policy": "cd" * 32, "author": "git:abc", "before": "", "files": []}
    supervisor.append(Record("policy.activated", START - 5, activated))
    supervisor.close()
    writer = open_writer(directory)
    writer.append(intent(0))
    writer.append(outcome(0))
    denied = {"rule": "files/no-deletes", "digest": "ef" * 32, "effect": "deny", "risk": 5}
    writer.append(intent(1, verdict="deny", code="rule-denied", rules=[denied], target="files-api"))
    writer.append(outcome(1, executed=False, end="refused", reason="rule-denied", response={"code": 403}))
    database = {
        "session_id": "ses",
        "target": "orders-db",
        "protocol": "postgres",
        "principal": PRINCIPAL,
        "connection": {"user": "clerk", "database": "shop", "source": "192.0.2.7:5000"},
        "request": {},
    }
    writer.append(intent(2, operation="login", rules=[], **database))
    votes = {"id": "h-1", "state": "released", "grant": {"id": "g-1", "use": 1, "uses": 2, "scope": "shape"}}
    writer.append(
        intent(
            3,
            operation="statement",
            code="released",
            hold=votes,
            statement=STATEMENT,
            masks=["m/pii"],
            **database,
        )
    )
    rows = {"code": 0, "rows": 3, "bytes": 90, "masked": {"orders.card": 3}, "inspected": "full"}
    writer.append(outcome(3, session_id="ses", operation="statement", response=rows))
    writer.append(outcome(2, session_id="ses", operation="login", response={"code": 0, "statements": 1}))
    writer.append(intent(4, principal={"subject": "=cmd()", "issuer": "i", "kind": "agent"}))
    writer.commit()
    writer.close()
    approvals = open_writer(directory, "approvals-a-1")
    opened = {"hold": "h-1", "decision_id": "d3", "session_id": "ses", "requester": PRINCIPAL}
    approvals.append(Record("hold.opened", START + 2.1, opened))
    olga = {"subject": "olga", "kind": "human"}
    vote = {"hold": "h-1", "approver": olga, "vote": "approve", "reason": "CHG-7"}
    approvals.append(Record("hold.vote", START + 2.2, vote))
    approvals.close()
    sign_now(directory)
    return directory


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def rows(ledger: Path, *filters: object):
    result = run("sessions", "export", "--dir", ledger, *filters)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


FILTERS = {
    "principal": (["--principal", "clerk"], {"d2", "d3"}),
    "person": (["--principal", "clerk@bank.example"], {"d2", "d3"}),
    "issuer and subject": (["--principal", "https://issuer.example|agent-1"], {"d1"}),
    "principal with a star": (["--principal", "AGENT-*"], {"d0", "d1"}),
    "target": (["--target", "files-api"], {"d1"}),
    "rule": (["--rule", "no-deletes"], {"d1"}),
    "rule with its file": (["--rule", "files/*"], {"d1"}),
    "verdict": (["--verdict", "deny"], {"d1"}),
    "two verdicts": (["--verdict", "deny", "--verdict", "allow"], {"d0", "d1", "d2", "d3", "d4"}),
    "code": (["--code", "released"], {"d3"}),
    "entity": (["--entity", "EMAIL_*"], {"d0"}),
    "masked column": (["--entity", "*.card"], {"d3"}),
    "table": (["--table", "orders"], {"d3"}),
    "table with its schema": (["--table", "shop.orders"], {"d3"}),
    "hold": (["--hold", "h-1"], {"d3"}),
    "grant": (["--hold", "g-1"], {"d3"}),
    "trace": (["--trace", f"{2:032x}"], {"d1"}),
    "session": (["--session", "ses"], {"d2", "d3"}),
    "text": (["--text", "CARD from"], {"d3"}),
    "from": (["--from", "2026-11-23T17:50:02+00:00"], {"d2", "d3", "d4"}),
    "to": (["--to", "2026-11-23T17:50:01Z"], {"d0"}),
    "from long ago": (["--from", "2026-11-01"], {"d0", "d1", "d2", "d3", "d4"}),
    "two at once": (["--principal", "clerk", "--text", "card"], {"d3"}),
    "nothing": (["--principal", "nobody"], set()),
}


@pytest.mark.parametrize("case", FILTERS.values(), ids=FILTERS.keys())
def test_a_filter_finds_what_it_names(ledger, case):
    filters, found = case
    assert {row["decision_id"] for row in rows(ledger, *filters)} == found


def test_an_exchange_is_one_row_with_the_records_it_stands_on(ledger):
    (row,) = rows(ledger, "--hold", "h-1")
    assert tuple(row) == COLUMNS
    assert (row["request"], row["tables"], row["masked"], row["grant"]) == (
        "SELECT card FROM shop.orders",
        "shop.orders",
        "orders.card=3",
        "g-1",
    )
    assert (row["verdict"], row["code"], row["executed"], row["source"]) == (
        "allow",
        "released",
        True,
        "192.0.2.7:5000",
    )
    assert row["record"].startswith("worker0-a-1:")
    assert len(row["hash"]) == len(row["outcome_hash"]) == 64


def test_an_exchange_without_an_outcome_is_there_and_says_so(ledger):
    (row,) = rows(ledger, "--trace", f"{5:032x}")
    assert (row["end"], row["executed"], row["outcome_record"]) == ("unknown", None, "")


def test_csv_has_the_same_rows_and_no_formula(ledger, tmp_path):
    path = tmp_path / "out.csv"
    assert run("sessions", "export", "--dir", ledger, "--format", "csv", "-o", path).exit_code == 0
    found = list(csv.DictReader(io.StringIO(path.read_text())))
    expected = [{name: csv_cell(value) for name, value in row.items()} for row in rows(ledger)]
    assert found == expected
    assert "'=cmd()" in [row["principal"] for row in found]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx"])
def test_text_that_a_spreadsheet_would_run_is_disarmed(text):
    assert csv_cell(text) == "'" + text
    assert csv_cell(-1) == "-1"
    assert csv_cell(None) == ""


def test_list_sums_a_session_up(ledger):
    result = run("sessions", "list", "--dir", ledger, "--json")
    session = {found["session_id"]: found for found in json.loads(result.stdout)}["ses"]
    assert (session["exchanges"], session["verdicts"], session["masked"], session["rows"]) == (
        1,
        {"allow": 1},
        3,
        3,
    )
    shown = run("sessions", "list", "--dir", ledger, "-n", 1)
    assert len(shown.stdout.splitlines()) == 1
    assert "the latest 1 of 4" in shown.stderr


def test_show_tells_a_session_in_order_with_its_approvals(ledger):
    lines = run("sessions", "show", "ses", "--dir", ledger).stdout.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["allow", "hold.opened", "hold.vote", "allow"]
    assert "by olga vote=approve reason=CHG-7" in lines[3]
    found = json.loads(run("sessions", "show", "ses", "--dir", ledger, "--json").stdout)
    assert [row["decision_id"] for row in found["exchanges"]] == ["d2", "d3"]
    assert run("sessions", "show", "nobody", "--dir", ledger).exit_code == 1


def test_why_tells_who_asked_which_rule_who_approved_and_where_it_stands(ledger):
    text = run("why", "d3", "--dir", ledger).stdout
    for part in (
        "d3: allow (released)",
        "asked by clerk (agent, https://issuer.example)",
        "on behalf of clerk@bank.example",
        "for SELECT card FROM shop.orders on orders-db",
        "rule readers allows it",
        f"policy {'cd' * 32} in force since 2026-11-23T17:49:55.000000Z, by git:abc",
        "hold.vote h-1 by olga vote=approve reason=CHG-7",
        "mask plans: m/pii",
        "masked: orders.card=3",
        "it ran",
        "under checkpoint 0",
    ):
        assert part in text
    denied = run("why", f"{2:032x}", "--dir", ledger).stdout
    assert "rule files/no-deletes denies it, risk 5" in denied
    assert "refused, it did not run, status 403, reason rule-denied" in denied
    assert run("why", "h-1", "--dir", ledger, "--json").exit_code == 0
    assert run("why", "nothing", "--dir", ledger).exit_code == 1


def test_what_is_not_under_a_checkpoint_is_said_to_be(ledger):
    writer = open_writer(ledger, "worker1-a-1")
    writer.append(intent(9))
    writer.append(outcome(9))
    writer.close()
    assert run("why", "d9", "--dir", ledger).stdout.count("not under any checkpoint yet") == 2


def test_nothing_recorded_can_steer_the_terminal(tmp_path):
    writer = open_writer(tmp_path / "ledger")
    evil = "/\x1b[2J\u202e\r\n\x9b1m"
    writer.append(intent(0, request={"method": "GET", "path": evil}, principal={"subject": evil}, code=evil))
    writer.append(outcome(0, reason=evil))
    writer.close()
    place = ("--dir", tmp_path / "ledger")
    shown = (
        run("sessions", "list", *place).stdout
        + run("sessions", "show", "s0", *place).stdout
        + run("why", "d0", *place).stdout
    )
    assert shown.count("\\u{1B}[2J\\u{202E}") > 4
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_a_bad_time_is_wrong_usage(ledger):
    assert run("sessions", "list", "--dir", ledger, "--from", "yesterday").exit_code == 2
    assert run("sessions", "list", "--dir", ledger / "nowhere").exit_code == 3


def test_damaged_lines_are_passed_over(ledger):
    path = ledger / "worker0-a-1" / "000000000000.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"v":1', b'{"v":2', 1) + b"{torn")
    assert len(rows(ledger)) == 5


def test_a_segment_before_the_range_is_not_read(tmp_path):
    writer = open_writer(tmp_path, segment_bytes=3000)
    for number in range(0, 200_000, 10_000):
        writer.append(intent(number))
        writer.append(outcome(number))
        writer.commit()
    writer.close()
    first, *others = sorted((tmp_path / "worker0-a-1").glob("*.jsonl"))
    assert len(others) > 3
    first.write_bytes(b"rubbish\n" * 10)
    late = rows(tmp_path, "--from", "2026-11-25T20:00:00Z")
    assert late
    assert len(late) < 20


def test_tail_follows_what_is_added(ledger):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "extproc.cli",
            "sessions",
            "tail",
            "--dir",
            str(ledger),
            "--verdict",
            "deny",
            "--json",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["decision_id"] == "d1"
        writer = open_writer(ledger, "worker1-a-1")
        for number, verdict in ((7, "allow"), (8, "deny")):
            writer.append(intent(number, verdict=verdict))
            writer.append(outcome(number))
        writer.close()
        assert json.loads(process.stdout.readline())["decision_id"] == "d8"
    finally:
        process.kill()
        process.wait()


# ------------------------------------------------------------------ readings are records

CONFIG = """\
apiVersion: extproc/v1
kind: Config
state: state
ledger: {directory: %s}
processor: {listen: unix:processor.sock}
listeners:
- {name: http, address: 127.0.0.1:18080, routes: [{prefix: /, target: api}]}
targets:
- {name: api, kind: http, upstream: {address: 127.0.0.1:18081, tls: 'off'}}
identity:
  providers:
  - {name: p, issuer: 'http://127.0.0.1:1', audiences: [api], keys: {discovery: true}, insecure_loopback: true}
policies: {folders: [policies]}
approvals: {listen: unix:approvals.sock, clients: [c]}
"""


@pytest.fixture
def config(ledger, tmp_path):
    (tmp_path / "policies").mkdir()
    path = tmp_path / "extproc.yaml"
    path.write_text(CONFIG % ledger)
    return path


READINGS = {
    "list": (["sessions", "list", "--principal", "clerk"], "evidence.searched"),
    "export": (["sessions", "export"], "evidence.searched"),
    "show": (["sessions", "show", "ses"], "evidence.session_read"),
    "why": (["why", "d3"], "evidence.record_read"),
    "ledger show": (["ledger", "show", "d3"], "evidence.record_read"),
    "ledger tail": (["ledger", "tail"], "evidence.searched"),
}


@pytest.mark.parametrize("reading", READINGS.values(), ids=READINGS.keys())
def test_a_reading_of_the_services_own_ledger_is_a_record(ledger, config, reading):
    command, kind = reading
    assert run(*command, "--config", config).exit_code == 0
    (path,) = ledger.glob("reader-*/*.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["kind"] for record in records] == ["start", kind, "stop"]
    assert records[1]["by"] == {"uid": os.getuid()}
    assert verify_directory(ledger, KEY.key).ok


CARD = "4111111111111111"
OUR_SESSION = f"ses_{CARD}{CARD}"


@pytest.mark.parametrize(
    "command",
    [
        ("sessions", "list", "--text", CARD, "--principal", "anna@example.com"),
        ("sessions", "export", "--text", CARD),
        ("sessions", "show", CARD),
    ],
)
def test_what_somebody_looks_for_is_masked_in_the_record(ledger, config, command):
    run(*command, "--config", config)
    (path,) = ledger.glob("reader-*/*.jsonl")
    text = path.read_text()
    assert "evidence." in text
    assert CARD not in text and "anna@" not in text


def test_an_id_of_ours_is_recorded_as_it_is(ledger, config):
    run("sessions", "show", OUR_SESSION, "--config", config)
    (path,) = ledger.glob("reader-*/*.jsonl")
    assert OUR_SESSION in path.read_text()


def test_a_reading_of_files_writes_nothing(ledger):
    before = sorted(ledger.rglob("*"))
    assert run("sessions", "list", "--dir", ledger).exit_code == 0
    assert sorted(ledger.rglob("*")) == before


def test_what_cannot_be_recorded_is_not_shown(ledger, config, monkeypatch):
    from extproc.domain.errors import LedgerUnavailableError

    def fail(*_: object) -> None:
        raise LedgerUnavailableError("the disk is full")

    monkeypatch.setattr("extproc.app.ledgers.open_ledger", fail)
    result = run("why", "d3", "--config", config)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "cannot be recorded" in result.stderr


def test_times_before_now_are_understood():
    from extproc.commands.ledger_place import parse_moment

    now = time.time()
    assert parse_moment("2h", now) == now - 7200
    assert parse_moment("2026-11-23", now) == 1795392000.0


# ------------------------------------------------------------------ backtest

POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: p}
target: customers-api
default: deny
rules:
- {name: reads, when: 'request.method == "GET"', then: {allow: {}}}
- {name: big, when: 'request.json.amount > 5', then: {hold: {approvers: {all_of: [{group: g, count: 1}]}}}}
- {name: nobody, when: 'principal.subject == "=cmd()"', then: {deny: {}}}
"""


def test_a_backtest_shows_what_changes_and_what_nobody_can_tell(ledger, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(POLICY)
    command = ("policy", "backtest", "--dir", ledger, "--since", "2026-11-01", "--policy", path)
    found = json.loads(run(*command, "--json").stdout)
    assert found["changed"] == [{"before": "allow", "after": "deny", "count": 1}]
    assert found["uncertain"] == [{"before": "allow", "after": "allow or hold", "count": 1}]
    assert found["not_compared"] == {
        "a login, which rules do not judge": 1,
        "a target that the other policies do not know": 2,
    }
    assert {one["decision_id"]: one["missing"] for one in found["exchanges"]} == {
        "d0": ["request.json"],
        "d4": [],
    }
    text = run(*command)
    assert (
        "allow -> deny by p/nobody, p/reads" in text.stdout
        or "allow -> deny by p/reads, p/nobody" in text.stdout
    )
    assert run(*command, "--fail-on-change").exit_code == 1
    path.write_text(POLICY.replace("allow: {}", "allw: {}"))
    assert run(*command).exit_code == 1
