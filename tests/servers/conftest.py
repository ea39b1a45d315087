"""What tests of mutual TLS share."""

from __future__ import annotations

import pytest

from tests.support.mtls import LOOPS, Mutual


@pytest.fixture(scope="module")
def mutual(tmp_path_factory: pytest.TempPathFactory) -> Mutual:
    return Mutual(tmp_path_factory.mktemp("pki"))


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)
