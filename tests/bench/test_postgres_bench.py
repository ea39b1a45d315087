"""What a Postgres run reports follows from what it measured."""

from __future__ import annotations

import socket
import threading

import pytest

from bench.bulk import READY, Login, fetch
from bench.postgres_bench import GOALS, Measured, goals, markdown, ratios, rotated

ROUNDS = {
    "prepared-8": {
        "tcp_proxy": Measured([100.0, 200.0, 100.0], [0.0] * 3, [10.0, 20.0, 10.0]),
        "relay": Measured([60.0, 100.0, 70.0], [50.0] * 3, [20.0, 20.0, 20.0]),
    },
    "clean": {
        "tcp_proxy": Measured([400.0], [0.0], [1.0], [], [2.0]),
        "relay": Measured([100.0], [9.0], [1.0], [3.0], [1.0]),
    },
}


def test_a_ratio_is_taken_round_by_round_and_the_median_counts() -> None:
    found = ratios(ROUNDS)
    assert found["prepared-8.rate.relay/tcp_proxy"] == 0.6
    assert found["prepared-8.envoy_cpu.relay/tcp_proxy"] == 2.0
    assert "prepared-8.our_cpu.relay/tcp_proxy" not in found  # tcp_proxy has no process of ours


def test_goals_are_judged_where_they_were_measured() -> None:
    judged = {goal["ratio"]: goal["met"] for goal in goals(ratios(ROUNDS))}
    assert judged == {"prepared-8.rate.relay/tcp_proxy": True, "clean.rate.relay/tcp_proxy": False}
    assert set(judged) <= set(GOALS)


def test_the_table_names_every_case_and_says_what_was_missed() -> None:
    page = markdown(ROUNDS, ratios(ROUNDS))
    assert "| prepared-8 | 1.00 (0/10) | 0.60 (50/20) |" in page
    assert "| clean | 0 / 2 | 3 / 1 |" in page
    assert "| clean.rate.relay/tcp_proxy | 0.5 | 0.25 | **no** |" in page


def test_another_setup_is_first_in_every_round() -> None:
    setups = ("a", "b", "c")
    assert [rotated(setups, number) for number in range(3)] == [
        ("a", "b", "c"),
        ("a", "c", "b"),
        ("c", "a", "b"),
    ]


def serve(answer: bytes) -> int:
    """A server for one client that lets everybody in; its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def one() -> None:
        connection, _ = listening.accept()
        listening.close()
        with connection:
            connection.recv(1000)
            connection.sendall(b"R\x00\x00\x00\x08\x00\x00\x00\x00" + READY)
            connection.recv(1000)
            connection.sendall(answer)

    threading.Thread(target=one, daemon=True).start()
    return int(listening.getsockname()[1])


def test_the_client_counts_every_byte_up_to_the_end() -> None:
    size, took = fetch(Login("127.0.0.1", serve(b"D" * 3_000_000 + READY), "u"), "SELECT 1")
    assert size == 3_000_000 + len(READY) and took > 0


@pytest.mark.parametrize("answer", [b"E refused" + READY, b"D" * 100])
def test_an_error_or_half_an_answer_is_no_measurement(answer: bytes) -> None:
    with pytest.raises(RuntimeError):
        fetch(Login("127.0.0.1", serve(answer), "u"), "SELECT 1")
