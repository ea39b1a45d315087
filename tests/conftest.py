"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# A database is started as another user, which Python does by fork: gRPC's handlers for that, run in the child while
# the channels of other tests are open, can hang it before it becomes the database. Read when gRPC is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# No test judges by the clock: a busy machine is no failure.
settings.register_profile("extproc", deadline=None)
settings.load_profile("extproc")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI says so, a test that cannot run has failed: nothing is believed that was not looked at."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"not run, which CI does not take: {reason}"
    return report
