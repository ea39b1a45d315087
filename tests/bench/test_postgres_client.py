"""Clients that only count: every byte of an answer, and no answer that is not one."""

from __future__ import annotations

import socket
import threading

import pytest

from bench.database_rig import Login
from bench.postgres_client import READY, fetch


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
