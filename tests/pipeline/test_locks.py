"""Whom a lock means, for how long, and what it keeps from happening."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapters.lock_file import LockFile
from extproc.domain.errors import StoreUnavailableError
from extproc.domain.lock import MAX_LOCKS, MAX_NAME, Lock, locks_of
from extproc.domain.principal import Principal
from extproc.pipeline.database_steps import RefuseLogin, Run, Stop
from extproc.pipeline.locks import LockBoard
from tests.pipeline.test_statements import World, held_of
from tests.support.governed import NOW

ALICE = Principal("https://issuer", "alice", "agent", "alice@example.com")
LOCK = Lock("lock_1", "olga", "why", NOW, subject="alice")


@pytest.mark.parametrize(
    ("whom", "meant"),
    [
        ({"subject": "alice"}, True),
        ({"subject": "alice", "issuer": "https://issuer"}, True),
        ({"subject": "alice", "issuer": "https://other"}, False),
        ({"subject": "Alice"}, False),
        ({"subject": "alice@example.com"}, False),
        ({"person": "alice@example.com"}, True),
        ({"person": "alice"}, False),
        ({"session": "ses_1"}, True),
        ({"session": "ses_2"}, False),
    ],
)
def test_a_lock_means_whom_it_names_and_nobody_else(whom: dict[str, Any], meant: bool) -> None:
    board = LockBoard([Lock("lock_1", "olga", "why", NOW, **whom)])
    assert (board.find(ALICE, "ses_1", NOW) is not None) is meant


def test_a_lock_ends_by_itself_or_never() -> None:
    assert LockBoard([LOCK]).find(ALICE, "", NOW + 1e9) is LOCK
    board = LockBoard([replace(LOCK, expires_at=NOW + 5)])
    assert board.find(ALICE, "", NOW + 4) is not None
    assert board.find(ALICE, "", NOW + 5) is None


def test_an_expired_lock_does_not_hide_one_that_holds() -> None:
    assert LockBoard([replace(LOCK, expires_at=NOW), LOCK]).find(ALICE, "", NOW) is LOCK


def test_a_locked_caller_does_not_get_in() -> None:
    world = World()
    world.gov.locks.replace([LOCK])
    step = world.login("alice")
    assert isinstance(step, RefuseLogin) and step.sqlstate == "28000"
    assert step.records[0].fields["code"] == "locked"


def test_a_session_that_is_locked_runs_nothing_more_and_no_approval_is_used() -> None:
    world = World()
    world.login("alice")
    assert isinstance(world.decide("SELECT 1"), Run)
    waits = world.ask("INSERT INTO payments VALUES (1)")
    wait: Any = waits.decide(NOW)
    world.gov.locks.replace([replace(LOCK, subject="", session=world.session.scribe.session_id)])
    assert waits.recheck(held_of(wait), NOW) == "locked"
    step = world.decide("SELECT 1")
    assert isinstance(step, Stop)
    assert step.sqlstate == "57P01" and step.ends_session and "locked" in step.detail
    world.gov.locks.replace([])
    assert isinstance(world.decide("SELECT 1"), Run)


# ---------------------------------------------------------------------- how they are kept


def test_locks_come_back_as_they_were_kept(tmp_path: Path) -> None:
    file = LockFile(tmp_path / "locks.json")
    assert file.load() == ()
    kept = (LOCK, Lock("lock_2", "olga", "\u202e", NOW, NOW + 5, person="b"))
    file.save(kept)
    assert file.load() == kept
    assert (tmp_path / "locks.json").stat().st_mode & 0o777 == 0o600
    file.save(())
    assert file.load() == ()


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[{}]", b"[1]", b"null", b"\xff", orjson.dumps([{**LOCK.to_data(), "subject": ""}]),
     orjson.dumps([{**LOCK.to_data(), "more": 1}]), orjson.dumps([{**LOCK.to_data(), "person": "two"}]),
     orjson.dumps([{**LOCK.to_data(), "at": True}]), orjson.dumps([{**LOCK.to_data(), "id": 7}])],
)  # fmt: skip
def test_what_is_no_list_of_locks_is_refused_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "locks.json").write_bytes(content)
    with pytest.raises(StoreUnavailableError):
        LockFile(tmp_path / "locks.json").load()


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError):
        LockFile(tmp_path).load()
    with pytest.raises(StoreUnavailableError):
        LockFile(tmp_path / "none" / "locks.json").save([LOCK])


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*LOCK.to_data(), "x"]), inner, max_size=9)
        ),
    )
)
def test_any_data_is_locks_or_an_error(data: Any) -> None:
    try:
        assert all(isinstance(lock, Lock) for lock in locks_of(data))
    except ValueError:
        pass


def test_all_locks_fit_into_one_message_to_a_worker() -> None:
    from extproc.adapters.control import MAX_LINE

    name = "\U0001f512" * MAX_NAME
    longest = Lock("lock_" + "f" * 16, "", "", NOW, NOW, subject=name, issuer=name)
    assert len(orjson.dumps({"locks": [longest.to_data()] * MAX_LOCKS, "version": 1})) < MAX_LINE
