"""Everything that is asked of grpcio's transport, asked of the lean one."""

from __future__ import annotations

import pytest

from extproc.servers.lean_transport import LeanServer
from tests.servers.test_grpc_transport import *  # noqa: F403  (the same tests, against another server)
from tests.support import streams


@pytest.fixture(autouse=True)
def lean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "GrpcServer", LeanServer)


# grpcio runs a handler per call that somebody could cancel, and a task that writes; here there is none
del test_a_cancelled_handler_ends_badly, test_a_status_overtakes_no_reply_that_is_on_its_way  # noqa: F821
