"""Server reflection: what tools such as grpcurl ask, answered by both transports, where it is switched on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2 as rf
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import given
from hypothesis import strategies as st

from extproc.servers.envoy_proto import CHECK_METHOD
from extproc.servers.grpc_transport import GrpcServer
from extproc.servers.lean_calls import METHODS
from extproc.servers.lean_transport import LeanServer
from extproc.servers.reflection import Reflection
from extproc.servers.wire import ext_proc_pb2 as pb
from tests.support.mtls import TRANSPORTS, Mutual, run, serving
from tests.support.streams import request_headers, service

SERVICES = [
    "envoy.service.accesslog.v3.AccessLogService",
    "envoy.service.auth.v3.Authorization",
    "envoy.service.ext_proc.v3.ExternalProcessor",
    "envoy.service.network_ext_proc.v3.NetworkExternalProcessor",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
]
REFLECTION = Reflection()


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asked(transport: str, folder: Path, ask: Any, reflection: Reflection | None = REFLECTION) -> Any:
    """What `ask(channel)` returns, run in a thread against a server on a unix socket."""

    async def main() -> Any:
        of = service()
        kind: Any = LeanServer if transport == "lean" else GrpcServer
        server = kind(of, reflection=reflection)
        server.listen(f"unix:{folder}/s")
        await server.start()
        try:
            return await asyncio.to_thread(with_channel)
        finally:
            await server.stop(0)

    def with_channel() -> Any:
        with grpc.insecure_channel(f"unix:{folder}/s") as channel:
            return ask(channel)

    return run("asyncio", main())


def call(channel: grpc.Channel, method: str, *messages: bytes) -> list[bytes]:
    method_of: Any = channel.stream_stream(method)
    return list(method_of(iter(messages), timeout=30))


def test_grpcs_own_client_finds_every_service_and_the_messages_it_takes(transport: str, tmp_path: Path):
    def ask(channel: grpc.Channel) -> None:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert list(database.get_services()) == SERVICES
        pool = DescriptorPool(database)
        for name in SERVICES:
            found = pool.FindServiceByName(name)
            for method in found.methods:
                assert method.input_type.full_name and method.output_type.full_name
        process = pool.FindServiceByName("envoy.service.ext_proc.v3.ExternalProcessor").methods_by_name[
            "Process"
        ]
        assert process.client_streaming and process.server_streaming
        message: Any = GetMessageClass(process.input_type).FromString(request_headers())
        assert message.request_headers.end_of_stream
        assert (
            message.SerializeToString()
            == pb.ProcessingRequest.FromString(request_headers()).SerializeToString()
        )

    asked(transport, tmp_path, ask)


@pytest.mark.parametrize("method", Reflection.methods)
def test_both_versions_answer_every_question_of_one_call(transport: str, tmp_path: Path, method: str):
    questions = [
        rf.ServerReflectionRequest(host="h", list_services=""),
        rf.ServerReflectionRequest(file_containing_symbol="envoy.service.auth.v3.Authorization.Check"),
        rf.ServerReflectionRequest(file_containing_symbol="nothing.like.it"),
        rf.ServerReflectionRequest(),
    ]

    def ask(channel: grpc.Channel) -> list[rf.ServerReflectionResponse]:
        replies = call(channel, method, *(question.SerializeToString() for question in questions))
        return [rf.ServerReflectionResponse.FromString(reply) for reply in replies]

    listed, found, missing, empty = asked(transport, tmp_path, ask)
    assert [each.name for each in listed.list_services_response.service] == SERVICES
    assert (listed.valid_host, listed.original_request) == ("h", questions[0])
    files = [
        FileDescriptorProto.FromString(each) for each in found.file_descriptor_response.file_descriptor_proto
    ]
    assert files[-1].name == "envoy/service/auth/v3/Authorization.proto"
    assert (missing.error_response.error_code, empty.error_response.error_code) == (5, 3)


@pytest.mark.parametrize("method", Reflection.methods)
def test_it_is_not_there_unless_it_is_switched_on(transport: str, tmp_path: Path, method: str):
    def ask(channel: grpc.Channel) -> grpc.StatusCode:
        with pytest.raises(grpc.RpcError) as refused:
            call(channel, method, b"")
        code: grpc.StatusCode = refused.value.code()
        return code

    assert asked(transport, tmp_path, ask, None) is grpc.StatusCode.UNIMPLEMENTED


def test_what_does_not_parse_ends_the_call(transport: str, tmp_path: Path):
    def ask(channel: grpc.Channel) -> Any:
        with pytest.raises(grpc.RpcError) as refused:
            call(channel, Reflection.methods[0], b"\xff")
        return refused.value.code(), refused.value.details()

    ended = (grpc.StatusCode.INVALID_ARGUMENT, "the message does not parse")
    assert asked(transport, tmp_path, ask) == ended


def test_a_certificate_that_is_not_listed_is_told_nothing(transport: str, tmp_path: Path):
    mutual = Mutual(tmp_path)
    stranger = mutual.authority.issue("stranger", uris=["spiffe://mesh/other"])

    def ask(port: int) -> grpc.StatusCode:
        with (
            grpc.secure_channel(f"localhost:{port}", mutual.credentials(stranger)) as channel,
            pytest.raises(grpc.RpcError) as refused,
        ):
            call(
                channel,
                Reflection.methods[0],
                rf.ServerReflectionRequest(list_services="").SerializeToString(),
            )
        code: grpc.StatusCode = refused.value.code()
        return code

    async def main() -> grpc.StatusCode:
        async with serving(transport, service(), mutual.tls, reflection=REFLECTION) as (_, port):
            return await asyncio.to_thread(ask, port)

    assert run("asyncio", main()) is grpc.StatusCode.PERMISSION_DENIED


def test_stopping_does_not_wait_for_who_reflects(tmp_path: Path):
    async def main() -> None:
        server = LeanServer(service(), reflection=REFLECTION)
        server.listen(f"unix:{tmp_path}/s")
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
            method: Any = channel.stream_stream(Reflection.methods[0])
            reflecting = method()
            await reflecting.write(rf.ServerReflectionRequest(list_services="").SerializeToString())
            await reflecting.read()
            await server.stop(1000)
            assert await reflecting.code() is grpc.StatusCode.UNAVAILABLE

    run("asyncio", main())


def test_every_method_that_is_served_is_told():
    pool = DescriptorPool()
    told = set()
    for name in SERVICES:
        answer = REFLECTION.answer(
            rf.ServerReflectionRequest(file_containing_symbol=name).SerializeToString()
        )
        assert answer is not None
        for data in rf.ServerReflectionResponse.FromString(
            answer
        ).file_descriptor_response.file_descriptor_proto:
            pool.AddSerializedFile(data)
        told |= {f"/{name}/{method.name}" for method in pool.FindServiceByName(name).methods}
    assert {*METHODS, *Reflection.methods} == told - {"/grpc.health.v1.Health/List"}
    assert CHECK_METHOD in told


NAMES = st.sampled_from(
    [
        "",
        *SERVICES,
        "extproc.wire.v1.HeaderMap",
        "extproc/servers/wire/ext_proc.proto",
        "../../etc/passwd",
        "é",
    ]
) | st.text(max_size=20)


@given(
    st.builds(
        lambda kind, name: rf.ServerReflectionRequest(**{kind: name}).SerializeToString(),
        st.sampled_from(
            ["list_services", "file_by_filename", "file_containing_symbol", "all_extension_numbers_of_type"]
        ),
        NAMES.filter(lambda name: not any("\ud800" <= letter <= "\udfff" for letter in name)),
    )
    | st.binary(max_size=60)
)
def test_any_question_has_an_answer_or_does_not_parse(data: bytes):
    answer = REFLECTION.answer(data)
    if answer is not None:
        reply = rf.ServerReflectionResponse.FromString(answer)
        assert reply.WhichOneof("message_response")
