"""`docs/approvals.md` names the calls, codes and limits there are."""

from __future__ import annotations

import re
from pathlib import Path

from extproc.servers import approvals_api, approvals_input
from extproc.servers.approvals_problems import STATUS_OF
from tests.support.approvals import OPENAPI

PAGE = (Path(__file__).parents[2] / "docs" / "approvals.md").read_text(encoding="utf-8")
SERVERS = Path(approvals_api.__file__).parent


def test_every_call_is_on_the_page():
    named = {(method, path) for method, path in re.findall(r"\| `(GET|POST) (/v1/[^?`]*)", PAGE)}
    real = {
        (method.upper(), re.sub(r"{\w+}", "{id}", path))
        for path, operations in OPENAPI["paths"].items()
        for method in operations
    }
    assert named == {(method, path) for method, path in real if path != "/v1/openapi.json"}


def test_every_code_is_on_the_page():
    sources = "".join(
        file.read_text()
        for file in [*SERVERS.glob("approvals_*.py"), SERVERS / "deciding.py", SERVERS / "hold_events.py"]
    )
    codes = set(re.findall(r'ProblemError\(\s*\d+, "(\w+)"', sources)) | set(
        re.findall(r'unauthorized\(\s*"(\w+)"', sources)
    )
    assert len(codes) > 15
    unused_here = {"already_voted", "too_many", "internal"}
    assert {code for code in codes | set(STATUS_OF) if f"`{code}`" not in PAGE} <= unused_here


def test_the_limits_are_those_of_the_code():
    assert f"| one call kept open | {approvals_input.MAX_WAIT} s" in PAGE
    assert f"| calls kept open at once | {approvals_api.OPEN_WAITS} |" in PAGE
    assert f"| holds in one list | {approvals_input.MAX_LIMIT} |" in PAGE
    sizes = f"{approvals_input.MAX_TOKEN >> 10} KiB, {approvals_input.MAX_BODY >> 10} KiB"
    assert f"| token, body, reason | {sizes}" in PAGE
