"""One Check call: decided at once unless it must wait, answered after its records, denied when in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.servers.envoy_proto import CallMetadata
from extproc.servers.ext_authz import Check
from extproc.servers.ext_proc import ProcessStream
from extproc.servers.service import Service
from extproc.servers.wire import ext_authz_pb2 as az
from extproc.servers.wire import ext_proc_pb2 as pb
from tests.support.governed import NOW, Believes, governance
from tests.support.holds import MemoryHoldStore, vote
from tests.support.streams import (
    FIONA,
    POLICY,
    Keys,
    MemoryChannel,
    MemoryLedger,
    pending,
    request_headers,
    service,
)


def ask(
    method: str = "GET", path: str = "/stream", *more: tuple[str, str], who: str = "alice", body: bytes = b""
) -> bytes:
    request = az.CheckRequest()
    request.attributes.context_extensions["extproc.target"] = "api"
    http = request.attributes.request.http
    http.method, http.path, http.host, http.scheme = method.encode(), path.encode(), b"api.example", b"http"
    http.raw_body = body
    for name, value in (("authorization", who), *more):
        http.header_map.headers.append(pb.HeaderValue(key=name.encode(), raw_value=value.encode()))
    return request.SerializeToString()


class Asked:
    """A call, and what was answered."""

    def __init__(self, of: Service) -> None:
        self.service = of
        self.answers: list[bytes | None] = []
        self.check = Check(of, CallMetadata(), self.answers.append)

    def __call__(self, data: bytes) -> Asked:
        self.check.receive(data)
        self.service.flush()
        return self

    @property
    def code(self) -> int:
        """The HTTP status of the one answer; 200 where it allows."""
        (answer,) = self.answers
        assert answer is not None
        reply = az.CheckResponse.FromString(answer)
        allows = reply.HasField("ok_response")
        assert (reply.status.code == 0) == allows  # Envoy reads the one, people the other
        return 200 if allows else reply.denied_response.status.code


@contextmanager
def no_task() -> Iterator[None]:
    """Outside of a loop nothing can be started."""
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    yield


async def until(asked: Asked) -> None:
    async with asyncio.timeout(10):
        while not asked.answers:
            await asyncio.sleep(0)


JSON = ("content-type", "application/json")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (ask(), 200),
        (ask("DELETE"), 403),
        (ask(who="nobody"), 401),
        (ask(path="/open"), 500),  # a mask, and there is no response here to put it on
        (ask("POST", "/pay", JSON, body=b'{"amount":5}'), 200),
        (ask("POST", "/pay", JSON, body=b'{"amount":5000}'), 403),
        (ask("POST", "/pay", JSON, ("x-envoy-auth-partial-body", "true"), body=b'{"amount":5'), 500),
    ],
)
def test_a_check_is_decided_without_a_task(data: bytes, code: int):
    ledger = MemoryLedger()
    with no_task():
        asked = Asked(service(ledger=ledger))(data)
    assert asked.code == code
    assert ledger.kinds == ["intent", "outcome"]
    assert asked.service.open_checks == 0


def test_the_answer_leaves_after_its_records_and_with_those_of_others_in_one_write():
    ledger = MemoryLedger()
    of = service(ledger=ledger)
    first, second = Asked(of), Asked(of)
    first.check.receive(ask())
    second.check.receive(ask("DELETE"))
    assert (first.answers, second.answers, ledger.commits, of.open_checks) == ([], [], 0, 2)
    of.flush()
    assert (first.code, second.code, ledger.commits, of.open_checks) == (200, 403, 1, 0)


@pytest.mark.parametrize("data", [ask(), ask("DELETE")])
def test_what_cannot_be_recorded_is_denied(data: bytes):
    ledger = MemoryLedger()
    ledger.broken = True
    asked = Asked(service(ledger=ledger))(data)
    assert asked.code == 503
    assert ledger.kinds == [] and asked.service.open_checks == 0


def test_a_ledger_that_takes_no_record_denies(monkeypatch: pytest.MonkeyPatch):
    ledger = MemoryLedger()

    def fail(_: object) -> None:
        raise TypeError("a float in a record")

    monkeypatch.setattr(ledger, "append", fail)
    asked = Asked(service(ledger=ledger))(ask())
    assert asked.answers == [None] or asked.code >= 500
    assert asked.service.open_checks == 0


def test_a_check_and_a_stream_of_one_batch_are_refused_together():
    ledger = MemoryLedger()
    of = service(ledger=ledger)
    channel, asked = MemoryChannel(), Asked(of)
    ProcessStream(of, CallMetadata("api"), channel).receive(request_headers())
    asked.check.receive(ask())
    ledger.fail_at = 1
    of.flush()
    assert asked.code == 503
    assert channel.sent[0].immediate_response.status.code == 503


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f", ask()[:-3]])
def test_what_is_no_request_gets_no_answer_of_ours(data: bytes):
    """The transport then says INTERNAL, and Envoy denies."""
    ledger = MemoryLedger()
    asked = Asked(service(ledger=ledger))(data)
    assert (asked.answers, ledger.kinds, asked.service.open_checks) == ([None], [], 0)


def test_a_part_that_does_not_parse_is_denied():
    message = az.AskedCheck.FromString(ask())
    message.attributes.request.http.header_map = b"\x0a\xff"
    assert Asked(service())(message.SerializeToString()).code == 500


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_and_none_of_them_allowed(data: bytes):
    asked = Asked(service())(data)
    assert asked.answers == [None] or asked.code >= 400
    assert asked.service.open_checks == 0


@given(st.data())
def test_a_request_with_bytes_changed_is_answered_once(data: st.DataObject):
    changed = bytearray(ask("POST", "/pay", JSON, body=b'{"amount":5}'))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    asked = Asked(service())(bytes(changed))
    assert len(asked.answers) == 1 and asked.service.open_checks == 0


# ---------------------------------------------------------------------- waiting


def test_a_hold_is_waited_for_and_then_allowed():
    async def main() -> None:
        store, ledger = MemoryHoldStore(), MemoryLedger()
        asked = Asked(service(holds=store, ledger=ledger))(ask("PUT", "/x"))
        hold = await pending(store)
        assert (asked.answers, asked.service.open_checks) == ([], 1)
        await store.vote(hold, vote(FIONA), NOW)
        await until(asked)
        assert (asked.code, asked.service.open_checks) == (200, 0)
        assert ledger.kinds == ["intent", "outcome"]

    asyncio.run(main())


def test_keys_are_waited_for_and_then_the_body_is_judged():
    async def main() -> None:
        believes = Believes()
        believes.keys_missing = True
        keys = Keys(lambda: setattr(believes, "keys_missing", False))
        of = service(governance(POLICY, identifier=believes), keys=keys)
        asked = Asked(of)(ask("POST", "/pay", JSON, body=b'{"amount":5}'))
        await until(asked)
        assert (asked.code, keys.refreshed) == (200, 1)

    asyncio.run(main())


def test_after_keys_a_hold_may_follow():
    async def main() -> None:
        believes, store = Believes(), MemoryHoldStore()
        believes.keys_missing = True
        keys = Keys(lambda: setattr(believes, "keys_missing", False))
        asked = Asked(service(governance(POLICY, identifier=believes), keys=keys, holds=store))(ask("PUT"))
        await store.vote(await pending(store), vote(FIONA), NOW)
        await until(asked)
        assert asked.code == 200

    asyncio.run(main())


def test_keys_that_do_not_come_deny():
    async def main() -> None:
        believes = Believes()
        believes.keys_missing = True
        for keys in (Keys(), Keys(lambda: 1 / 0)):
            asked = Asked(service(governance(POLICY, identifier=believes), keys=keys))(ask())
            await until(asked)
            assert asked.code >= 400

    asyncio.run(main())


def test_a_store_that_breaks_denies():
    async def main() -> None:
        asked = Asked(service(holds=Broken()))(ask("PUT"))
        await until(asked)
        assert asked.code >= 500

    asyncio.run(main())


class Broken(MemoryHoldStore):
    async def open(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("the store is gone")


def test_a_hold_that_settles_when_nothing_can_be_recorded_is_denied():
    async def main() -> None:
        store, ledger = MemoryHoldStore(), MemoryLedger()
        asked = Asked(service(holds=store, ledger=ledger))(ask("PUT"))
        hold = await pending(store)
        ledger.broken = True
        await store.vote(hold, vote(FIONA), NOW)
        await until(asked)
        assert asked.code == 503

    asyncio.run(main())


def test_whoever_leaves_while_waiting_is_recorded_and_never_answered():
    async def main() -> None:
        store, ledger = MemoryHoldStore(), MemoryLedger()
        asked = Asked(service(holds=store, ledger=ledger))(ask("PUT"))
        hold = await pending(store)
        asked.check.gone()
        (left,) = ledger.of("outcome")
        assert (left["executed"], left["end"], left["reason"]) == (False, "aborted", "cancelled")
        await store.vote(hold, vote(FIONA), NOW)
        for _ in range(20):
            await asyncio.sleep(0)
        asked.check.gone()
        assert (asked.answers, asked.service.open_checks) == ([], 0)
        assert ledger.kinds.count("outcome") == 1

    asyncio.run(main())


def test_leaving_before_or_after_everything_is_nothing():
    ledger = MemoryLedger()
    asked = Asked(service(ledger=ledger))
    asked.check.gone()
    assert (asked.answers, ledger.kinds, asked.service.open_checks) == ([], [], 0)
    asked(ask())
    asked.check.gone()
    assert (asked.code, ledger.kinds, asked.service.open_checks) == (200, ["intent", "outcome"], 0)


def test_leaving_between_decision_and_record_leaves_the_record():
    ledger = MemoryLedger()
    asked = Asked(service(ledger=ledger))
    asked.check.receive(ask())
    asked.check.gone()
    asked.service.flush()
    assert (asked.answers, asked.service.open_checks) == ([], 0)
    assert ledger.kinds[:2] == ["intent", "outcome"]
