"""What `tests/support/ports.py` gives."""

from __future__ import annotations

import socket

from extproc.demo import processes
from tests.support import ports


def test_no_port_is_given_twice_and_none_that_is_taken() -> None:
    given = ports.free_ports(20)
    (next_one,) = ports.free_ports(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", next_one + 1))
        more = ports.free_ports(20)
    assert len({*given, next_one, *more}) == 41
    assert next_one + 1 not in more


def test_everything_that_tests_start_asks_here() -> None:
    assert processes.free_ports is ports.free_ports
    assert processes.free_port() < 32_768
