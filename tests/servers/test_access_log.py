"""The access log receiver: what becomes of entries, and what it does with those that nobody should send."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.ledger.lines import Chain
from extproc.servers import access_log
from extproc.servers.access_log import ACCESS_METHOD, MOST_ENTRIES, AccessError, AccessStream
from extproc.servers.grpc_transport import GrpcServer
from extproc.servers.lean_transport import LeanServer
from extproc.servers.service import Service
from extproc.servers.wire import access_log_pb2 as pb
from tests.support.governed import NOW
from tests.support.streams import MemoryLedger, service

NAME = "extproc/http/ext_proc/web/"
PG = "extproc/postgres/ext_proc/pg/orders-db"


def http_entry(session: str = "ses_1", **changes: Any) -> pb.HttpEntry:
    entry = pb.HttpEntry()
    common = entry.common_properties
    common.route_name = "web/0/customers-api"
    common.downstream_remote_address.socket_address.address = "10.0.0.9"
    common.downstream_remote_address.socket_address.port_value = 4711
    common.upstream_wire_bytes_sent = 200
    common.downstream_wire_bytes_sent = 5000
    common.duration.nanos = 2_500_000
    common.start_time.seconds = int(NOW)
    common.access_log_type = pb.Common.DownstreamEnd
    if session:
        told = common.metadata.filter_metadata["extproc"].fields
        told["session_id"].string_value = session
        told["decision_id"].string_value = "dec_1"
        told["verdict"].string_value = "allow"
    entry.request.request_method = pb.HttpEntry.GET
    entry.response.response_code.value = 200
    for name, value in changes.items():
        setattr(common, name, value)
    return entry


def tcp_entry(session: str = "ses_1") -> pb.TcpEntry:
    entry = pb.TcpEntry()
    entry.common_properties.access_log_type = pb.Common.TcpConnectionEnd
    entry.common_properties.upstream_wire_bytes_sent = 10
    entry.connection_properties.received_bytes = 77
    entry.connection_properties.sent_bytes = 99
    if session:
        told = entry.common_properties.metadata.filter_metadata["extproc"].fields
        told["session_id"].string_value = session
    return entry


def message(*entries: pb.HttpEntry | pb.TcpEntry, name: str = NAME) -> bytes:
    made = pb.StreamAccessLogsMessage()
    if name:
        made.identifier.log_name = name
    for entry in entries:
        if isinstance(entry, pb.HttpEntry):
            made.http_logs.log_entry.append(entry)
        else:
            made.tcp_logs.log_entry.append(entry)
    return made.SerializeToString()


class Told:
    """A receiver over a ledger in memory."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.service: Service = service(ledger=self.ledger)
        self.stream = AccessStream(self.service)

    def __call__(self, *entries: pb.HttpEntry | pb.TcpEntry, name: str = NAME) -> list[dict[str, Any]]:
        before = len(self.ledger.kept)
        self.stream.receive(message(*entries, name=name))
        added = self.ledger.kept[before:]
        assert all(record.kind == "access" for record in added)
        for record in added:
            Chain("w-1").encode(record.kind, record.at, record.fields)  # it can be written
        return [dict(record.fields) for record in added]


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_request_is_joined_by_the_session_we_gave_envoy(told: Told):
    (fields,) = told(http_entry())
    assert (fields["session_id"], fields["decision_id"], fields["coverage"]) == ("ses_1", "dec_1", "joined")
    assert (fields["target"], fields["listener"], fields["front"]) == ("customers-api", "web", "ext_proc")
    assert (fields["source"], fields["duration_us"], fields["bytes_sent"]) == ("10.0.0.9:4711", 2500, 5000)


def test_a_database_connection_has_its_target_from_the_logs_name(told: Told):
    (fields,) = told(tcp_entry(), name=PG)
    assert (fields["protocol"], fields["target"], fields["coverage"]) == ("postgres", "orders-db", "joined")
    assert (fields["bytes_received"], fields["bytes_sent"]) == (77, 99)


@pytest.mark.parametrize(
    ("session", "name", "upstream", "coverage"),
    [
        ("", NAME, 200, "unseen"),
        ("", NAME, 0, "refused"),
        ("", "extproc/postgres/relay/pg/orders-db", 200, "unknown"),
        ("ses_1", NAME, 0, "joined"),
    ],
)
def test_who_went_on_without_us_is_told_from_who_was_refused(
    told: Told, session: str, name: str, upstream: int, coverage: str
):
    (fields,) = told(http_entry(session, upstream_wire_bytes_sent=upstream), name=name)
    assert fields["coverage"] == coverage


def test_another_filters_metadata_joins_nothing(told: Told):
    entry = http_entry("")
    for name in ("envoy.filters.http.jwt_authn", "", "extproc.other"):
        entry.common_properties.metadata.filter_metadata[name].fields["session_id"].string_value = "ses_9"
    (fields,) = told(entry)
    assert (fields["coverage"], fields.get("session_id")) == ("unseen", None)


def test_only_ends_are_recorded(told: Told):
    assert (
        told(http_entry(access_log_type=pb.Common.DownstreamStart), http_entry(intermediate_log_entry=True))
        == []
    )


def test_the_name_of_the_log_comes_once(told: Told):
    told(http_entry())
    (fields,) = told(http_entry(), name="")
    assert fields["listener"] == "web"


@pytest.mark.parametrize(
    "name", ["", "other", "extproc/http", "extproc/a/b/c/d/e", "extproc/" + "x" * 300 + "///"]
)
def test_a_log_that_is_none_of_ours_is_not_taken(told: Told, name: str):
    with pytest.raises(AccessError):
        told(http_entry(), name=name)
    assert told.ledger.kept == []


def test_flags_and_the_callers_certificate_are_kept(told: Told):
    entry = http_entry()
    entry.common_properties.response_flags.stream_idle_timeout = True
    tls = entry.common_properties.tls_properties
    tls.tls_version = pb.Tls.TLSv1_3
    tls.peer_certificate_properties.subject = "CN=etl"
    tls.peer_certificate_properties.subject_alt_name.add().uri = "spiffe://example.org/etl"
    (fields,) = told(entry)
    assert fields["flags"] == ["stream_idle_timeout"]
    assert fields["tls"]["peer_names"] == ["spiffe://example.org/etl"]
    assert fields["tls"]["version"] == "1.3"


def test_numbers_and_texts_without_measure_are_bounded(told: Told):
    entry = http_entry(downstream_wire_bytes_sent=(1 << 64) - 1, connection_termination_details="x" * 100_000)
    entry.common_properties.duration.seconds = -5
    entry.common_properties.metadata.filter_metadata["extproc"].fields["session_id"].string_value = "s" * 9999
    peer = entry.common_properties.tls_properties.peer_certificate_properties
    for _ in range(1000):
        peer.subject_alt_name.add().dns = "n" * 1000
    (fields,) = told(entry)
    assert fields["bytes_sent"] == (1 << 53) - 1
    assert fields["duration_us"] == 0
    assert len(str(fields)) < 6000


def test_a_message_of_too_many_entries_is_refused_whole(told: Told):
    with pytest.raises(AccessError, match="too many"):
        told(*[http_entry("")] * (MOST_ENTRIES + 1))
    assert told.ledger.kept == []


@given(st.binary(max_size=300))
def test_any_bytes_are_entries_or_an_error(data: bytes):
    told = Told()
    try:
        told.stream.receive(message(http_entry()) + data)
    except AccessError:
        pass


def test_what_cannot_be_written_is_said_and_counted(told: Told):
    told.ledger.broken = True
    with pytest.raises(AccessError, match="recorded"):
        told(http_entry(), http_entry())
    assert (told.service.lost_access, told.service.refused_commits) == (2, 1)


# ---------------------------------------------------------------------- both transports


@pytest.fixture(params=["lean", "grpcio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def serve(kind: str, folder: Path, of: Service, play: Any) -> None:
    async def main() -> None:
        server: Any = LeanServer(of) if kind == "lean" else GrpcServer(of)
        address = f"unix:{folder}/p.sock"
        server.listen(address)
        await server.start()
        async with (
            asyncio.timeout(60),
            grpc.aio.insecure_channel(address, options=[("grpc.default_authority", "localhost")]) as channel,
        ):
            await play(server, channel.stream_unary(ACCESS_METHOD))
        await server.stop(5.0)

    asyncio.run(main())


def test_a_stream_is_recorded_as_it_comes_and_ends_well(kind: str, tmp_path: Path):
    ledger = MemoryLedger()

    async def play(_: Any, open_call: Any) -> None:
        call = open_call()
        await call.write(message(http_entry("ses_a")))
        while not ledger.kept:
            await asyncio.sleep(0.01)
        await call.write(message(http_entry("ses_b"), name=""))
        await call.done_writing()
        assert await call == b""

    serve(kind, tmp_path, service(ledger=ledger), play)
    assert [record.fields["session_id"] for record in ledger.kept] == ["ses_a", "ses_b"]


@pytest.mark.parametrize(
    "bad", [b"\xff\xff", message(name="other"), message(*[http_entry("")] * (MOST_ENTRIES + 1))]
)
def test_garbage_ends_the_stream_and_nothing_else(kind: str, tmp_path: Path, bad: bytes):
    ledger = MemoryLedger()

    async def play(_: Any, open_call: Any) -> None:
        other = open_call()
        await other.write(message(http_entry("ses_a")))
        call = open_call()
        await call.write(bad)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        await other.done_writing()
        assert await other == b""

    serve(kind, tmp_path, service(ledger=ledger), play)
    assert len(ledger.kept) == 1


def test_a_fault_of_ours_ends_the_stream_badly(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(access_log.AccessStream, "_fields", fail)

    async def play(_: Any, open_call: Any) -> None:
        call = open_call()
        await call.write(message(http_entry()))
        assert await call.code() is grpc.StatusCode.UNAVAILABLE

    serve(kind, tmp_path, service(), play)


def test_a_stream_without_an_end_does_not_hold_up_a_stop(kind: str, tmp_path: Path):
    ledger = MemoryLedger()

    async def play(server: Any, open_call: Any) -> None:
        call = open_call()
        await call.write(message(http_entry()))
        while not ledger.kept:
            await asyncio.sleep(0.01)
        await server.stop(3600.0)  # this test would end by its own timeout
        assert await call.code() is grpc.StatusCode.UNAVAILABLE

    serve(kind, tmp_path, service(ledger=ledger), play)
