"""The load generator counts what happened, and CPU time lands on the tree that used it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from bench.loadgen import CpuMeter, LoadResult, closed_loop, cpu_seconds, memory_bytes, open_loop, tree_of
from extproc.demo.processes import free_port, start, wait_until
from tests.support.raw_http import build_request
from tests.support.replies import Gate, Reply, chunked_reply, json_reply
from tests.support.upstream import Upstream

GET = build_request("GET", "/x")


def test_a_closed_loop_sends_each_request_once_over_kept_connections():
    with Upstream() as upstream:
        result = asyncio.run(
            closed_loop(upstream.address, lambda n: build_request("GET", f"/{n}"), connections=3, count=50)
        )
        assert sorted(int(seen.path[1:]) for seen in upstream.requests) == list(range(50))
        assert upstream.connections == 3
    assert (result.answered, result.failed, result.statuses) == (50, 0, {200: 50})
    assert result.rate > 0


def test_a_closed_loop_ends_when_its_time_is_over():
    with Upstream() as upstream:
        result = asyncio.run(closed_loop(upstream.address, GET, connections=2, seconds=0.05))
        assert upstream.count() == result.answered > 0


def test_what_was_answered_until_a_load_is_cancelled_is_kept():
    async def cut_short(address: str) -> LoadResult:
        found = LoadResult()
        asking = asyncio.create_task(closed_loop(address, GET, connections=2, seconds=60.0, into=found))
        while not found.answered:
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait([asking])
        return found

    with Upstream() as upstream:
        found = asyncio.run(cut_short(upstream.address))
    assert found.answered == found.statuses[200] > 0
    assert found.failed == 0


def test_an_open_loop_sends_what_was_due():
    with Upstream() as upstream:
        result = asyncio.run(open_loop(upstream.address, GET, rate=500, seconds=0.1, connections=4))
        assert upstream.count() == 50
    assert (result.answered, result.failed) == (50, 0)
    assert result.seconds >= 0.09


def test_an_open_loop_counts_the_wait_for_a_stalled_server():
    """One connection, the first reply held: everything behind it was due long before it was answered."""
    gate = Gate()
    with Upstream() as upstream:
        upstream.on("GET", "/0", Reply(hold=gate))

        async def run() -> LoadResult:
            def make(n: int) -> bytes:
                return build_request("GET", f"/{n}")

            load = asyncio.create_task(
                open_loop(upstream.address, make, rate=1000, seconds=0.05, connections=1)
            )
            await asyncio.to_thread(gate.reached.wait, 5)
            await asyncio.sleep(0.1)
            gate.release()
            return await load

        result = asyncio.run(run())
    assert result.answered == 50
    assert min(result.latencies) >= 0.05  # the last was due after 50 ms and none left before 100 ms
    assert result.percentile(1.0) >= 0.1


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (chunked_reply([b"a", b"b" * 70_000]), 200),
        (chunked_reply([b"a"], trailers=[("x-sum", "1")]), 200),
        (chunked_reply([]), 200),
        (Reply(204), 204),
        (Reply(304), 304),
        (Reply(body=b"x" * 300_000), 200),
        (Reply(body=b"end", framing="close"), 200),
        (Reply(informational=((103, ()),)), 200),
        (json_reply({}, status=503), 503),
    ],
    ids=["chunks", "trailers", "no-chunks", "204", "304", "large", "until-close", "103-first", "503"],
)
def test_every_framing_is_read_to_its_end(reply: Reply, status: int):
    with Upstream() as upstream:
        upstream.on("GET", "/x", reply)
        result = asyncio.run(closed_loop(upstream.address, GET, connections=1, count=3))
    assert (result.statuses, result.failed) == ({status: 3}, 0)


def test_head_has_no_body_to_wait_for():
    with Upstream() as upstream:
        result = asyncio.run(
            closed_loop(upstream.address, build_request("HEAD", "/x"), connections=1, count=3)
        )
        assert (result.answered, upstream.connections) == (3, 1)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(body=b"0123456789", cut_after=3), "ConnectionError"),
        (Reply(raw=b"SSH-2.0-nonsense\r\n\r\n"), "ValueError"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"), "ValueError"),
        (Reply(raw=b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000), "ValueError"),
        (Reply(raw=b""), "ConnectionError"),
    ],
    ids=["cut", "no-http", "bad-chunk", "endless-head", "nothing"],
)
def test_a_broken_reply_is_an_error_and_the_load_goes_on(reply: Reply, error: str):
    with Upstream() as upstream:
        upstream.on("GET", "/1", reply)
        result = asyncio.run(
            closed_loop(upstream.address, lambda n: build_request("GET", f"/{n}"), connections=1, count=3)
        )
    assert (result.statuses, result.errors) == ({200: 2}, {error: 1})


def test_a_reply_that_never_comes_is_a_timeout():
    with Upstream() as upstream:
        upstream.on("GET", "/x", Reply(hold=Gate()))
        result = asyncio.run(closed_loop(upstream.address, GET, connections=1, count=1, timeout=0.01))
    assert (result.answered, result.errors) == (0, {"TimeoutError": 1})


def test_nobody_listening_is_counted():
    result = asyncio.run(closed_loop(f"127.0.0.1:{free_port()}", GET, connections=2, count=4))
    assert result.errors == {"ConnectionRefusedError": 4}


def test_a_unix_socket_is_an_address_too(tmp_path: Path):
    async def run() -> LoadResult:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
            writer.close()

        path = f"{tmp_path}/s.sock"
        async with await asyncio.start_unix_server(serve, path):
            return await closed_loop(f"unix:{path}", GET, connections=1, count=2)

    assert asyncio.run(run()).statuses == {200: 2}


@pytest.mark.parametrize("limits", [{}, {"count": 1, "seconds": 1.0}], ids=["neither", "both"])
def test_a_closed_loop_needs_one_end(limits: dict[str, float]):
    with pytest.raises(ValueError, match="either"):
        asyncio.run(closed_loop("127.0.0.1:1", GET, connections=1, **limits))  # type: ignore[arg-type]


@pytest.mark.parametrize(("share", "expected"), [(0, 1), (0.5, 5), (0.9, 9), (0.91, 10), (0.99, 10), (1, 10)])
def test_percentiles_are_nearest_rank(share: float, expected: float):
    assert LoadResult(latencies=[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]).percentile(share) == expected


def test_no_answers_are_no_latency():
    assert LoadResult().percentile(0.5) == 0
    assert LoadResult().to_json()["rate"] == 0.0


BURNER = "import time\nuntil = time.process_time() + 0.3\nwhile time.process_time() < until: pass\n"
PARENT = (
    "import subprocess, sys, time\n"
    f"child = subprocess.Popen([sys.executable, '-c', {BURNER + 'print(1, flush=True); time.sleep(60)'!r}],"
    " stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\nprint(child.pid, flush=True)\ntime.sleep(60)\n"
)


def test_cpu_time_of_a_child_belongs_to_its_tree_unless_it_has_a_name_of_its_own(tmp_path: Path):
    process = start("parent", [sys.executable, "-c", PARENT], log=tmp_path / "log")
    try:
        with CpuMeter({"tree": process.pid, "gone": 2**22 + 1}) as meter:
            wait_until(
                lambda: process.log.read_text().endswith("\n"),
                within=20,
                what="it has burned",
                process=process,
            )
            child = int(process.log_tail())
            assert set(tree_of(process.pid)) == {process.pid, child}
            assert tree_of(process.pid, without=[child]) == [process.pid]
        assert meter.seconds["tree"] >= 0.25
        assert meter.seconds["gone"] == 0
        assert meter.per_request(1000)["tree"] >= 250
        assert cpu_seconds(child) >= 0.25
        whole = CpuMeter({"tree": process.pid}).read()["tree"]
        apart = CpuMeter({"parent": process.pid, "child": [child]}).read()
        assert apart["child"] == cpu_seconds(child)
        assert apart["parent"] + apart["child"] == pytest.approx(whole)
    finally:
        process.stop()
    assert (cpu_seconds(process.pid), memory_bytes(process.pid)) == (0, 0)


def test_memory_of_this_process_is_known():
    assert memory_bytes(os.getpid()) > 1 << 20
