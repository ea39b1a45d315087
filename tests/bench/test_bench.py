"""The benchmark measures what it says: real traffic, the promised answers, equal message counts. No timing here."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from bench import cpu, holds
from bench.__main__ import main
from bench.cases import ALL, CASES, TARGETS, Case, rules
from bench.empty import TAGS, EmptyCall, script
from bench.holds import Level
from bench.hotspots import Bench, messages_of, sampled
from bench.loadgen import Connection, LoadResult
from bench.measure import BenchError, Measured, Plan, _check, ratio
from bench.report import furthest_from_even, goals
from bench.rig import LEAN, Rig
from bench.upstream import EMPTY, REPLIES, LeanServer
from extproc.app.form import is_compiled
from extproc.servers.wire import ext_proc_pb2 as pb
from tests.support.envoy import envoy_is_here

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.e2e
@pytest.mark.timeout(180)
@pytest.mark.skipif(not envoy_is_here(), reason="there is no Envoy to run")
def test_a_tiny_run_gives_every_ratio_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Statuses and message counts are checked by the run itself: it fails when they are not as promised."""
    names = ["get", "post", "kept", "mask-dirty", "deny", "authz"]
    chosen = [part for name in names for part in ("--case", name)]
    tiny = ["--rounds", "1", "--requests", "20", "--latency", "0.05", "--settle", "0"]
    status = main(["--quick", *chosen, *tiny, "--output", str(tmp_path)])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    (path,) = tmp_path.glob("bench-*.json")
    result = json.loads(path.read_text())
    for name in names:
        assert result["ratios"][f"{name}.processor_cpu.governed_lean/empty_grpcio"] > 0
        assert f"| {name} | {TARGETS[BY_NAME[name].target].messages} |" in printed.out
    for role in ("exporter", "checkpointer", "approvals", "supervisor"):
        assert role in result["beside_us_per_governed_request"]
    assert result["governed_requests"] >= 6 * 20
    assert result["compiled"] == is_compiled()
    assert {one["setup"] for one in result["measured"]} == set(ALL)


@pytest.mark.e2e
@pytest.mark.timeout(180)
@pytest.mark.skipif(not envoy_is_here(), reason="there is no Envoy to run")
def test_workers_are_compared_with_one_on_a_machine_as_busy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tiny = ["--rounds", "1", "--requests", "20", "--latency", "0", "--settle", "0", "--output", str(tmp_path)]
    status = main(["--case", "get", *tiny])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    (path,) = tmp_path.glob("bench-*.json")
    result = json.loads(path.read_text())
    for pair in ("two_workers/governed_lean", "two_workers/one_beside_bare", "access_log/governed_lean"):
        assert result["ratios"][f"get.processor_cpu.{pair}"] > 0
    assert "get.envoy_cpu.two_workers/one_beside_bare" not in result["ratios"]  # bare's requests are in it
    assert sum(result["requests_by_worker"]["two_workers"]) == 40


def exchanges(directory: Path, *names: str) -> Bench:
    return Bench(directory, sorted({BY_NAME[name].target for name in names}))


def test_profiled_exchanges_are_governed_for_real(tmp_path: Path):
    """The in-process path leaves the records an exchange leaves: an intent and an outcome each."""
    names = ("get", "post", "kept", "mask-dirty", "deny")
    bench = exchanges(tmp_path, *names)
    try:
        for name in names:
            bench.exchange(BY_NAME[name])()
    finally:
        bench.close()
    (segment,) = (tmp_path / "state-governed_lean" / "ledger").rglob("*.jsonl")
    records = [json.loads(line) for line in segment.read_bytes().splitlines()]
    kinds = [record["kind"] for record in records]
    assert kinds == ["start", *["intent", "outcome"] * 5, "stop"]
    verdicts = [record["verdict"] for record in records if record["kind"] == "intent"]
    assert verdicts == ["allow"] * 4 + ["deny"]
    masked = [record["response"].get("masked") for record in records if record["kind"] == "outcome"]
    assert masked[3]["EMAIL_ADDRESS"] > 1


def test_samples_name_the_functions_that_ran(tmp_path: Path):
    bench = exchanges(tmp_path, "get")
    try:
        found = sampled(bench.exchange(BY_NAME["get"]), seconds=0.3)
    finally:
        bench.close()
    assert found.total > 0
    assert any(name.startswith("extproc/servers/ext_proc.py:") for name in found.below)
    assert sum(found.own.values()) == found.total
    assert sum(found.modules.values()) <= found.total


@pytest.mark.parametrize(
    "case", [case for case in CASES if TARGETS[case.target].mode == "ext_proc"], ids=lambda c: c.name
)
def test_the_first_byte_tells_what_a_message_holds(case: Case):
    """The empty processor answers by it, without parsing."""
    replies = script(case.target)
    for data in messages_of(case, "token"):
        kind = pb.ProcessingRequest.FromString(data).WhichOneof("request")
        assert TAGS[data[0]] == kind
        answer = pb.ProcessingResponse.FromString(replies[data[0]]).WhichOneof("response")
        assert answer == ("immediate_response" if case.target == "denied" else kind)


def test_rules_come_in_the_number_asked_for_and_only_the_last_allows():
    made = rules(20, last={"when": "true", "then": {"allow": {}}}, body=4)
    assert len(made) == 20
    assert ["allow" in rule["then"] for rule in made] == [False] * 19 + [True]
    assert sum("request.json" in rule["when"] for rule in made) == 4


def load(count: int, status: int) -> LoadResult:
    result = LoadResult(seconds=1.0, latencies=[0.001] * count)
    result.statuses[status] = count
    return result


def test_an_unexpected_answer_ends_the_run():
    one = Measured(BY_NAME["get"], "governed_lean")
    _check(one, load(20, 200), 20)
    with pytest.raises(BenchError, match="get governed_lean: expected 20 answers 200"):
        _check(one, load(20, 403), 20)
    with pytest.raises(BenchError, match="expected 21"):
        _check(one, load(20, 200), 21)


@pytest.mark.parametrize(
    ("above", "below", "expected"),
    [
        ([2.0, 4.0, 9.0], [1.0, 2.0, 3.0], (2.0, 2.0, 3.0)),
        ([1.0], [0.0], None),
        ([], [], None),
    ],
    ids=["median", "nothing-to-divide-by", "no-rounds"],
)
def test_a_ratio_is_taken_round_by_round(above: list[float], below: list[float], expected: object):
    assert ratio(above, below) == expected


@pytest.mark.parametrize("field", ["rounds", "requests", "connections"])
def test_a_plan_measures_something(field: str):
    numbers = {"rounds": 1, "requests": 1, "connections": 1, "rate": 0.0, "rate_seconds": 0.0}
    with pytest.raises(ValueError, match="at least 1"):
        Plan(**{**numbers, field: 0})  # type: ignore[arg-type]


class Written:
    """A transport that keeps what was written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


@pytest.mark.parametrize("step", [1, 7, 10_000], ids=["byte-by-byte", "in-sevens", "at-once"])
def test_the_lean_upstream_answers_every_request_once_wherever_it_is_cut(step: int):
    small = b"GET /small HTTP/1.1\r\nhost: x\r\n\r\n"
    note = b"POST /other HTTP/1.1\r\nContent-Length: 11\r\n\r\n\r\n\r\nGET / HT"
    stream = small + note + small
    server, written = LeanServer(), Written()
    server._transport = written  # type: ignore[assignment]
    for at in range(0, len(stream), step):
        server.data_received(stream[at : at + step])
    assert written.data == REPLIES[b"/small"] + EMPTY + REPLIES[b"/small"]


def test_cpu_time_of_a_process_that_is_gone_is_nothing():
    assert cpu.cpu_now(2**22 + 1) == 0
    assert cpu.used({"gone": 1.0}, {"gone": 0.0}) == {"gone": 0.0}


class Heard:
    """A wire that keeps what a call says."""

    def __init__(self) -> None:
        self.said: list[tuple[int, object]] = []

    def reply(self, stream_id: int, payload: bytes) -> None:
        self.said.append((stream_id, payload))

    def finish(self, stream_id: int, status: int, message: str = "") -> None:
        self.said.append((stream_id, status))


def test_both_empty_processors_say_the_same():
    """What is compared is the transport: the lean one gives the prepared replies, and ends when Envoy does."""
    wire, replies = Heard(), script("read")
    call = EmptyCall(wire, 7, replies)
    messages = messages_of(BY_NAME["get"], "token")[:2]
    for data in messages:
        call.message(data)
    call.half_closed()
    assert wire.said == [*((7, replies[data[0]]) for data in messages), (7, 0)]


@pytest.mark.parametrize(
    ("counts", "expected"), [([50, 50], 0.0), ([60, 40], 0.2), ([0, 90, 90], 1.0), ([0, 0], 0.0)]
)
def test_load_is_as_uneven_as_its_furthest_worker(counts: list[int], expected: float):
    assert furthest_from_even(counts) == pytest.approx(expected)


def test_goals_are_judged_by_the_ratios_of_the_run_and_no_others():
    ratio_name = "get.processor_cpu.empty_lean/empty_grpcio"
    assert [goal["met"] for goal in goals({ratio_name: 1 / 12})] == [True]
    assert [goal["met"] for goal in goals({ratio_name: 0.084, "holds.kilobytes_each": 20.0})] == [False, True]


def test_a_hold_is_weighed_by_what_the_worker_grew():
    none = Level(0, resident=50_000_000, envoy_resident=0, p50=0.002, p99=0.004, idle_cpu=0.0)
    most = Level(1000, resident=65_000_000, envoy_resident=0, p50=0.003, p99=0.005, idle_cpu=0.0)
    found = holds.ratios([none, most])
    assert (found["holds.kilobytes_each"], found["holds.p50.open/none"]) == (15.0, 1.5)
    assert "| 1000 | 15.0 |" in holds.markdown([none, most])


@pytest.mark.e2e
@pytest.mark.timeout(60)
@pytest.mark.skipif(not envoy_is_here(), reason="there is no Envoy to run")
def test_held_requests_wait_while_others_are_served(tmp_path_factory: pytest.TempPathFactory):
    """The run itself fails when a held request is answered, or another is not."""
    rig = Rig(
        tmp_path_factory.mktemp("h"), {"held": {LEAN}, "read": {LEAN}}, export=False, settings=holds.SETTINGS
    )
    with rig:

        async def wait_and_ask() -> None:
            token = rig.token()
            connections = [Connection(rig.address("held", LEAN)) for _ in range(30)]
            waiting = [
                asyncio.create_task(connection.ask(holds._held_request(token, number)))
                for number, connection in enumerate(connections)
            ]
            await holds._until_open(rig, waiting)
            await holds._calm(rig, token, seconds=0.1)
            holds._still_waiting(waiting)
            for task, connection in zip(waiting, connections, strict=True):
                task.cancel()
                connection.close()

        asyncio.run(wait_and_ask())
