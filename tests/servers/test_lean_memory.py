"""An exchange that is over is freed at once: nothing of it waits for the garbage collector."""

from __future__ import annotations

import gc

import pytest

from extproc.domain.request import Headers
from extproc.pipeline import HttpExchange
from extproc.servers.envoy_proto import CallMetadata
from extproc.servers.ext_proc import ProcessStream
from extproc.servers.lean_calls import _StreamCall
from tests.support.streams import request_headers, response_body, response_headers, service

KINDS = (_StreamCall, ProcessStream, HttpExchange, Headers)


class Wire:
    """Takes whatever it is told."""

    def reply(self, stream_id: int, payload: bytes) -> None:
        """Sent."""

    def finish(self, stream_id: int, status: int, message: str = "") -> None:
        """Over."""


def alive() -> int:
    return sum(isinstance(each, KINDS) for each in gc.get_objects())


@pytest.mark.parametrize("end", ["half_closed", "gone", "cut"])
def test_an_exchange_leaves_no_cycle_behind(end: str):
    governed = service()
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(5):
            call = _StreamCall(governed, Wire(), 1)
            call.carry(ProcessStream(governed, CallMetadata("api"), call))
            assert governed.open_streams == 1
            for message in (request_headers(), response_headers(), response_body(b"{}")):
                call.message(message)
                governed.flush()
            assert alive() > before
            if end == "cut":
                call.cut("over")
            else:
                getattr(call, end)()
            assert governed.open_streams == 0
            del call
        assert alive() == before
    finally:
        gc.enable()
