"""A packet verifies alone, hides what it must, and every number on its page can be computed again."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
import warnings
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.adapters.checkpointer import Checkpointer
from extproc.adapters.ledger_verify import verify_directory
from extproc.app.evidence import Asked, EvidenceError, export, granted, load_controls
from extproc.cli import main
from extproc.config import load_config
from extproc.config.load import parse_config
from extproc.domain.record import Record
from extproc.ledger.alone import verify as alone
from extproc.ledger.alone.verify import Report, parse_key, show, verify_packet, verify_record
from extproc.ledger.checkpoint import Clock
from extproc.ledger.evidence.numbers import as_text, evaluate
from extproc.ledger.evidence.packet import build_zip, sign_manifest, table_files
from extproc.ledger.evidence.tables import TABLES
from extproc.ledger.exchanges import csv_cell
from extproc.ledger.lines import Chain
from extproc.ledger.note import NoteKey
from tests.commands.test_sessions import CONFIG
from tests.support.books import (
    KEY,
    OTHER_KEY,
    START,
    Ticking,
    fill,
    intent,
    kill,
    open_writer,
    outcome,
    sign_now,
)
from tests.support.packets import Page, check_numbers, files_of, tables_of

POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: p}
target: customers-api
rules:
- {name: readers, when: 'true', then: {allow: {}}}
- {name: never, when: 'false', then: {deny: {}}}
"""
ANN = {
    "issuer": "https://i",
    "subject": "ann",
    "kind": "human",
    "person": "ann@bank.example",
    "groups": ["dba"],
}
BOT = {
    "issuer": "https://i",
    "subject": "bot",
    "kind": "agent",
    "person": "bot@bank.example",
    "groups": ["agents"],
}
EVIL = "</td><script>alert(1)</script>\u202e\x1b[2J"
MIDDLE = Asked("2026-11-23T17:50:03.000000Z", "2026-11-23T17:50:07.000000Z", reason="the audit")
WHOLE = Asked("2026-11-23T00:00:00.000000Z", "2026-11-23T17:51:00.000000Z", reason="the audit")


def hold(number: int, approver, **fields) -> list[Record]:
    at, name = START + number, f"h-{number}"
    opened = {
        "hold": name, "decision_id": f"d{number}", "session_id": f"s{number}", "requester": BOT,
        "target": "customers-api", "rules": ["p/wait"], "approvers": [{"group": "dba", "count": 1}], **fields,
    }  # fmt: skip
    return [
        Record("hold.opened", at, opened, {"view": b'{"raw":"DELETE 1"}'}),
        Record(
            "hold.vote", at + 0.1, {"hold": name, "approver": approver, "vote": "approve", "reason": "CHG-1"}
        ),
        Record("hold.approved", at + 0.1, {"hold": name}),
        Record("hold.released", at + 0.2, {"hold": name, "decision_id": f"d{number}"}),
    ]


def fill_ledger(directory: Path, approver=ANN) -> None:
    """Ten exchanges over ten seconds at two targets, a hold, a policy, somebody who reads; signed in three steps."""
    supervisor = open_writer(directory, "supervisor-a-1", clock=lambda: START - 10)
    activated = {
        "policy": "cd" * 32,
        "author": "git:abc",
        "before": "",
        "files": [{"name": "p", "digest": "x"}],
    }
    supervisor.append(
        Record("policy.activated", START - 5, activated, {"sources": json.dumps({"p": POLICY}).encode()})
    )
    loadings = [{"state": "a", "workers": 1}, {"state": "a", "workers": 2}]
    for at, loaded in zip((START - 6, START + 5), loadings, strict=True):
        fields = {"digest": f"sha256:{loaded['workers']}", "size": 1}
        supervisor.append(Record("config.loaded", at, fields, {"settings": json.dumps(loaded).encode()}))
    supervisor.commit()
    clock = [START - 1]
    worker = open_writer(directory, clock=lambda: clock[0])
    approvals = open_writer(directory, "approvals-a-1", clock=lambda: clock[0])
    checkpointer = Checkpointer(
        directory, KEY, clock=lambda: clock[0], clock_state=lambda: Clock("kernel", 5)
    )
    for number in range(10):
        fields = {"target": "secret-db", "principal": ANN} if number % 3 == 2 else {"principal": BOT}
        if number == 5:
            fields |= {"verdict": "deny", "code": "rule-denied", "request": {"method": "GET", "path": EVIL}}
        if number == 8:
            fields |= {"hold": {"id": "h-8", "state": "waiting"}}
        if number == 4:
            fields |= {
                "hold": {"id": "h-4", "state": "released"},
                "code": "released",
                "target": "customers-api",
            }
            for record in hold(4, approver):
                approvals.append(record)
            approvals.commit()
        worker.append(intent(number, **fields))
        worker.append(outcome(number, executed=number != 5))
        worker.commit()
        if number in (1, 6, 9):
            while checkpointer.look():
                pass
            clock[0] = START + number + 0.5
            checkpointer.sign()
    by = {"uid": 7}
    approvals.append(Record("admin.refused", START + 8, {"by": BOT, "code": "self_approval", "hold": "h-4"}))
    approvals.append(Record("evidence.record_read", START + 8, {"by": by, "asked": "d1"}))
    looked = [
        {"where": "answer", "bytes": 9, "found": []},
        {"where": "records", "bytes": 7, "found": []},
    ]
    approvals.append(
        Record(
            "evidence.canary",
            START + 8,
            {"by": by, "seed": "5e", "looked": looked, "known": 1, "recorded": True},
        )
    )
    asked_by = {"by": "signal", "uid": 7}
    supervisor.append(Record("admin.roll_refused", START + 8, {"error": "a mistake", "asked_by": asked_by}))
    failed = {"error": "worker-0 is not ready", "replaced": [], "left": ["worker-0"]}
    supervisor.append(Record("admin.roll_failed", START + 8, failed))
    for writer in (worker, approvals, supervisor):
        writer.close()
    checkpointer.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    fill_ledger(folder / "ledger")
    (folder / "policies").mkdir()
    (folder / "extproc.yaml").write_text(CONFIG % (folder / "ledger"))
    return folder


def make(home: Path, asked: Asked) -> bytes:
    """Export while a checkpointer works, as it does beside a running service."""
    stop = threading.Event()
    checkpointer = Checkpointer(
        home / "ledger",
        KEY,
        clock=Ticking(START + 100),
        clock_state=lambda: Clock("kernel", 5),
        sign_every=0.0,
    )
    thread = threading.Thread(target=checkpointer.run, args=(stop,))
    thread.start()
    try:
        return export(home / "ledger", asked, load_config(home / "extproc.yaml"))[1]
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def whole(home):
    return make(home, WHOLE)


@pytest.fixture(scope="module")
def middle(home):
    return make(home, MIDDLE)


@pytest.fixture(scope="module")
def one_target(home):
    return make(home, Asked(WHOLE.since, WHOLE.until, target="customers-api"))


def check(data: bytes, tmp_path: Path, key: object = KEY.key) -> Report:
    path = tmp_path / "packet.zip"
    path.write_bytes(data)
    report = Report()
    verify_packet(path, parse_key(str(key)), report)
    return report


PACKETS = ["whole", "middle", "one_target"]


@pytest.mark.parametrize("name", PACKETS)
def test_bare_python_verifies_a_packet_as_a_zip_and_unpacked(name, request, tmp_path):
    (tmp_path / "packet.zip").write_bytes(request.getfixturevalue(name))
    with zipfile.ZipFile(tmp_path / "packet.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    bare = [sys.executable, "-I", "-S", "verify.py", "--key", str(KEY.key)]
    for arguments in ([], [str(tmp_path / "packet.zip")]):
        done = subprocess.run(
            [*bare, *arguments], cwd=tmp_path / "unpacked", capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "not checked" not in done.stdout
        assert "checkpoints:" in done.stdout


def test_a_period_has_one_record_on_each_side_and_the_policy_in_force(middle):
    files = files_of(middle)
    lines = [json.loads(line) for line in files["ledger/records.jsonl"].splitlines()]
    worker = [line["seq"] for line in lines if line["writer"] == "worker0-a-1"]
    assert worker == list(range(worker[0], worker[-1] + 1))
    inside = [
        line
        for line in lines
        if line["writer"] == "worker0-a-1" and MIDDLE.since <= line["at"] < MIDDLE.until
    ]
    assert [line["decision_id"] for line in inside if line["kind"] == "intent"] == ["d3", "d4", "d5", "d6"]
    assert len(worker) == len(inside) + 2
    tables = tables_of(middle)
    assert [row["decision_id"] for row in tables["exchanges"]] == ["d3", "d4", "d5", "d6"]
    assert [row["policy"] for row in tables["policies"]] == ["cd" * 32]
    assert "+- {name: readers" in tables["policies"][0]["change"]
    assert json.loads(files["ledger/proof.json"])["before"]["checkpoint"] == 0


def test_borders_that_are_only_hashes_are_said_to_be_unchecked(home, tmp_path):
    asked = Asked(MIDDLE.since, MIDDLE.until, target="customers-api")
    report = check(make(home, asked), tmp_path)
    assert report.problems == []
    assert [gap.split(":")[0] for gap in report.unchecked] == ["worker0-a-1"]


def test_a_packet_of_one_target_shows_nothing_of_others(one_target, tmp_path):
    report = check(one_target, tmp_path)
    assert report.problems == []
    assert report.counts["records shown by their hash only"] > 5
    everything = b"".join(files_of(one_target).values())
    assert b"customers-api" in everything
    assert b"secret-db" not in everything
    assert b'"decision_id": "d2"' not in everything
    assert {row["target"] for row in tables_of(one_target)["exchanges"]} == {"customers-api"}


# ------------------------------------------------------------------ the page


@pytest.mark.parametrize("name", PACKETS)
def test_every_number_on_the_page_is_computed_from_the_tables(name, request):
    assert check_numbers(files_of(request.getfixturevalue(name))) > 80


def test_csv_and_json_lines_say_the_same(whole):
    files = files_of(whole)
    for name, rows in tables_of(whole).items():
        found = list(csv.reader(io.StringIO(files[f"tables/{name}.csv"].decode("utf-8-sig"))))
        assert found[0] == list(TABLES[name].columns)
        assert found[1:] == [[csv_cell(row[column]) for column in TABLES[name].columns] for row in rows]
        assert all(tuple(row) == TABLES[name].columns for row in rows) or name in (
            "approvals",
            "sample",
            "policies",
        )


def test_rolls_that_were_refused_or_failed_are_exceptions(whole):
    found = {row["what"]: row for row in tables_of(whole)["exceptions"]}
    refused, failed = found["admin.roll_refused"], found["admin.roll_failed"]
    assert (refused["detail"], refused["principal"]) == ("error=a mistake", "uid:7")
    assert failed["detail"] == "error=worker-0 is not ready left=worker-0 replaced="


@pytest.mark.parametrize(("ends", "silent"), [("stop", 0), ("killed", 1), ("killed before", 1)])
def test_a_writer_that_was_replaced_while_it_ran_is_judged_by_its_own_end(tmp_path, ends, silent):
    clock = Ticking(START)
    old = open_writer(tmp_path / "ledger", "worker0-a-1", clock=clock)
    fill(old, 1)
    if ends == "killed before":
        kill(old)
    new = open_writer(tmp_path / "ledger", "worker0-b-1", clock=clock)
    if ends != "killed before":
        fill(old, 1)
    old.close() if ends == "stop" else kill(old)
    new.close()
    sign_now(tmp_path / "ledger")
    (tmp_path / "policies").mkdir()
    (tmp_path / "extproc.yaml").write_text(CONFIG % (tmp_path / "ledger"))
    packet = make(tmp_path, WHOLE)
    (row,) = [
        row for row in tables_of(packet)["gaps"] if row["gap"] == "writers that ended without saying so"
    ]
    assert row["count"] == silent
    assert check(packet, tmp_path).problems == []


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(whole):
    text = files_of(whole)["index.html"].decode()
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "form"})
    assert all(found.get("href", "#").startswith("#") for _, found in page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "&lt;script&gt;" in text  # what was recorded is shown as text


def test_expectations_are_computed_not_asserted(whole, tmp_path):
    assert "not as expected" not in files_of(whole)["index.html"].decode()
    fill_ledger(tmp_path / "ledger", approver={**ANN, "person": BOT["person"]})
    _, data = export(tmp_path / "ledger", WHOLE, None)
    (row,) = tables_of(data)["approvals"]
    assert (row["separate"], row["enough"]) == (False, False)
    assert "not as expected" in files_of(data)["index.html"].decode()


def test_the_dossier_says_who_asked_who_agreed_and_what_ran(whole):
    (row,) = tables_of(whole)["approvals"]
    assert row["requester_person"] == "bot@bank.example"
    assert row["approvers"] == "ann@bank.example"
    assert (row["separate"], row["enough"], row["executed"]) == (True, True, True)
    assert (row["reasons"], row["view"], row["used_by"]) == ("CHG-1", '{"raw":"DELETE 1"}', "d4")


def test_settings_are_shown_as_they_were_with_what_changed(middle):
    first, second = tables_of(middle)["configuration"]
    assert json.loads(first["settings"])["workers"] == 1  # in force when the period began
    assert '- "workers": 1' in second["change"]
    assert '+ "workers": 2' in second["change"]


def test_a_reviewed_sheet_comes_back_as_a_record(home, tmp_path):
    sheet = tmp_path / "access.csv"
    sheet.write_text("principal,keep,reviewer\nbot,yes,ann\n")
    given = (
        "--packet",
        "evd_1",
        "--reviewer",
        "ann",
        "--decision",
        "all rights stay",
        "--config",
        home / "extproc.yaml",
    )
    assert run("sign-off", sheet, *given).stdout.strip() == sha256(sheet.read_bytes()).hexdigest()
    records = [
        json.loads(line)
        for path in home.glob("ledger/reader-*/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    (record,) = [record for record in records if record["kind"] == "evidence.reviewed"]
    assert (record["reviewer"], record["decision"], record["payloads"]["sheet"]["size"]) == (
        "ann",
        "all rights stay",
        len(sheet.read_bytes()),
    )
    assert record["sha256"] == sha256(sheet.read_bytes()).hexdigest()
    assert verify_directory(home / "ledger", KEY.key).ok


def test_granted_is_set_beside_used(whole):
    rules = {row["rule"]: row for row in tables_of(whole)["rules"]}
    assert (rules["p/never"]["used"], rules["p/never"]["effect"], rules["p/never"]["target"]) == (
        False,
        "deny",
        "customers-api",
    )
    assert rules["readers"]["used"] is True


def test_a_rule_is_granted_at_the_targets_that_its_policy_selects_and_no_other(home, tmp_path):
    """Labels alone are not enough where the policy names a kind as well."""
    targets = (
        "- {name: db, kind: mysql, labels: {env: x}, upstream: {address: 'unix:my.sock'},"
        " database: {roles: {'*': {user: app}}}}\n"
        "- {name: web, kind: http, labels: {env: x}, upstream: {address: 127.0.0.1:18083, tls: 'off'}}\n"
    )
    known = parse_config(
        (home / "extproc.yaml").read_text().replace("identity:", f"{targets}identity:"), base=tmp_path
    )
    for selector, chosen in (
        ("{kind: mysql, labels: {env: x}}", ["db"]),
        ("{labels: {env: x}}", ["db", "web"]),
        ("{kind: postgres, labels: {env: x}}", ["kind=postgres env=x"]),
    ):
        sources = {"p": POLICY.replace("target: customers-api", f"target: {selector}")}
        assert [target for rule, target, _ in granted(sources, known) if rule == "p/readers"] == chosen


def test_the_sample_can_be_drawn_again(whole):
    tables = tables_of(whole)
    seed = json.loads(files_of(whole)["manifest.json"])["sample"]["seed"]
    ids = sorted(
        (row["decision_id"] for row in tables["exchanges"]),
        key=lambda i: sha256(f"{seed}{i}".encode()).hexdigest(),
    )
    assert [row["decision_id"] for row in tables["sample"]] == ids[:25]
    assert tables["sample"][0]["kept_request"].startswith('{"body":"masked')


def test_readings_and_the_export_itself_are_in_the_ledger(home, whole, one_target):
    kinds = [row["kind"] for row in tables_of(whole)["administration"]]
    assert "evidence.record_read" in kinds
    records = [
        json.loads(line)
        for path in home.glob("ledger/evidence-*/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    exported = [record for record in records if record["kind"] == "evidence.exported"]
    assert sha256(whole).hexdigest() in [record["sha256"] for record in exported]
    exporting = [record for record in records if record["kind"] == "evidence.exporting"]
    assert {record["reason"] for record in exporting} == {"the audit", ""}
    assert verify_directory(home / "ledger", KEY.key).ok


# ------------------------------------------------------------------ tampering


def remake(files: dict[str, bytes], *, signer=None) -> bytes:
    """The packet with its manifest made anew, and perhaps signed anew."""
    manifest = json.loads(files["manifest.json"])
    for one in manifest["files"]:
        data = files.get(one["name"], b"")
        one |= {"size": len(data), "sha256": sha256(data).hexdigest()}
    files["manifest.json"] = json.dumps(manifest).encode()
    if signer is not None:
        files["manifest.note"] = sign_manifest(files["manifest.json"], manifest["packet"], signer)
    return build_zip(files)


def change_line(files, at, old, new):
    lines = files["ledger/records.jsonl"].splitlines(keepends=True)
    assert old in lines[at]
    lines[at] = lines[at].replace(old, new, 1)
    files["ledger/records.jsonl"] = b"".join(lines)


def index_of(files, kind: bytes) -> int:
    lines = files["ledger/records.jsonl"].splitlines()
    return next(at for at, line in enumerate(lines) if b'"kind":"%b"' % kind in line)


def edit(files):
    change_line(files, index_of(files, b"outcome"), b'"code":200', b'"code":201')


def drop_line(files):
    lines = files["ledger/records.jsonl"].splitlines(keepends=True)
    del lines[index_of(files, b"outcome")]
    files["ledger/records.jsonl"] = b"".join(lines)


def hide_line(files):
    """Replaced by a hash, but another's."""
    lines = files["ledger/records.jsonl"].splitlines(keepends=True)
    line = json.loads(lines.pop(index_of(files, b"outcome")))
    files["ledger/records.jsonl"] = b"".join(lines)
    files["ledger/hidden.jsonl"] = (
        json.dumps({"writer": line["writer"], "seq": line["seq"], "hash": "ab" * 32}).encode() + b"\n"
    )


def swap_payload(files):
    files["ledger/payloads.jsonl"] = files["ledger/payloads.jsonl"].replace(b"DELETE 1", b"SELECT 1")


def drop_writer(files):
    proof = json.loads(files["ledger/proof.json"])
    proof["ranges"] = [one for one in proof["ranges"] if one["writer"] != "approvals-a-1"]
    files["ledger/proof.json"] = json.dumps(proof).encode()


def shorten_range(files):
    """The last exchanges of the period are left out, with a proof that fits what is left."""
    from extproc.ledger.merkle import prove_range

    lines = [line for line in files["ledger/records.jsonl"].splitlines() if b'"writer":"worker0-a-1"' in line]
    hashes = [sha256(line).digest() for line in lines]
    proof = json.loads(files["ledger/proof.json"])
    (one,) = [one for one in proof["ranges"] if one["writer"] == "worker0-a-1"]
    assert one["first"] == 0
    one["last"] -= 4
    one["proof"] = [node.hex() for node in prove_range(hashes, 0, one["last"] + 1)]
    files["ledger/proof.json"] = json.dumps(proof).encode()


def grow_heads(files):
    proof = json.loads(files["ledger/proof.json"])
    proof["after"]["heads"][0][1] += 1
    files["ledger/proof.json"] = json.dumps(proof).encode()


def drop_notes(files):
    files["ledger/checkpoints.log"] = b""


def break_note(files):
    files["ledger/checkpoints.log"] = files["ledger/checkpoints.log"].replace(b"records 1", b"records 2")


def lie_about_a_verdict(files):
    files["tables/exchanges.jsonl"] = files["tables/exchanges.jsonl"].replace(
        b'"verdict": "deny"', b'"verdict": "allow"'
    )


def leave_out_an_exchange(files):
    lines = files["tables/exchanges.jsonl"].splitlines(keepends=True)
    files["tables/exchanges.jsonl"] = b"".join(lines[1:])


def invent_an_exchange(files):
    lines = files["tables/exchanges.jsonl"].splitlines(keepends=True)
    row = json.loads(lines[0]) | {"record": "worker0-a-1:999"}
    files["tables/exchanges.jsonl"] = b"".join([*lines, json.dumps(row).encode() + b"\n"])


def lie_about_an_approver(files):
    files["tables/approvals.jsonl"] = files["tables/approvals.jsonl"].replace(
        b'"ann@bank.example"', b'"bob@bank.example"'
    )


def leave_out_a_hold(files):
    files["tables/approvals.jsonl"] = b""


def edit_json(files, name, change):
    value = json.loads(files[name])
    change(value)
    files[name] = json.dumps(value).encode()


def edit_rows(files, name, change):
    """Change a table's rows, and its sheet with them."""
    rows = [json.loads(line) for line in files[f"tables/{name}.jsonl"].splitlines()]
    change(rows)
    files.update(table_files({name: rows}))


def leave_out_everything(files):
    """The latest checkpoint passes for the one before the period: then nothing has grown since."""

    def empty(proof):
        proof["before"], proof["ranges"] = proof["after"], []

    edit_json(files, "ledger/proof.json", empty)
    files["ledger/records.jsonl"] = files["ledger/hidden.jsonl"] = files["ledger/payloads.jsonl"] = b""
    for name in ("exchanges", "approvals"):
        edit_rows(files, name, list.clear)
    edit_json(files, "manifest.json", lambda manifest: manifest.update(custody=None))


def begin_later(files):
    """`before` is newer than what the proof rests on."""

    def swap(proof):
        proof["before"], proof["after"] = proof["after"], None

    edit_json(files, "ledger/proof.json", swap)


def only_what_is_unsigned(files):
    """A range behind the signed tree accounts for nothing in it."""

    def move(proof):
        for one in proof["ranges"]:
            if one["writer"] == "worker0-a-1":
                one |= {"first": 500, "last": 500, "proof": [], "consistency": []}

    edit_json(files, "ledger/proof.json", move)
    lines = files["ledger/records.jsonl"].splitlines(keepends=True)
    kept = [line for line in lines if b'"writer":"worker0-a-1"' not in line]
    forged = Chain("worker0-a-1", 500, "ab" * 32).encode("intent", START, {"verdict": "allow"}) + b"\n"
    files["ledger/records.jsonl"] = b"".join([*kept, forged])


def add_a_record(files):
    forged = Chain("worker0-a-1", 500, "ab" * 32).encode("gap", START, {}) + b"\n"
    files["ledger/records.jsonl"] += forged


def add_a_hash(files):
    row = {"writer": "worker7-a-1", "seq": 0, "hash": "ab" * 32}
    files["ledger/hidden.jsonl"] += json.dumps(row).encode() + b"\n"


def row_without_records(files):
    blank = {"record": "", "hash": "", "outcome_record": "", "outcome_hash": ""}
    edit_rows(files, "exchanges", lambda rows: rows.append(rows[0] | blank))


def row_twice(files):
    edit_rows(files, "exchanges", lambda rows: rows.append(rows[0]))


def row_without_its_outcome(files):
    blank = {"outcome_record": "", "outcome_hash": "", "executed": None, "duration_us": "", "end": "unknown"}
    edit_rows(files, "exchanges", lambda rows: rows[0].update(blank))


def row_split_in_two(files):
    def split(rows):
        rows.append(rows[0] | {"record": "", "hash": ""})
        rows[0] |= {
            "outcome_record": "",
            "outcome_hash": "",
            "executed": None,
            "duration_us": "",
            "end": "unknown",
        }

    edit_rows(files, "exchanges", split)


def lie_about_a_request(files):
    edit_rows(files, "exchanges", lambda rows: rows[0].update(request="GET /harmless"))


def invent_a_hold(files):
    edit_rows(files, "approvals", lambda rows: rows.append(rows[0] | {"hold": "h-99"}))


def tell_a_hold_twice(files):
    edit_rows(files, "approvals", lambda rows: rows.append(rows[0]))


def lie_in_a_sheet(files):
    name = "tables/access.csv"
    assert b"ann@bank.example" in files[name]
    files[name] = files[name].replace(b"ann@bank.example", b"bob@bank.example")


def another_scope(files):
    edit_json(files, "manifest.json", lambda manifest: manifest["scope"].update(target="secret-db"))


def another_reason(files):
    edit_json(files, "manifest.json", lambda manifest: manifest.update(reason="of our own accord"))


def not_json(files):
    files["ledger/proof.json"] = b"{"


def without_checkpoints(files):
    """Everything is said to be newer than the latest checkpoint, and could have been written today."""
    files["ledger/checkpoints.log"] = b""

    def forget(proof):
        proof["before"] = proof["after"] = None

    edit_json(files, "ledger/proof.json", forget)


def rest_on_nothing(files):
    """The checkpoints are there, and the proof does not use them."""

    def forget(proof):
        proof["before"] = proof["after"] = None

    edit_json(files, "ledger/proof.json", forget)


def rest_on_the_first(files):
    """An older checkpoint, under which later records need no proof."""

    def use_before(proof):
        proof["after"], proof["before"] = proof["before"] or proof["after"] | {"checkpoint": 0}, None

    edit_json(files, "ledger/proof.json", use_before)


def hide_with_its_own_hash(files):
    """A packet about everything that shows a record by its hash only."""
    lines = files["ledger/records.jsonl"].splitlines(keepends=True)
    at = next(at for at, line in enumerate(lines) if b'"kind":"admin.refused"' in line)
    line = lines.pop(at)
    row = json.loads(line)
    files["ledger/records.jsonl"] = b"".join(lines)
    hidden = {"writer": row["writer"], "seq": row["seq"], "hash": sha256(line[:-1]).hexdigest()}
    files["ledger/hidden.jsonl"] += json.dumps(hidden).encode() + b"\n"


def overlapping_ranges(files):
    edit_json(files, "ledger/proof.json", lambda proof: proof["ranges"].append(proof["ranges"][0]))


def a_name_twice(files):
    files["ledger/proof.json"] = files["ledger/proof.json"].replace(b"{", b'{"ranges": [],', 1)


def fractions_for_numbers(files):
    def change(proof):
        proof["ranges"][0]["first"] = 0.5

    edit_json(files, "ledger/proof.json", change)


TAMPERED = {
    "no checkpoints, and a proof that wants none": (without_checkpoints, {"signature"}),
    "a proof that rests on no checkpoint": (rest_on_nothing, {"incomplete"}),
    "a proof that rests on an older checkpoint": (rest_on_the_first, {"incomplete", "packet"}),
    "a record shown by its hash in a packet about everything": (hide_with_its_own_hash, {"hidden"}),
    "ranges that overlap": (overlapping_ranges, {"packet"}),
    "a name twice in a JSON object": (a_name_twice, {"packet"}),
    "a fraction where a whole number is due": (fractions_for_numbers, {"packet"}),
    "an edited record": (edit, {"rewritten", "altered"}),
    "a dropped record": (drop_line, {"missing"}),
    "a record hidden behind another hash": (hide_line, {"rewritten", "altered"}),
    "a swapped payload": (swap_payload, {"payload-mismatch"}),
    "a writer left out": (drop_writer, {"incomplete"}),
    "a shortened period": (shorten_range, {"incomplete"}),
    "other trees": (grow_heads, {"packet"}),
    "no checkpoints": (drop_notes, {"packet"}),
    "a changed checkpoint": (break_note, {"packet", "signature"}),
    "a proof that is no JSON": (not_json, {"packet"}),
    "a table that lies about a verdict": (lie_about_a_verdict, {"table"}),
    "a table without an exchange": (leave_out_an_exchange, {"table"}),
    "a table with an exchange that never was": (invent_an_exchange, {"table"}),
    "a dossier that lies about who agreed": (lie_about_an_approver, {"table"}),
    "a dossier without a hold": (leave_out_a_hold, {"table"}),
    "nothing at all since the latest checkpoint": (leave_out_everything, {"incomplete"}),
    "a beginning that comes after the end": (begin_later, {"incomplete"}),
    "records that are under no checkpoint instead of those that are": (only_what_is_unsigned, {"incomplete"}),
    "a record in no range": (add_a_record, {"foreign"}),
    "a hash in no range": (add_a_hash, {"foreign"}),
    "a row that rests on nothing": (row_without_records, {"table"}),
    "a row twice": (row_twice, {"table"}),
    "a row without its outcome": (row_without_its_outcome, {"table"}),
    "a row split in two": (row_split_in_two, {"table"}),
    "a row that tells another request": (lie_about_a_request, {"table"}),
    "a hold that never was": (invent_a_hold, {"table"}),
    "a hold twice": (tell_a_hold_twice, {"table"}),
    "a sheet that lies": (lie_in_a_sheet, {"table"}),
    "a manifest of another scope": (another_scope, {"custody"}),
    "a manifest for another reason": (another_reason, {"custody"}),
}


@pytest.mark.parametrize("case", TAMPERED.values(), ids=TAMPERED.keys())
def test_a_packet_that_was_changed_and_hashed_anew_does_not_verify(whole, tmp_path, case):
    tamper, codes = case
    files = files_of(whole)
    tamper(files)
    report = check(remake(files), tmp_path)
    assert {problem.code for problem in report.problems} & codes, report.problems
    resigned = check(remake(files, signer=OTHER_KEY), tmp_path)
    assert {problem.code for problem in resigned.problems} & codes


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool) or value is None:
        return not value
    return value + 1 if isinstance(value, int) else f"{value}x"


def told_of(rows: dict[str, list[Any]], files: dict[str, bytes], tmp_path: Path) -> list[str]:
    """What is said of a packet whose tables say something else, in the sheets as well."""
    report = check(remake({**files, **table_files(rows)}), tmp_path)
    return [str(problem) for problem in report.problems if problem.code == "table"]


@pytest.mark.parametrize("name", TABLES)
def test_no_column_of_any_table_can_say_something_else(whole, tmp_path, name):
    """The last row that is there, each of its columns; and a row too many, one too few, and their order."""
    files, tables = files_of(whole), tables_of(whole)
    assert told_of(tables, files, tmp_path) == []
    rows = tables[name]
    for column in rows[-1] if rows else ():
        if (name, column) == ("rules", "effect"):
            continue  # it stands in the policies' text
        changed = {**tables, name: [*rows[:-1], {**rows[-1], column: other(rows[-1][column])}]}
        found = told_of(changed, files, tmp_path)
        assert any(f"tables/{name}.jsonl" in problem for problem in found), (column, found)
    invented = rows[-1] if rows else dict.fromkeys(TABLES[name].columns, "")
    wrong = [[*rows, invented], rows[:-1], [*rows[1:], *rows[:1]]]
    for made in wrong if len(rows) > 1 else wrong[:2] if rows else wrong[:1]:
        found = told_of({**tables, name: made}, files, tmp_path)
        assert any(f"tables/{name}.jsonl" in problem for problem in found)


def test_an_old_checkpoint_cannot_pass_for_the_end_of_the_period(tmp_path):
    fill_ledger(tmp_path / "ledger")
    later = Asked(WHOLE.since, "2026-11-23T19:00:00.000000Z")
    report = check(export(tmp_path / "ledger", later, None)[1], tmp_path)
    assert report.problems == []
    assert any("whether more was recorded after" in gap for gap in report.unchecked)


def test_a_changed_table_or_page_is_named(whole, tmp_path):
    for name in ("tables/access.jsonl", "index.html", "verify.py", "controls.json"):
        files = files_of(whole)
        files[name] += b"\n"
        assert [p.code for p in check(build_zip(files), tmp_path).problems] == ["file-changed"]
        assert [p.code for p in check(remake(files), tmp_path).problems] == ["signature"]
        assert [p.code for p in check(remake(files, signer=OTHER_KEY), tmp_path).problems] == ["signature"]


def test_files_that_are_gone_or_added_are_named(whole, tmp_path):
    files = files_of(whole)
    del files["tables/gaps.csv"]
    files["tables/extra.csv"] = b"x"
    assert {p.code for p in check(build_zip(files), tmp_path).problems} == {
        "file-missing",
        "file-foreign",
        "table",
    }


def test_another_key_refuses_everything(whole, tmp_path):
    assert "packet" in {p.code for p in check(whole, tmp_path, OTHER_KEY.key).problems}


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04rubbish", b"{}", b'{"format":"extproc-record/v1"}', b"[" * 100_000]
)
def test_rubbish_is_no_packet_and_no_record(tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    for check_it in (verify_packet, verify_record):
        report = Report()
        check_it(tmp_path / "x", KEY.key, report)
        assert report.problems


def raw_zip(entries: list[tuple[str, bytes]]) -> bytes:
    """A zip as somebody hostile would make it: any names, any of them twice."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


NAMES = [
    "../verify.py",
    "/etc/cron.d/x",
    "a/../../b",
    "c:\\x",
    "a//b",
    ".hidden",
    "tab\x1b[2J",
    "a b",
    "dir/\u202e",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_packet_with_a_name_that_leads_elsewhere_does_not_verify(whole, tmp_path, name, capsys):
    report = check(raw_zip([*files_of(whole).items(), (name, b"x")]), tmp_path)
    assert [problem.code for problem in report.problems] == ["packet"]
    show(report)
    assert "\x1b" not in capsys.readouterr().err


def test_a_packet_with_a_file_twice_does_not_verify(whole, tmp_path):
    """Unpackers take the last one, or the first, or ask."""
    files = files_of(whole)
    twice = raw_zip([("tables/access.csv", b"a lie"), *files.items()])
    assert [problem.code for problem in check(twice, tmp_path).problems] == ["packet"]
    assert "twice" in str(check(twice, tmp_path).problems[0])


def test_a_packet_that_unpacks_to_too_much_is_not_read(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("extproc.ledger.alone.verify.MAX_PACKET", 10_000)
    assert "unpacks to more" in str(check(whole, tmp_path).problems[0])


def test_a_folder_with_a_link_does_not_verify(whole, tmp_path):
    folder = tmp_path / "unpacked"
    for name, data in files_of(whole).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "tables" / "gaps.csv").unlink()
    (folder / "tables" / "gaps.csv").symlink_to("/dev/zero")
    report = Report()
    verify_packet(folder, KEY.key, report)
    assert "neither a file nor a folder" in str(report.problems[0])


READ_AS_JSON = ("manifest.json", "ledger/proof.json")
READ_AS_LINES = (
    "ledger/hidden.jsonl",
    "ledger/payloads.jsonl",
    "tables/exchanges.jsonl",
    "tables/approvals.jsonl",
)


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_any_place_of_a_packet_gives_a_verdict(whole, tmp_path, data):
    """Types, sizes and depths that nobody foresaw: a problem or none, never a traceback."""
    files = files_of(whole)
    name = data.draw(st.sampled_from([*READ_AS_JSON, *READ_AS_LINES]))
    first = files[name] if name in READ_AS_JSON else files[name].partition(b"\n")[0]
    value = json.loads(first or b"{}")
    odd = st.sampled_from(
        [None, True, -1, 0.5, 10**30, "", "x", "\ud800", [], {}, [[]], {"a": {}}, "9" * 5000]
    )
    place, depth = value, 0
    while isinstance(place, dict | list) and place and depth < 4:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(odd)
            break
        place, depth = place[key], depth + 1
    files[name] = json.dumps(value).encode() + b"\n"
    made = build_zip(files) if name == "manifest.json" else remake(files)
    report = check(made, tmp_path)
    assert all(str(problem) for problem in report.problems)


@given(st.binary(max_size=40), st.integers(min_value=0), st.integers(1, 200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_zips_give_a_verdict(whole, tmp_path, noise, at, length):
    at %= len(whole)
    report = check(whole[:at] + noise + whole[at + length :], tmp_path)
    assert isinstance(report.problems, list)


def test_the_key_in_a_ledger_cannot_add_to_the_command_that_is_printed(tmp_path):
    fill_ledger(tmp_path / "ledger")
    name = "x';touch${IFS}/tmp/y;'"
    evil = NoteKey(name, KEY.key.public)
    for text in (str(evil), f"{evil}' ; touch /tmp/y ; '", "\x1b[2J"):
        (tmp_path / "ledger" / "checkpoint.pub").write_text(text)
        files = files_of(export(tmp_path / "ledger", WHOLE, None)[1])
        (line,) = [line for line in files["README.txt"].decode().splitlines() if "--key" in line]
        assert shlex.split(line)[:3] == ["python3", "verify.py", "--key"]
        assert shlex.split(line)[3:] == [str(evil) if text == str(evil) else "NAME+ID+BASE64"]


def test_a_terminal_that_lacks_a_letter_stops_no_verdict(whole, tmp_path):
    (tmp_path / "p.zip").write_bytes(raw_zip([("\u4e2d\u6587", b"x")]))
    program = Path(alone.__file__)
    done = subprocess.run(
        [sys.executable, "-I", program, tmp_path / "p.zip", "--key", str(KEY.key)],
        capture_output=True, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr


def test_a_copy_is_exported_without_custody_and_says_so(home, tmp_path):
    copy = shutil.copytree(home / "ledger", tmp_path / "ledger")
    before = sorted(copy.rglob("*"))
    _, data = export(copy, WHOLE, None)
    assert sorted(copy.rglob("*")) == before
    report = check(data, tmp_path)
    assert report.problems == []
    assert any("made from a copy" in gap for gap in report.unchecked)


# ------------------------------------------------------------------ the commands


def run(*arguments: object):
    return CliRunner().invoke(main, ["evidence", *map(str, arguments)])


def test_the_command_writes_a_private_file_and_never_over_another(home, tmp_path):
    copy = shutil.copytree(home / "ledger", tmp_path / "ledger")
    out = tmp_path / "out.zip"
    command = (
        "export",
        "--dir",
        copy,
        "--from",
        "2026-11-23",
        "--to",
        "2026-11-24",
        "--control",
        "8.15",
        "--control",
        "5.26",
    )
    assert run(*command, "-o", out).exit_code == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert run(*command, "-o", out).exit_code == 3
    page = files_of(out.read_bytes())["index.html"].decode()
    assert re.findall(r'class="id">([^<]+)<', page) == ["5.25 - 5.27", "8.15"]
    assert run("verify", out, "--key", KEY.key).exit_code == 0
    assert run(*command, "--control", "9.99", "-o", tmp_path / "x.zip").exit_code == 2
    assert run("export", "--dir", copy, "--from", "1h", "--to", "2h").exit_code == 2


def test_a_damaged_ledger_is_not_exported(home, tmp_path):
    copy = shutil.copytree(home / "ledger", tmp_path / "ledger")
    path = copy / "worker0-a-1" / "000000000000.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"v":1', b'{"v":9', 1))
    assert run("export", "--dir", copy, "--from", "2026-11-23").exit_code == 3


def test_one_record_is_shared_without_the_others(home, tmp_path):
    out = tmp_path / "record.json"
    assert run("share", "worker0-a-1:9", "--dir", home / "ledger", "--payloads", "-o", out).exit_code == 0
    shared = json.loads(out.read_text())
    assert len(json.loads(shared["line"])) > 5
    assert b'"seq":8' not in out.read_bytes()
    assert run("verify", out, "--key", KEY.key).exit_code == 0
    assert "signature" in run("verify", out, "--key", OTHER_KEY.key).stderr
    for name, value in (
        ("line", shared["line"].replace('"verdict":"allow"', '"verdict":"deny"')),
        ("line", shared["line"].replace('"seq":9', '"seq":8')),
        ("proof", shared["proof"][1:]),
        ("checkpoint", shared["checkpoint"].replace("number", "numbre")),
        ("payloads", {"request": {**shared["payloads"]["request"], "text": "forged"}}),
    ):
        out.write_text(json.dumps({**shared, name: value}))
        assert run("verify", out, "--key", KEY.key).exit_code == 1
    assert run("share", "worker0-a-1:9999", "--dir", home / "ledger").exit_code == 1
    assert run("share", "nobody-a-1:0", "--dir", home / "ledger").exit_code == 1
    assert run("share", "worker0", "--dir", home / "ledger").exit_code == 2


def test_every_query_of_the_mapping_has_an_answer(whole):
    tables = tables_of(whole)
    for control in load_controls()["controls"]:
        assert control["tables"]
        assert set(control["tables"]) <= set(TABLES)
        for query in [q for _, q in control["numbers"]] + [q for q, _ in control["expect"]]:
            assert evaluate(query, tables) >= 0
            assert query.partition("?")[0].partition("#")[0] in control["tables"], (control["id"], query)
    with pytest.raises(EvidenceError):
        load_controls(["1.1"])


def test_a_ledger_without_checkpoints_is_exported_and_says_what_that_means(tmp_path):
    fill_ledger(tmp_path / "ledger")
    (tmp_path / "ledger" / "checkpoints.log").unlink()
    _, data = export(tmp_path / "ledger", WHOLE, None)
    report = check(data, tmp_path)
    assert [problem.code for problem in report.problems] == ["signature"]
    assert any("under no checkpoint yet" in gap for gap in report.unchecked)
    sign_now(tmp_path / "ledger")
    assert check(export(tmp_path / "ledger", WHOLE, None)[1], tmp_path).problems == []


def test_conditions_compare_as_text():
    rows = {"t": [{"a": True, "n": 2}, {"a": None, "n": 3}, {"a": "xy", "n": 5}]}
    found = {q: evaluate(q, rows) for q in ("t", "t#n", "t?a=true", "t?a=", "t?a!=#n", "t?a^=x&n=5#n", "t#a")}
    assert found == {"t": 3, "t#n": 10, "t?a=true": 1, "t?a=": 1, "t?a!=#n": 7, "t?a^=x&n=5#n": 5, "t#a": 0}
    assert as_text(None) == ""
    for query in ("t?a", "u", "t?b=1"):
        with pytest.raises((ValueError, KeyError)):
            evaluate(query, rows)
