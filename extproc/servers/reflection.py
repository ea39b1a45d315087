"""gRPC server reflection: which services there are and what their messages look like, for tools such as grpcurl.

The messages are those we read and write (docs/adr/0002-own-wire-protos.md): the same bytes as Envoy's, with only the
fields that we know, under names of our own. Versions v1 and v1alpha of the protocol are the same bytes too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2 as rf

from extproc.servers.access_log import ACCESS_METHOD
from extproc.servers.envoy_proto import CHECK_METHOD, PROCESS_METHOD
from extproc.servers.network_ext_proc import NETWORK_METHOD
from extproc.servers.wire import access_log_pb2 as al
from extproc.servers.wire import ext_authz_pb2 as az
from extproc.servers.wire import ext_proc_pb2 as pb
from extproc.servers.wire import network_ext_proc_pb2 as net

_NOT_FOUND, _INVALID = 5, 3
"""gRPC status codes, inside a reply."""


class _Shape(NamedTuple):
    """One method of Envoy's that we serve."""

    path: str
    request: Any
    reply: Any
    client_streams: bool
    server_streams: bool


_SERVED: Final = (
    _Shape(PROCESS_METHOD, pb.ProcessingRequest, pb.ProcessingResponse, True, True),
    _Shape(NETWORK_METHOD, net.ProcessingRequest, net.ProcessingResponse, True, True),
    _Shape(CHECK_METHOD, az.CheckRequest, az.CheckResponse, False, False),
    _Shape(ACCESS_METHOD, al.StreamAccessLogsMessage, al.StreamAccessLogsResponse, True, False),
)


class Reflection:
    """Knows every file that our services need, and which of them a name stands in."""

    methods: Final = (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    )

    def __init__(self) -> None:
        self._files: dict[str, FileDescriptorProto] = {}
        self._file_of: dict[str, str] = {}
        self._services: list[str] = []
        for file in (health_pb2.DESCRIPTOR, rf.DESCRIPTOR):
            self._add_with_imports(file)
        self._add(_reflection_v1())
        for shape in _SERVED:
            self._add_with_imports(shape.request.DESCRIPTOR.file)
            self._add_with_imports(shape.reply.DESCRIPTOR.file)
            self._add(_service_file(shape))

    def answer(self, data: bytes) -> bytes | None:
        """One ServerReflectionResponse for one request; None when that does not parse."""
        try:
            asked = rf.ServerReflectionRequest.FromString(data)
        except DecodeError:
            return None
        reply = rf.ServerReflectionResponse(valid_host=asked.host, original_request=asked)
        match asked.WhichOneof("message_request"):
            case "list_services":
                names = sorted(self._services)
                reply.list_services_response.service.extend(rf.ServiceResponse(name=name) for name in names)
            case "file_by_filename":
                self._tell_file(reply, asked.file_by_filename)
            case "file_containing_symbol":
                self._tell_file(reply, self._file_of.get(asked.file_containing_symbol, ""))
            case "all_extension_numbers_of_type" if asked.all_extension_numbers_of_type in self._file_of:
                # there are no extensions in proto3
                told = reply.all_extension_numbers_response
                told.base_type_name = asked.all_extension_numbers_of_type
            case "all_extension_numbers_of_type" | "file_containing_extension":
                _refuse(reply, _NOT_FOUND, "not found")
            case _:
                _refuse(reply, _INVALID, "nothing was asked")
        return bytes(reply.SerializeToString())

    def _tell_file(self, reply: Any, name: str) -> None:
        """The file and all it imports, imports first."""
        if name not in self._files:
            _refuse(reply, _NOT_FOUND, "not found")
            return
        found: dict[str, FileDescriptorProto] = {}
        self._collect(name, found)
        reply.file_descriptor_response.file_descriptor_proto.extend(
            file.SerializeToString() for file in found.values()
        )

    def _collect(self, name: str, found: dict[str, FileDescriptorProto]) -> None:
        if name in found:
            return
        file = self._files[name]
        for needed in file.dependency:
            self._collect(needed, found)
        found[name] = file

    def _add_with_imports(self, descriptor: FileDescriptor) -> None:
        if descriptor.name in self._files:
            return
        for needed in descriptor.dependencies:
            self._add_with_imports(needed)
        file = FileDescriptorProto()
        descriptor.CopyToProto(file)
        self._add(file)

    def _add(self, file: FileDescriptorProto) -> None:
        self._files[file.name] = file
        for name in _names_in(file):
            self._file_of[name] = file.name
        self._services += [f"{file.package}.{service.name}" for service in file.service]


def _refuse(reply: Any, code: int, message: str) -> None:
    reply.error_response.error_code = code
    reply.error_response.error_message = message


def _names_in(file: FileDescriptorProto) -> Iterable[str]:
    """Full names of everything that can be asked for: messages, fields, enumerations, services, methods."""
    for service in file.service:
        yield f"{file.package}.{service.name}"
        yield from (f"{file.package}.{service.name}.{method.name}" for method in service.method)
    yield from (f"{file.package}.{kind.name}" for kind in file.enum_type)
    for message in file.message_type:
        yield from _names_of(message, file.package)


def _names_of(message: Any, within: str) -> Iterable[str]:
    name = f"{within}.{message.name}"
    yield name
    yield from (f"{name}.{field.name}" for field in message.field)
    yield from (f"{name}.{kind.name}" for kind in message.enum_type)
    for inner in message.nested_type:
        yield from _names_of(inner, name)


def _service_file(shape: _Shape) -> FileDescriptorProto:
    """Envoy's service with our messages."""
    service, _, method = shape.path.strip("/").partition("/")
    package, _, name = service.rpartition(".")
    request, reply = shape.request.DESCRIPTOR, shape.reply.DESCRIPTOR
    file = FileDescriptorProto(
        name=f"{service.replace('.', '/')}.proto",
        package=package,
        dependency=sorted({request.file.name, reply.file.name}),
        syntax="proto3",
    )
    file.service.add(name=name).method.add(
        name=method,
        input_type=f".{request.full_name}",
        output_type=f".{reply.full_name}",
        client_streaming=shape.client_streams,
        server_streaming=shape.server_streams,
    )
    return file


def _reflection_v1() -> FileDescriptorProto:
    """v1 is v1alpha under another name."""
    file = FileDescriptorProto()
    rf.DESCRIPTOR.CopyToProto(file)
    file.name = file.name.replace("v1alpha", "v1")
    file.package = "grpc.reflection.v1"
    file.ClearField("options")
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace("v1alpha", "v1", 1)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace("v1alpha", "v1", 1)
        method.output_type = method.output_type.replace("v1alpha", "v1", 1)
    return file
