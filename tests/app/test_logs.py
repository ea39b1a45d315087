"""What breaks unexpectedly is logged by kind and place, never by its text: that may quote a value."""

from __future__ import annotations

import json
import subprocess
import sys

CANARY = "canary-7f3a9c@example.com"
CODE = f"""
import structlog
from extproc.app.logs import set_up_logs
set_up_logs("worker-0")
log = structlog.get_logger()
try:
    try:
        int({CANARY!r})
    except ValueError as error:
        raise KeyError({CANARY!r}) from error
except KeyError:
    log.exception("exchange.failed", kind="request_body")
log.info("worker.ready")
"""


def test_a_fault_is_logged_by_kind_and_place_without_its_text() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=True
    )
    failed, ready = map(json.loads, done.stderr.splitlines())
    assert CANARY not in done.stderr
    assert (failed["event"], failed["kind"], failed["level"]) == ("exchange.failed", "request_body", "error")
    assert [fault["type"] for fault in failed["faults"]] == ["KeyError", "ValueError"]
    assert failed["faults"][0]["at"][-1].startswith("<string>:")
    assert "exc_info" not in failed
    assert "faults" not in ready
