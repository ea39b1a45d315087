"""One Process stream: whatever goes wrong, the answer is a refusal, and what is not written down does not happen."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from extproc.domain.hold import HoldState
from extproc.pipeline import HttpExchange
from extproc.servers.wire import ext_proc_pb2 as pb
from tests.support.governed import CREDENTIAL, NOW, Believes, credential, governance
from tests.support.holds import MemoryHoldStore, vote
from tests.support.streams import (
    FIONA,
    POLICY,
    Keys,
    MemoryLedger,
    Played,
    first,
    pending,
    request_body,
    request_headers,
    response_body,
    response_headers,
    service,
)

OPEN = request_headers()
WRITE = request_headers("POST", "/pay", ("content-type", "application/json"), end=False)
HOLD = request_headers("PUT", "/x")
SMALL = request_body(b'{"amount":5}')
ANSWER = (response_headers(), response_body(b'{"mail":"ann@example.com"}'))


def body_of(reply: pb.ProcessingResponse) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reply.immediate_response.body)
    return found


# ---------------------------------------------------------------------- the ordinary course


def test_an_exchange_is_answered_message_by_message():
    played = Played(service())(OPEN, *ANSWER)
    assert played.kinds == ["request_headers", "response_headers", "response_body"]
    assert played.channel.sent[-1].response_body.response.body_mutation.body == b'{"mail":"[EMAIL_ADDRESS]"}'


def test_records_are_committed_before_the_reply_leaves():
    ledger = MemoryLedger()
    played = Played(service(ledger=ledger))
    played.stream.receive(OPEN)
    assert (played.kinds, ledger.kept) == ([], [])
    played.service.flush()
    assert (played.kinds, ledger.kinds) == (["request_headers"], ["intent"])


def test_several_streams_share_one_commit():
    ledger = MemoryLedger()
    shared = service(ledger=ledger)
    streams = [Played(shared) for _ in range(5)]
    for played in streams:
        played.stream.receive(OPEN)
    shared.flush()
    assert ledger.commits == 1
    assert [played.kinds for played in streams] == [["request_headers"]] * 5


def test_only_the_calls_own_metadata_names_the_target():
    played = Played(service(), target="")(OPEN)
    assert (played.status, body_of(played.channel.sent[-1])["code"]) == (403, "no-target")
    played = Played(service(), target="another")(OPEN)
    assert body_of(played.channel.sent[-1])["code"] == "no-target"


# ---------------------------------------------------------------------- what Envoy should not send


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x12\xff\xff\xff\xff\x0f", b"garbage", OPEN[:-3]])
def test_a_message_that_does_not_parse_ends_the_stream(data):
    played = Played(service())(data)
    assert played.channel.aborted and not played.channel.sent


def test_a_message_without_a_request_ends_the_stream():
    for empty in (b"", first(pb.ProcessingRequest()).SerializeToString()):
        played = Played(service())(empty)
        assert played.channel.aborted and not played.channel.sent


def test_nothing_is_answered_after_the_end():
    played = Played(service())(b"garbage", OPEN, *ANSWER)
    assert played.channel.sent == []


def test_a_broken_message_in_the_middle_is_recorded_and_ends_the_stream():
    ledger = MemoryLedger()
    played = Played(service(ledger=ledger))(OPEN, b"garbage")
    assert played.channel.aborted
    (outcome,) = ledger.of("outcome")
    assert (outcome["end"], outcome["executed"]) == ("aborted", None)


def test_request_headers_that_come_twice_are_refused():
    played = Played(service())(OPEN, OPEN)
    assert played.kinds == ["request_headers", "immediate_response"]
    assert played.status == 500


BAD = b"\x0a\xff"


@pytest.mark.parametrize(
    "part", [pb.Asked(attributes=[BAD]), pb.Asked(metadata_context=BAD), pb.Asked(protocol_config=BAD)]
)
def test_a_part_that_does_not_parse_lets_nothing_through(part: pb.Asked):
    message = pb.Asked.FromString(OPEN)
    message.ClearField("protocol_config" if part.HasField("protocol_config") else "attributes")
    message.MergeFrom(part)
    played = Played(service())(message.SerializeToString())
    assert played.channel.aborted or played.kinds == ["immediate_response"]
    assert not (played.channel.aborted and played.kinds)


def without_config() -> bytes:
    message = pb.ProcessingRequest.FromString(OPEN)
    message.ClearField("protocol_config")
    return message.SerializeToString()


def with_modes(request: str, response: str, raw: bytes = OPEN) -> bytes:
    return first(pb.ProcessingRequest.FromString(raw), request, response).SerializeToString()


def observing() -> bytes:
    message = pb.ProcessingRequest.FromString(OPEN)
    message.observability_mode = True
    return message.SerializeToString()


def as_first(raw: bytes) -> bytes:
    return first(pb.ProcessingRequest.FromString(raw)).SerializeToString()


@pytest.mark.parametrize(
    "message",
    [
        without_config(),
        observing(),
        with_modes("BUFFERED_PARTIAL", "BUFFERED"),
        with_modes("BUFFERED", "FULL_DUPLEX_STREAMED"),
        with_modes("BUFFERED", "GRPC"),
        as_first(SMALL),
        as_first(response_body(b"x")),
        first(pb.ProcessingRequest(request_trailers=pb.HttpTrailers())).SerializeToString(),
    ],
    ids=[
        "no-config",
        "observing",
        "partial",
        "duplex",
        "grpc",
        "body-first",
        "response-body-first",
        "trailers-first",
    ],
)
def test_an_envoy_that_shows_too_little_is_refused(message):
    ledger = MemoryLedger()
    played = Played(service(ledger=ledger))(message)
    assert played.kinds == ["immediate_response"]
    assert (played.status, body_of(played.channel.sent[0])["code"]) == (500, "envoy-misconfigured")
    assert ledger.kinds == ["intent", "outcome"]


def test_a_stream_that_begins_with_a_local_reply_is_recorded_and_passed():
    ledger = MemoryLedger()
    played = Played(service(ledger=ledger))(
        as_first(response_headers(403, "text/plain")), response_body(b"RBAC")
    )
    assert played.kinds == ["response_headers", "response_body"]
    assert ledger.of("intent")[0]["verdict"] == "unseen"
    assert ledger.of("outcome")[0]["end"] == "local_reply"


def test_a_response_body_without_its_headers_is_withheld():
    """Envoy configured to skip the response headers: nobody could choose a mask for what follows."""
    ledger = MemoryLedger()
    played = Played(service(ledger=ledger))(OPEN, response_body(b'{"mail":"ann@example.com"}'))
    assert played.kinds == ["request_headers", "immediate_response"]
    assert ledger.of("outcome")[0]["executed"] is True


@pytest.mark.parametrize(
    "before", [HOLD, request_headers("POST", "/pay", ("content-type", "application/json"), who="later")]
)
def test_a_body_that_comes_before_its_decision_goes_nowhere(before):
    async def main() -> Played:
        believes = Believes()
        believes.keys_missing = before != HOLD
        return Played(service(governance(POLICY, identifier=believes)))(before, SMALL)

    played = asyncio.run(main())
    assert "request_body" not in played.kinds


# ---------------------------------------------------------------------- faults of ours

PHASES = {
    "request_headers": (OPEN,),
    "request_body": (WRITE, SMALL),
    "response_headers": (OPEN, ANSWER[0]),
    "response_body": (OPEN, *ANSWER),
}


REPLACED = pytest.mark.pure_only("puts a fault in place of a method, which compiled code calls directly")


@REPLACED
@pytest.mark.parametrize("error", [RuntimeError, KeyError, RecursionError, MemoryError, AssertionError])
@pytest.mark.parametrize("phase", PHASES)
def test_a_fault_in_any_phase_refuses_in_band(monkeypatch: pytest.MonkeyPatch, phase, error):
    ledger = MemoryLedger()
    played = Played(service(ledger=ledger))(*PHASES[phase][:-1])

    def fail(*_: object) -> None:
        raise error("Bearer secret")

    monkeypatch.setattr(HttpExchange, phase, fail)
    played(PHASES[phase][-1])
    assert not played.channel.aborted
    assert played.kinds[-1] == "immediate_response"
    problem = body_of(played.channel.sent[-1])
    assert (played.status, problem["code"]) == (500, "internal-error")
    assert "secret" not in str(problem) + str(ledger.kept)
    assert problem["executed"] is phase.startswith("response")
    assert ledger.kinds == ["intent", "outcome"]
    assert ledger.of("outcome")[0]["executed"] is phase.startswith("response")


@REPLACED
@pytest.mark.parametrize("phase", PHASES)
def test_a_fault_while_refusing_a_fault_cuts_the_stream(monkeypatch: pytest.MonkeyPatch, phase):
    played = Played(service())(*PHASES[phase][:-1])
    before = len(played.channel.sent)

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(HttpExchange, phase, fail)
    monkeypatch.setattr(HttpExchange, "failed", fail)
    played(PHASES[phase][-1])
    assert played.channel.aborted and len(played.channel.sent) == before


@REPLACED
def test_a_fault_in_the_middle_of_a_stream_cuts_it(monkeypatch: pytest.MonkeyPatch):
    """Its headers and first piece are with the client: there is no other way to say no."""
    gov = governance(POLICY, credential=credential())
    played = Played(service(gov))(
        request_headers(path="/stream"),
        response_headers(media="text/event-stream"),
        response_body(b"data: 1\n\n", end=False),
    )

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(HttpExchange, "response_body", fail)
    played(response_body(b"data: 2\n\n", end=False))
    assert played.channel.aborted and played.kinds == ["request_headers", "response_headers", "response_body"]


@REPLACED
def test_a_first_message_that_breaks_before_its_head_is_read_is_refused(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("extproc.servers.ext_proc.request_head", fail)
    played = Played(service())(OPEN)
    assert (played.kinds, played.status) == (["immediate_response"], 500)


@pytest.mark.parametrize("error", [RuntimeError, KeyError, RecursionError, MemoryError, AssertionError])
@pytest.mark.parametrize("phase", PHASES)
def test_a_part_that_breaks_once_in_any_phase_is_refused_in_band(phase, error):
    """Every message asks for the time: a clock that fails is a fault in the middle of it."""
    broken: list[bool] = []

    def now() -> float:
        if broken:
            broken.clear()
            raise error("Bearer secret")
        return NOW

    ledger = MemoryLedger()
    played = Played(service(now=now, ledger=ledger))(*PHASES[phase][:-1])
    before = len(played.channel.sent)
    broken.append(True)
    played(PHASES[phase][-1])
    told = played.kinds[before:]
    if before:
        assert (told, played.status, played.channel.aborted) == (["immediate_response"], 500, [])
        assert ledger.kinds == ["intent", "outcome"]
    else:
        assert (told, played.channel.aborted) == (
            [],
            ["internal error"],
        )  # there is no exchange yet that could refuse
    assert "secret" not in str(played.channel.sent) + str(ledger.kept)


def test_a_clock_that_breaks_lets_nothing_pass():
    def broken() -> float:
        raise OSError("no clock")

    played = Played(service(now=broken))(OPEN)
    assert "request_headers" not in played.kinds
    assert played.channel.aborted or played.status >= 500


# ---------------------------------------------------------------------- the ledger fails

SCRIPTS = {
    "allow": (OPEN, *ANSWER),
    "body": (WRITE, SMALL, *ANSWER),
    "deny": (request_headers("DELETE"),),
    "no-token": (request_headers(who=""),),
    "no-target-local-reply": (as_first(response_headers(403)), response_body(b"x")),
    "empty-response": (OPEN, response_headers(204, end=True)),
    "stream": (
        request_headers(path="/stream"), response_headers(media="text/event-stream"),
        response_body(b"data: 1\n\n", end=False), response_body(b"data: 2\n\n"),
    ),
}  # fmt: skip
COMMITS = [(name, number) for name, script in SCRIPTS.items() for number in range(1, len(script) + 1)]


@pytest.mark.parametrize(("name", "number"), COMMITS)
def test_a_write_that_fails_refuses_its_reply_whatever_the_phase(name, number):
    """The n-th commit fails: that reply becomes a 503 or a cut, and nothing of the exchange follows."""
    ledger = MemoryLedger()
    gov = governance(POLICY, credential=credential())
    played = Played(service(gov, ledger=ledger))
    ledger.fail_at = number
    played(*SCRIPTS[name])
    if played.channel.aborted:
        assert len(played.kinds) == number - 1
        return
    assert played.kinds[-1] == "immediate_response"
    assert len(played.kinds) == number
    assert (played.status, body_of(played.channel.sent[-1])["code"]) == (503, "ledger-unavailable")
    for reply in played.channel.sent[:-1]:
        assert reply.WhichOneof("response") != "immediate_response"


def test_a_refusal_after_the_request_ran_does_not_claim_that_it_did_not():
    ledger = MemoryLedger()
    played = Played(service(ledger=ledger))(OPEN, ANSWER[0])
    ledger.broken = True
    played(ANSWER[1])
    problem = body_of(played.channel.sent[-1])
    assert (problem["code"], problem["executed"]) == ("ledger-unavailable", True)
    ledger.broken = True
    problem = body_of(Played(service(ledger=ledger))(OPEN).channel.sent[-1])
    assert problem["executed"] is False


def test_one_failed_write_refuses_every_stream_of_its_batch():
    ledger = MemoryLedger()
    shared = service(ledger=ledger)
    streams = [Played(shared) for _ in range(4)]
    ledger.broken = True
    for played in streams:
        played.stream.receive(OPEN)
    shared.flush()
    assert [(played.kinds, played.status) for played in streams] == [(["immediate_response"], 503)] * 4
    ledger.broken = False
    assert Played(shared)(OPEN).kinds == ["request_headers"]
    assert ledger.kinds == ["intent"]


def test_an_append_that_fails_refuses(monkeypatch: pytest.MonkeyPatch):
    from extproc.domain.errors import LedgerUnavailableError

    ledger = MemoryLedger()

    def fail(_: object) -> None:
        raise LedgerUnavailableError("closed")

    monkeypatch.setattr(ledger, "append", fail)
    played = Played(service(ledger=ledger))(OPEN)
    assert (played.kinds, played.status) == (["immediate_response"], 503)


def test_an_unexpected_fault_of_the_ledger_refuses(monkeypatch: pytest.MonkeyPatch):
    ledger = MemoryLedger()

    def fail(_: object) -> None:
        raise TypeError("a float in a record")

    monkeypatch.setattr(ledger, "append", fail)
    played = Played(service(ledger=ledger))(OPEN)
    assert "request_headers" not in played.kinds
    assert played.channel.aborted or played.status >= 500


# ---------------------------------------------------------------------- waiting


async def settled(played: Played, count: int) -> None:
    async with asyncio.timeout(10):
        while len(played.channel.sent) < count and not played.channel.aborted:
            await asyncio.sleep(0)


def test_a_hold_asks_for_time_at_once_and_alone():
    async def main() -> None:
        store = MemoryHoldStore()
        played = Played(service(holds=store))(HOLD)
        assert played.kinds == ["timeout"]
        assert played.channel.sent[0].override_message_timeout.seconds >= 60
        await store.vote(await pending(store), vote(FIONA), NOW)
        await settled(played, 2)
        assert played.kinds == ["timeout", "request_headers"]

    asyncio.run(main())


def test_keys_that_arrive_let_the_request_be_judged():
    async def main() -> None:
        believes = Believes()
        believes.keys_missing = True
        keys = Keys(lambda: setattr(believes, "keys_missing", False))
        played = Played(service(governance(POLICY, identifier=believes), keys=keys))(OPEN)
        await settled(played, 2)
        assert played.kinds == ["timeout", "request_headers"]
        assert keys.refreshed == 1

    asyncio.run(main())


def test_a_hold_after_a_key_fetch_asks_for_time_only_once():
    """Envoy ignores the second override of one message, so the first must be long enough for both waits."""

    async def main() -> None:
        believes, store = Believes(), MemoryHoldStore()
        believes.keys_missing = True
        keys = Keys(lambda: setattr(believes, "keys_missing", False))
        played = Played(service(governance(POLICY, identifier=believes), keys=keys, holds=store))(HOLD)
        hold_id = await pending(store)
        assert played.kinds == ["timeout"]
        assert played.channel.sent[0].override_message_timeout.seconds >= 60
        await store.vote(hold_id, vote(FIONA), NOW)
        await settled(played, 2)
        assert played.kinds == ["timeout", "request_headers"]

    asyncio.run(main())


def test_keys_that_do_not_come_refuse():
    async def main() -> None:
        believes = Believes()
        believes.keys_missing = True
        for keys in (Keys(), Keys(lambda: 1 / 0)):
            played = Played(service(governance(POLICY, identifier=believes), keys=keys))(OPEN)
            await settled(played, 2)
            assert (played.kinds[-1], played.status) == ("immediate_response", 503)

    asyncio.run(main())


def test_a_client_that_leaves_ends_its_wait_and_not_the_hold():
    async def main() -> None:
        store, ledger = MemoryHoldStore(), MemoryLedger()
        played = Played(service(holds=store, ledger=ledger))(HOLD)
        hold_id = await pending(store)
        played.stream.closed("cancelled")
        held = await store.get(hold_id, NOW)
        for _ in range(100):
            await asyncio.sleep(0)
            held = await store.get(hold_id, NOW)
            if held is not None and held.waiters == 0:
                break
        assert held is not None and (held.state, held.waiters) == (HoldState.PENDING, 0)
        assert played.kinds == ["timeout"]
        assert ledger.of("intent")[0]["code"] == "abandoned"
        assert ledger.of("outcome")[0]["executed"] is False

    asyncio.run(main())


def test_a_local_reply_ends_the_wait():
    """Envoy's own timeout answers while the request still waits."""

    async def main() -> None:
        store = MemoryHoldStore()
        played = Played(service(holds=store))(HOLD)
        hold_id = await pending(store)
        played(response_headers(504, "text/plain"), response_body(b"timeout"))
        assert played.kinds == ["timeout", "response_headers", "response_body"]
        await store.vote(hold_id, vote(FIONA), NOW)
        for _ in range(50):
            await asyncio.sleep(0)
        held = await store.get(hold_id, NOW)
        assert held is not None and held.state is HoldState.APPROVED
        assert "request_headers" not in played.kinds

    asyncio.run(main())


@pytest.mark.parametrize("message", [SMALL, HOLD], ids=["body", "headers again"])
def test_a_refusal_ends_the_wait(message: bytes):
    """Otherwise an approval would be spent on a request that was already refused."""

    async def main() -> None:
        store = MemoryHoldStore()
        played = Played(service(holds=store))(HOLD)
        hold_id = await pending(store)
        played(message)
        assert played.kinds == ["timeout", "immediate_response"]
        await store.vote(hold_id, vote(FIONA), NOW)
        for _ in range(50):
            await asyncio.sleep(0)
        held = await store.get(hold_id, NOW)
        assert held is not None and held.state is HoldState.APPROVED
        assert played.kinds == ["timeout", "immediate_response"]

    asyncio.run(main())


def test_a_store_that_breaks_while_waiting_refuses(monkeypatch: pytest.MonkeyPatch):
    async def main() -> None:
        store = MemoryHoldStore()

        async def fail(*_: object) -> None:
            raise RuntimeError("the store is gone")

        monkeypatch.setattr(store, "changed", fail)
        played = Played(service(holds=store))(HOLD)
        await settled(played, 2)
        assert (played.kinds[-1], played.status) == ("immediate_response", 500)

    asyncio.run(main())


def test_a_release_that_cannot_be_recorded_is_refused():
    async def main() -> None:
        store, ledger = MemoryHoldStore(), MemoryLedger()
        played = Played(service(holds=store, ledger=ledger))(HOLD)
        hold_id = await pending(store)
        ledger.broken = True
        await store.vote(hold_id, vote(FIONA), NOW)
        await settled(played, 2)
        assert (played.kinds, played.status) == (["timeout", "immediate_response"], 503)

    asyncio.run(main())


def test_a_wait_that_was_refused_for_want_of_a_ledger_does_not_go_on():
    """Otherwise an approval would be spent on a request that was already answered with 503."""

    async def main() -> None:
        store, ledger = MemoryHoldStore(), MemoryLedger()
        ledger.broken = True
        played = Played(service(holds=store, ledger=ledger))(HOLD)
        assert (played.kinds, played.status) == (["immediate_response"], 503)
        ledger.broken = False
        for _ in range(50):
            await asyncio.sleep(0)
        for held in await store.find(now=NOW):
            await store.vote(held.id, vote(FIONA), NOW)
        for _ in range(50):
            await asyncio.sleep(0)
        assert played.kinds == ["immediate_response"]
        assert all(held.state is not HoldState.RELEASED for held in await store.find(now=NOW))
        assert ledger.of("intent") == []

    asyncio.run(main())


# ---------------------------------------------------------------------- trailers


def response_trailers(*pairs: tuple[str, str]) -> bytes:
    message = pb.ProcessingRequest()
    fields = pb.HeaderMap()
    for name, value in pairs:
        fields.headers.add(key=name.encode(), raw_value=value.encode())
    message.response_trailers.trailers = fields.SerializeToString()
    return message.SerializeToString()


def grpc_frame(data: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(data).to_bytes(4, "big") + data


def grpc_stream(*pieces: bytes) -> Played:
    gov = governance(POLICY, credential=credential())
    ledger = MemoryLedger()
    played = Played(service(gov, ledger=ledger))(
        request_headers(path="/stream"), response_headers(media="application/grpc")
    )
    return played(*(response_body(piece, end=False) for piece in pieces))


def passed_on(played: Played, *pieces: bytes) -> bytes:
    replies = [
        r.response_body.response for r in played.channel.sent if r.WhichOneof("response") == "response_body"
    ]
    return b"".join(
        reply.body_mutation.body if reply.HasField("body_mutation") else piece
        for reply, piece in zip(replies, pieces, strict=True)
    )


@pytest.mark.parametrize("cut", range(1, 60))
def test_grpc_messages_keep_their_length_wherever_they_are_cut(cut: int):
    key = CREDENTIAL.encode()
    whole = grpc_frame(b"a" + key + b"b") + grpc_frame(b"ends with " + key[:4])
    pieces = [piece for piece in (whole[:cut], whole[cut:]) if piece]
    played = grpc_stream(*pieces)(response_trailers(("grpc-status", "0"), ("x-echo", CREDENTIAL)))
    assert passed_on(played, *pieces) == whole.replace(key, b"*" * len(key))
    trailers = played.channel.sent[-1].response_trailers.header_mutation.set_headers
    assert [option.header.key for option in trailers] == [b"x-echo"]
    assert key not in trailers[0].header.raw_value


def test_a_stream_that_ends_with_its_trailers_has_an_outcome():
    played = grpc_stream(grpc_frame(b"x"))(response_trailers(("grpc-status", "0")))
    ledger = played.service.ledger
    assert isinstance(ledger, MemoryLedger)
    (outcome,) = ledger.of("outcome")
    assert (outcome["end"], outcome["response"]["size"]) == ("complete", 6)


def test_a_compressed_grpc_message_cannot_carry_the_credential_out():
    played = grpc_stream(grpc_frame(b"x"), grpc_frame(b"packed", flag=1))
    assert played.channel.aborted or played.kinds[-1] == "immediate_response"


def test_a_tail_that_could_be_the_credential_is_not_lost_in_silence():
    """Trailers leave no room for more body, so a stream whose last bytes wait is cut off visibly."""
    gov = governance(POLICY, credential=credential())
    played = Played(service(gov))(
        request_headers(path="/stream"),
        response_headers(media="text/event-stream"),
        response_body(b"data: 1\n\n", end=False),
        response_body(b"data: " + CREDENTIAL[:5].encode(), end=False),
        response_trailers(("x-sum", "1")),
    )
    assert played.channel.aborted


def test_trailers_after_a_masked_body_are_masked():
    trailers = response_trailers(("x-who", "ann@example.com"))
    played = Played(service())(OPEN, ANSWER[0], response_body(b"{}", end=False), trailers)
    (option,) = played.channel.sent[-1].response_trailers.header_mutation.set_headers
    assert option.header.raw_value == b"[EMAIL_ADDRESS]"


def test_trailers_before_anything_was_decided_are_refused():
    played = Played(service())(OPEN, response_trailers(("x-a", "1")))
    assert played.kinds == ["request_headers", "immediate_response"]


@pytest.mark.parametrize(
    ("details", "executed", "end"),
    [
        ("via_upstream", True, "complete"),
        ("upstream_reset_before_response_started{connection_failure}", None, "local_reply"),
        ("", True, "complete"),
    ],
)
def test_envoy_says_who_answered(details: str, executed: bool | None, end: str):
    ledger = MemoryLedger()
    message = pb.ProcessingRequest.FromString(response_headers(503))
    if details:
        fields = message.attributes["envoy.filters.http.ext_proc"].fields
        fields["response.code_details"].string_value = details
    Played(service(ledger=ledger))(OPEN, message.SerializeToString(), response_body(b"{}"))
    (outcome,) = ledger.of("outcome")
    assert (outcome["executed"], outcome["end"]) == (executed, end)
