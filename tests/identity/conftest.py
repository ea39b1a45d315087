"""One issuer for the whole run: making RSA keys is slow. Tests that rotate or withdraw make their own."""

from __future__ import annotations

import pytest

from extproc.demo.issuer import Issuer

NOW = 1_900_000_000.0


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer(clock=lambda: NOW)
