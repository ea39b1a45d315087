"""The rules of the hop from Envoy, message by message; real Envoy is in tests/e2e/test_network_ext_proc.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.record import Record
from extproc.domain.request import Source
from extproc.servers.envoy_proto import CallMetadata
from extproc.servers.network_ext_proc import ATTRIBUTES_KEY, LARGEST, Conversation, NetworkStream, Output
from extproc.servers.service import Service
from extproc.servers.wire import network_ext_proc_pb2 as pb
from tests.support.governed import denying

RECORD = Record("intent", 1.0, {})


class Says:
    """A conversation that is told what to say."""

    session_id = "ses_1"

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        self.answer: Callable[[str, bytes, bool], Output] = lambda side, data, end: Output()
        self.reasons: list[str] = []
        self.source = Source()
        self.later: Callable[[Output], None] = lambda output: None

    def opened(self) -> Output:
        return Output()

    def client_data(self, data: bytes, end: bool) -> Output:
        self.heard.append(("client", data, end))
        return self.answer("client", data, end)

    def server_data(self, data: bytes, end: bool) -> Output:
        self.heard.append(("server", data, end))
        return self.answer("server", data, end)

    def go_away(self, *, at_once: bool) -> None:
        if at_once:
            self.later(Output(to_client=b"going away", close=True, records=(RECORD,)))

    def unrecorded(self) -> bytes:
        return b"cannot record"

    def gone(self, reason: str) -> tuple[Record, ...]:
        self.reasons.append(reason)
        return (RECORD,) if len(self.reasons) == 1 else ()


class Book:
    """A ledger that can break."""

    def __init__(self) -> None:
        self.kept: list[Record] = []
        self.pending: list[Record] = []
        self.is_broken = False

    def append(self, record: Record) -> None:
        self.pending.append(record)

    def commit(self) -> None:
        pending, self.pending = self.pending, []
        if self.is_broken:
            raise LedgerUnavailableError("full")
        self.kept += pending


class Rig:
    """A stream with everything around it faked. `sent` is what Envoy gets."""

    def __init__(self, *, is_known: bool = True) -> None:
        nothing: Any = None
        self.book = Book()
        self.service = Service(
            governance=denying(), ledger=self.book, desk=nothing, keys=nothing, now=lambda: 1.0, new_hex=lambda n: "",
        )  # fmt: skip
        self.says = Says()
        self.sent: list[pb.ProcessingResponse] = []
        self.aborted: list[str] = []

        def opener(
            service: Service, call: CallMetadata, source: Source, later: Callable[[Output], None]
        ) -> Conversation | None:
            self.says.source, self.says.later = source, later
            return self.says if is_known else None

        self.stream = NetworkStream(self.service, CallMetadata("db"), self, opener)

    def send(self, reply: bytes) -> None:
        self.sent.append(pb.ProcessingResponse.FromString(reply))

    def abort(self, reason: str) -> None:
        self.aborted.append(reason)

    def read(self, data: bytes = b"", end: bool = False, *, side: str = "read_data") -> None:
        message = pb.ProcessingRequest()
        part = getattr(message, side)
        part.data, part.end_of_stream = data, end
        self.stream.receive(message.SerializeToString())
        self.service.flush()

    def said(self, side: str) -> list[tuple[bytes, bool]]:
        parts = [getattr(reply, side) for reply in self.sent if reply.HasField(side)]  # type: ignore[arg-type]
        return [(part.data, part.end_of_stream) for part in parts]


def test_each_direction_goes_in_a_message_of_its_own() -> None:
    rig = Rig()
    rig.says.answer = lambda *_: Output(to_server=b"to server", to_client=b"to client")
    rig.read(b"x")
    assert rig.said("read_data") == [(b"to server", False)]
    assert rig.said("write_data") == [(b"to client", False)]
    assert not any(reply.HasField("read_data") and reply.HasField("write_data") for reply in rig.sent)


def test_close_comes_alone_and_after_the_last_bytes() -> None:
    rig = Rig()
    rig.says.answer = lambda *_: Output(to_client=b"farewell", close=True)
    rig.read(b"x")
    *before, last = rig.sent
    assert last.connection_status == pb.ProcessingResponse.CLOSE
    assert not last.HasField("write_data") and not last.HasField("read_data")
    assert all(reply.connection_status == pb.ProcessingResponse.CONTINUE for reply in before)
    assert rig.says.reasons == ["closed"]


def test_after_close_nothing_goes_anywhere_and_we_do_not_end_first() -> None:
    rig = Rig()
    rig.says.answer = lambda *_: Output(close=True)
    rig.read(b"x")
    count = len(rig.sent)
    rig.says.answer = lambda *_: Output(to_server=b"leak")
    rig.read(b"more")
    rig.says.later(Output(to_server=b"leak"))
    assert len(rig.sent) == count
    assert not rig.aborted


def test_ends_are_handed_on_once() -> None:
    rig = Rig()
    rig.says.answer = lambda side, data, end: Output(to_server=data, end_server=end)
    rig.read(b"bye", True)
    rig.read(b"again", True)
    assert rig.said("read_data") == [(b"bye", True)]
    assert rig.says.heard == [("client", b"bye", True)]


@given(st.integers(0, 3 * LARGEST), st.booleans())
def test_large_outputs_are_cut_without_loss(size: int, end: bool) -> None:
    rig = Rig()
    data = bytes(size)
    rig.says.answer = lambda *_: Output(to_client=data, end_client=end)
    rig.read(b"x", side="write_data")
    parts = rig.said("write_data")
    assert b"".join(part for part, _ in parts) == data
    assert all(len(part) <= LARGEST for part, _ in parts)
    assert [is_end for _, is_end in parts if is_end] == [True] * end
    assert not parts or parts[-1][1] is end


def test_nothing_goes_on_before_its_records_are_written() -> None:
    rig = Rig()
    rig.says.answer = lambda *_: Output(to_server=b"DELETE", records=(RECORD,))
    message = pb.ProcessingRequest()
    message.read_data.data = b"x"
    rig.stream.receive(message.SerializeToString())
    assert rig.sent == []
    rig.service.flush()
    assert rig.book.kept == [RECORD]
    assert rig.said("read_data") == [(b"DELETE", False)]


def test_what_cannot_be_recorded_does_not_happen() -> None:
    rig = Rig()
    rig.says.answer = lambda *_: Output(to_server=b"DELETE", records=(RECORD,))
    rig.book.is_broken = True
    rig.read(b"x")
    assert rig.said("read_data") == []
    assert rig.said("write_data") == [(b"cannot record", False)]
    assert rig.sent[-1].connection_status == pb.ProcessingResponse.CLOSE


def test_a_connection_without_a_target_is_closed_unheard() -> None:
    rig = Rig(is_known=False)
    rig.read(b"x")
    (only,) = rig.sent
    assert only.connection_status == pb.ProcessingResponse.CLOSE
    assert rig.says.heard == []


def test_our_own_fault_ends_the_call_with_a_status_that_closes() -> None:
    rig = Rig()

    def breaks(*_: object) -> Output:
        raise RuntimeError("on purpose")

    rig.says.answer = breaks
    rig.read(b"x")
    assert rig.aborted == ["internal error"]
    assert rig.book.kept == [RECORD]


@pytest.mark.parametrize("data", [b"\xff\xff", b""])
def test_a_message_that_says_nothing_ends_the_call(data: bytes) -> None:
    rig = Rig()
    rig.stream.receive(data)
    assert len(rig.aborted) == 1
    assert rig.says.heard == []


@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_a_message_or_the_end(data: bytes) -> None:
    rig = Rig()
    rig.stream.receive(data)
    rig.service.flush()
    assert rig.says.heard or rig.aborted


def test_the_session_is_told_to_envoy_once() -> None:
    rig = Rig()
    rig.says.answer = lambda side, data, end: Output(to_server=data)
    rig.read(b"a")
    rig.read(b"b")
    first, second = rig.sent
    assert first.dynamic_metadata.fields["extproc"].struct_value.fields["session_id"].string_value == "ses_1"
    assert not second.HasField("dynamic_metadata")


def test_where_it_comes_from_is_read_from_the_first_message() -> None:
    rig = Rig()
    message = pb.ProcessingRequest()
    message.read_data.data = b"x"
    values = message.attributes[ATTRIBUTES_KEY].fields
    values["source.address"].string_value = "10.0.0.9:4711"
    values["connection.mtls"].bool_value = True
    rig.stream.receive(message.SerializeToString())
    assert rig.says.source == Source("10.0.0.9:4711", True, "")


def test_a_client_that_is_gone_is_told_and_recorded_once() -> None:
    rig = Rig()
    rig.read(b"x")
    rig.stream.closed("cancelled")
    rig.stream.closed("cancelled")
    assert rig.says.reasons == ["cancelled"]
    assert rig.book.kept == [RECORD]


def test_when_we_go_the_client_is_told_in_its_protocol_and_closed() -> None:
    rig = Rig()
    rig.read(b"x")
    rig.service.go_away(False)
    assert rig.sent == [] and rig.aborted == []  # it is not idle
    rig.service.go_away(True)
    assert rig.said("write_data") == [(b"going away", False)]
    assert rig.sent[-1].connection_status == pb.ProcessingResponse.CLOSE
    assert RECORD in rig.book.kept and rig.aborted == []
    rig.service.go_away(True)
    assert len(rig.said("write_data")) == 1


def test_when_we_go_a_connection_that_said_nothing_is_closed() -> None:
    rig = Rig()
    rig.service.go_away(False)
    (reply,) = rig.sent
    assert reply.connection_status == pb.ProcessingResponse.CLOSE


@pytest.mark.parametrize("how", ["closed", "aborted"])
def test_a_connection_that_ended_is_not_told(how: str) -> None:
    rig = Rig()
    rig.read(b"x")
    if how == "closed":
        rig.stream.closed("half-closed")
    else:
        rig.stream.receive(b"\xff")
    count = len(rig.sent)
    rig.service.go_away(True)
    assert len(rig.sent) == count and not rig.service.connections
