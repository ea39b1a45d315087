"""Every record is in a span that arrived, or it is known why not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from extproc.adapters.ledger_reader import list_writers, read_end
from extproc.adapters.ledger_tally import read_cursor
from extproc.commands.ledger import ledger as command
from extproc.domain.record import Record
from extproc.ledger.accounting import Account, accounts
from tests.adapters.test_telemetry import Collector, export_all, open_telemetry
from tests.support.books import START, fill, intent, open_writer, outcome


def account(ledger: Path) -> Account:
    sizes = {name: read_end(ledger / name).seq + 1 for name in list_writers(ledger)}
    return sum(accounts(sizes, read_cursor(ledger.parent / "cursor.json") or {}).values(), Account())


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def test_all_that_was_exported_is_accounted_for(ledger: Path):
    writer = open_writer(ledger)
    fill(writer, 10)
    writer.append(Record("access", START, {"coverage": "joined"}))
    writer.append(Record("access", START, {"coverage": "unseen"}))
    writer.append(intent(50))
    writer.commit()
    collector = Collector()
    export_all(open_telemetry(ledger, collector))
    found = account(ledger)
    assert (found.records, found.shown, found.spanless, found.open) == (24, 22, 1, 1)
    assert (found.lost, found.behind) == (0, 0)


def test_what_sampling_leaves_out_is_not_lost(ledger: Path):
    fill(open_writer(ledger), 10)
    export_all(open_telemetry(ledger, Collector(), ratio=0.0))
    found = account(ledger)
    assert (found.sampled_out, found.shown, found.lost) == (20, 1, 0)


def test_a_span_that_never_left_is_lost(ledger: Path):
    fill(open_writer(ledger), 10)
    export_all(open_telemetry(ledger, Collector()))
    cursor = ledger.parent / "cursor.json"
    state = json.loads(cursor.read_bytes())
    for place in state["writers"].values():
        place["shown"] -= 3
    cursor.write_text(json.dumps(state))
    assert account(ledger).lost == 3
    done = CliRunner().invoke(command, ["status", "--dir", str(ledger), "--cursor", str(cursor)])
    assert done.exit_code == 1
    assert "lost: 3" in done.output


def test_the_command_says_what_stands_where(ledger: Path):
    fill(open_writer(ledger), 4)
    before = CliRunner().invoke(command, ["status", "--dir", str(ledger)])
    assert (before.exit_code, "nothing was ever exported" in before.output) == (0, True)
    export_all(open_telemetry(ledger, Collector()))
    cursor = str(ledger.parent / "cursor.json")
    done = CliRunner().invoke(command, ["status", "--dir", str(ledger), "--cursor", cursor, "--json"])
    told = json.loads(done.output)
    assert (told["records"], told["spans_exported"], told["lost"]) == (9, 5, 0)


@pytest.mark.parametrize(
    "cursor", [{}, {"writers": 3}, {"writers": {"a-1": 3}}, {"writers": {"a-1": {"open": 1}}}]
)
def test_a_cursor_of_any_shape_gives_an_account(cursor: dict[str, object]):
    (found,) = accounts({"a-1": 7}, cursor).values()
    assert (found.records, found.behind) == (7, 7)


@pytest.mark.parametrize("seed", range(8))
def test_failures_and_restarts_lose_and_double_nothing(ledger: Path, seed: int):
    chance = random.Random(seed)
    writers = [open_writer(ledger, f"worker{number}-a-1") for number in range(3)]
    collector = Collector()
    telemetry = open_telemetry(ledger, collector, batch=7)
    for number in range(120):
        writer = chance.choice(writers)
        match chance.randrange(7):
            case 0:
                opened = {"hold": f"h{number}", "move": "1", "decision_id": f"d{number}"}
                writer.append(Record("hold.opened", START, opened))
            case 1:
                writer.append(Record("hold.approved", START, {"hold": f"h{chance.randrange(number + 1)}"}))
            case 2:
                kind = chance.choice(["hold.vote", "hold.break_glass", "hold.reviewed", "policy.activated"])
                writer.append(Record(kind, START, {"hold": f"h{chance.randrange(number + 1)}"}))
            case 3:
                writer.append(Record("access", START, {"coverage": chance.choice(["joined", "unseen"])}))
            case 4:
                writer.append(outcome(chance.randrange(number + 1)))
            case _:
                writer.append(intent(number))
        writer.commit()
        if chance.random() < 0.3:
            collector.up = chance.random() < 0.6
            collector.most = chance.choice([1, 3, 1000])
            telemetry.step()
            assert account(ledger).lost == 0
        if chance.random() < 0.1:
            telemetry = open_telemetry(ledger, collector, batch=7)
    collector.up, collector.most = True, 1000
    export_all(telemetry)
    found = account(ledger)
    assert (found.lost, found.behind) == (0, 0)


def test_a_lost_record_is_told_once(ledger: Path, capsys: pytest.CaptureFixture[str]):
    writer = open_writer(ledger)
    for number in (1, 1):  # the second takes the place of the first, which is in no span then
        writer.append(intent(number))
    writer.commit()
    telemetry = open_telemetry(ledger, Collector())
    export_all(telemetry)
    assert account(ledger).lost == 1
    assert capsys.readouterr().out.count("telemetry.lost") == 1
    writer.append(intent(2))
    writer.commit()
    export_all(telemetry)
    assert account(ledger).lost == 1
    assert "telemetry.lost" not in capsys.readouterr().out


def test_a_line_of_another_writer_is_no_record_and_stops_nothing(ledger: Path):
    writer = open_writer(ledger)
    fill(writer, 2)
    writer.close()
    (path,) = ledger.glob("*/*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"writer":"worker0-a-1"', b'"writer":"worker9-a-9"'))
    collector = Collector()
    export_all(open_telemetry(ledger, collector))
    found = account(ledger)
    assert (found.spanless, found.shown, found.lost) == (found.records, 0, 0)
