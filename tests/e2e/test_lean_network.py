"""Network external processing behind a real Envoy, as for grpcio, with the lean transport."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from extproc.servers.lean_transport import LeanServer
from tests.e2e import test_network_ext_proc
from tests.e2e.test_network_ext_proc import *  # noqa: F403  (the same tests, against another server)


@pytest.fixture(autouse=True, scope="module")
def lean() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_network_ext_proc, "GrpcServer", LeanServer)
        yield
