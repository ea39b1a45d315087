"""Locks by the approvals API: operators alone, with a reason, recorded before they are in force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from extproc.domain.errors import StoreUnavailableError
from extproc.domain.lock import Lock
from tests.support.approvals import Desk
from tests.support.holds import NOW, MemoryHoldStore

pytestmark = pytest.mark.anyio
WHOM = {"subject": "alice", "reason": "incident 7"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Keeper:
    """The supervisor's part, in memory."""

    def __init__(self) -> None:
        self.locks: dict[str, Lock] = {}
        self.error = ""
        self.gone = False

    async def __call__(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.gone:
            raise StoreUnavailableError("the supervisor did not answer")
        if self.error:
            return {"error": self.error}
        if "list" in asked:
            return {"locks": [lock.to_data() for lock in self.locks.values()]}
        if "add" in asked:
            lock = Lock.of(asked["add"])
            self.locks[lock.id] = lock
        else:
            found = self.locks.pop(asked["remove"], None)
            if found is None:
                return {"error": "no_such_lock"}
            lock = found
        return {"lock": lock.to_data(), "workers": 2}


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


@pytest.fixture
def desk(keeper: Keeper) -> Desk:
    return Desk(MemoryHoldStore(), locks=keeper)


async def test_an_operator_locks_lists_and_unlocks(desk: Desk, keeper: Keeper):
    made = await desk.call("operator", "POST", "/v1/locks", json={**WHOM, "expires_in": 60})
    assert made.status_code == 200
    assert (made.json()["subject"], made.json()["workers"]) == ("alice", 2)
    (lock,) = keeper.locks.values()
    assert (lock.subject, lock.issuer, lock.at, lock.expires_at) == ("alice", "", NOW, NOW + 60)
    listed = await desk.call("operator", "GET", "/v1/locks")
    assert [each["id"] for each in listed.json()["locks"]] == [lock.id]
    done = await desk.call("operator", "POST", f"/v1/locks/{lock.id}/remove", json={"reason": "over"})
    assert done.status_code == 200 and not keeper.locks
    assert desk.kinds() == ["admin.lock", "evidence.locks_listed", "admin.unlock"]
    fields = desk.records[0].fields
    assert (fields["lock"], fields["subject"], fields["reason"]) == (lock.id, "alice", "incident 7")


@pytest.mark.parametrize("token", ["anna", "auditor", "agent"])
async def test_nobody_else_may(desk: Desk, keeper: Keeper, token: str):
    for method, path, body in (
        ("GET", "/v1/locks", None),
        ("POST", "/v1/locks", WHOM),
        ("POST", "/v1/locks/lock_1/remove", {"reason": "x"}),
    ):
        answer = await desk.call(token, method, path, **({"json": body} if body else {}))
        assert (answer.status_code, answer.json()["code"]) == (403, "not_operator")
    assert not keeper.locks and desk.kinds() == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"subject": "alice"}, "reason_required"),
        ({"reason": "x"}, "bad_whom"),
        ({"reason": "x", "issuer": "i"}, "bad_whom"),
        ({"reason": "x", "person": "p", "issuer": "i"}, "bad_whom"),
        ({"reason": "x", "subject": "a", "session": "s"}, "bad_whom"),
        ({"reason": "x", "subject": ""}, "bad_whom"),
        ({"reason": "x", "subject": 7}, "bad_whom"),
        ({"reason": "x", "subject": "a" * 256}, "bad_whom"),
        ({"reason": "x", "subject": "a\x00"}, "bad_whom"),
        ({**WHOM, "expires_in": 0}, "bad_expiry"),
        ({**WHOM, "expires_in": -1}, "bad_expiry"),
        ({**WHOM, "expires_in": True}, "bad_expiry"),
        ({**WHOM, "expires_in": 1.5}, "bad_expiry"),
        ({**WHOM, "forever": True}, "unknown_member"),
    ],
)
async def test_what_is_not_clear_locks_nobody(desk: Desk, keeper: Keeper, body: Any, code: str):
    answer = await desk.call("operator", "POST", "/v1/locks", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert not keeper.locks and desk.kinds() == []


async def test_a_lock_that_cannot_be_recorded_is_not_made(desk: Desk, keeper: Keeper):
    desk.ledger_down = True
    answer = await desk.call("operator", "POST", "/v1/locks", json=WHOM)
    assert answer.status_code == 503 and not keeper.locks


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [("too_many_locks", 409, "too_many_locks"), ("unavailable", 503, "store_unavailable")],
)
async def test_what_the_supervisor_refuses_is_said_and_recorded(
    desk: Desk, keeper: Keeper, error: str, status: int, code: str
):
    keeper.error = error
    answer = await desk.call("operator", "POST", "/v1/locks", json=WHOM)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert desk.kinds() == ["admin.lock", "admin.refused"]


async def test_without_an_answer_of_the_supervisor_nothing_is_promised(desk: Desk, keeper: Keeper):
    keeper.gone = True
    answer = await desk.call("operator", "POST", "/v1/locks", json=WHOM)
    assert answer.status_code == 503
    assert desk.kinds() == ["admin.lock", "admin.refused"]


@pytest.mark.parametrize("lock_id", ["lock_none", "lock.none"])
async def test_an_unknown_lock_is_404(desk: Desk, lock_id: str):
    answer = await desk.call("operator", "POST", f"/v1/locks/{lock_id}/remove", json={"reason": "x"})
    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_lock")


async def test_where_there_are_no_locks_there_is_no_such_path():
    answer = await Desk(MemoryHoldStore()).call("operator", "POST", "/v1/locks", json=WHOM)
    assert (answer.status_code, answer.json()["code"]) == (404, "no_such_path")
