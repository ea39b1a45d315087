"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from extproc.app.form import is_compiled
from extproc.demo import processes
from tests.support import ports

# A database is started as another user, which Python does by fork: gRPC's handlers for that, run in the child while
# the channels of other tests are open, can hang it before it becomes the database. Read when gRPC is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# What a test starts listens where no other worker's test will.
processes.free_ports = ports.free_ports

# No test judges by the clock: a busy machine is no failure.
settings.register_profile("extproc", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("extproc")


# The step that tests the compiled form says so; it must not pass on the other one.
if os.environ.get("EXTPROC_FORM") == "compiled" and not is_compiled():
    raise RuntimeError("the tests of the compiled form found the interpreted one: see `make compiled-tests`")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out, and say why, what says nothing about the compiled form."""
    if is_compiled() and (mark := item.get_closest_marker("pure_only")) is not None:
        pytest.skip(f"interpreted form only: {mark.args[0]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI says so, a test that cannot run has failed: nothing is believed that was not looked at.

    What is left out of the compiled form was looked at in the other one.
    """
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        if is_compiled() and item.get_closest_marker("pure_only") is not None:
            return report
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"not run, which CI does not take: {reason}"
    return report
