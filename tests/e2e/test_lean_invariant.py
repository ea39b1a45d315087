"""The first invariant behind a real Envoy, as for grpcio, with the lean transport."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from extproc.servers import lean_calls
from extproc.servers.lean_transport import LeanServer
from tests.e2e.test_invariant import *  # noqa: F403  (the same tests, against another server)
from tests.e2e.test_invariant import InProcess
from tests.support import streams


@pytest.fixture(autouse=True, scope="module")
def lean() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "GrpcServer", LeanServer)
        yield


def test_replies_that_get_lost_let_nothing_through(  # type: ignore[no-redef]
    shared: InProcess, monkeypatch: pytest.MonkeyPatch
):
    """The same with this transport's way back."""
    before = shared.upstream.count()
    monkeypatch.setattr(lean_calls._StreamCall, "send", lambda *_: None)
    reply = shared.send("GET", "/open")
    assert reply is not None and reply.status >= 500
    assert shared.upstream.count() == before
