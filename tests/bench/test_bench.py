"""The benchmark measures what it says: real traffic, the promised answers, equal message counts. No timing here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import cpu
from bench.__main__ import main
from bench.cases import CASES, TARGETS, Case, rules
from bench.empty import TAGS, script
from bench.hotspots import Bench, messages_of, sampled
from bench.loadgen import LoadResult
from bench.measure import BenchError, Measured, Plan, _check, ratio
from bench.upstream import EMPTY, REPLIES, LeanServer
from extproc.servers.wire import ext_proc_pb2 as pb
from tests.support.envoy import envoy_is_here

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.e2e
@pytest.mark.timeout(60)
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
        assert result["ratios"][f"{name}.processor_cpu.governed/empty"] > 0
        assert f"| {name} | {TARGETS[BY_NAME[name].target].messages} |" in printed.out
    for role in ("exporter", "checkpointer", "approvals", "supervisor"):
        assert role in result["beside_us_per_governed_request"]
    assert result["governed_requests"] >= 6 * 20
    assert {one["setup"] for one in result["measured"]} == {"bare", "empty", "governed"}


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
    (segment,) = (tmp_path / "state" / "ledger").rglob("*.jsonl")
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
    one = Measured(BY_NAME["get"], "governed")
    _check(one, load(20, 200), 20)
    with pytest.raises(BenchError, match="get governed: expected 20 answers 200"):
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
