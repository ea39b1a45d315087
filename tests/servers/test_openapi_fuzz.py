"""Whatever schemathesis makes of our OpenAPI document, the API answers as the document says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi import checks

from extproc.domain.hold import HeldRequest
from extproc.servers import hold_events
from tests.support.approvals import Desk
from tests.support.holds import NOW, MemoryHoldStore, ask


class Impatient(MemoryHoldStore):
    """Nobody waits: a call that asks to is answered at once."""

    async def changed(self, hold_id: str, version: int, timeout: float) -> HeldRequest | None:
        held = self._holds[hold_id]
        return held if held.version != version else None

    async def news(self, since: int, timeout: float) -> int:
        return len(self._moves)


async def no_locks(asked: Any) -> Any:
    return {"locks": [], "workers": 1} if "list" in asked else {"error": "no_such_lock"}


DESK = Desk(Impatient(), locks=no_locks)
HELD = asyncio.run(DESK.store.open(ask(), NOW))
SCHEMA = schemathesis.openapi.from_asgi("/v1/openapi.json", DESK.app, config=SchemathesisConfig())
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    not_a_server_error,
]
WHO = ("anna", "agent", "operator", "stranger", "forged", "")


@pytest.fixture(autouse=True)
def streams_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_events, "LONGEST", 0.0)


@SCHEMA.parametrize()
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_the_document_says(case: Any):
    for number, who in enumerate(WHO):
        if number % 2 == 0 and "hold_id" in (case.path_parameters or {}):
            case.path_parameters["hold_id"] = HELD.id
        headers = {"authorization": f"Bearer {who}"} if who else {}
        answer = case.call(headers=headers)
        assert answer.status_code != 500
        case.validate_response(answer, checks=CHECKS if answer.status_code != 503 else CHECKS[:1])
