"""The supervisor holds what workers listen on over TCP, or says why it cannot."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from extproc.app.places import Places
from extproc.config import parse_config
from extproc.config.settings import Processor
from extproc.demo.processes import free_port
from extproc.domain.errors import ConfigError

IN_CLEAR = ", insecure: true"


def processor(listen: str, rest: str) -> Processor:
    text = f"apiVersion: extproc/v1\nkind: Config\nprocessor: {{listen: '{listen}'{rest}}}\n"
    return parse_config(text, base=Path("/srv/extproc")).processor


def neighbours() -> int:
    """A port that is free, as is the one after it."""
    while True:
        port = free_port()
        with socket.socket() as after:
            try:
                after.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def test_each_worker_has_a_place_of_its_own():
    port, places = neighbours(), Places()
    places.open(processor(f"127.0.0.1:{port}", IN_CLEAR + ", workers: 2"))
    try:
        for index in range(2):
            (number,) = places.of(index)
            with socket.socket(fileno=os.dup(number)) as bound:
                assert bound.getsockname() == ("127.0.0.1", port + index)
            # a worker listens, not we: nobody is let in before one can serve
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port + index))
    finally:
        places.close()
    assert places.of(0) == ()


@pytest.mark.parametrize(
    ("listen", "rest"),
    [("unix:p.sock", ""), ("127.0.0.1:9000", IN_CLEAR + ", transport: grpcio")],
    ids=["unix", "grpcio"],
)
def test_who_binds_by_itself_gets_nothing(listen: str, rest: str):
    places = Places()
    places.open(processor(listen, rest))
    assert places.of(0) == ()


def test_a_port_that_somebody_has_is_named_and_no_other_is_kept():
    port, places = neighbours(), Places()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port + 1))
        other.listen()
        with pytest.raises(
            ConfigError, match=f"cannot listen at 127.0.0.1:{port + 1}: Address already in use"
        ):
            places.open(processor(f"127.0.0.1:{port}", IN_CLEAR + ", workers: 2"))
    assert places.of(0) == ()
    with socket.socket() as first:
        first.bind(("127.0.0.1", port))


def test_a_name_that_nobody_has_is_named():
    tls = ", tls: {certificate: c, key: k, client_ca: a, client_sans: ['spiffe://mesh/envoy']}"
    unknown = processor("nobody.invalid:9000", tls)
    with pytest.raises(ConfigError, match=r"cannot listen at nobody\.invalid:9000: "):
        Places().open(unknown)
