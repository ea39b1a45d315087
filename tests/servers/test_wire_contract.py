"""Our own protos say what Envoy's schema says: every field has the number and the wire type it has there."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.data.accesslog import v3 as access
from envoy_data_plane.envoy.extensions.filters.http.ext_proc import v3 as filter_v3
from envoy_data_plane.envoy.service.accesslog import v3 as als
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc
from envoy_data_plane.envoy.service.network_ext_proc import v3 as network
from envoy_data_plane.envoy.type import v3 as type_v3
from google.protobuf.descriptor import FieldDescriptor

from extproc.servers.header_map import read_header_map
from extproc.servers.wire import access_log_pb2, ext_authz_pb2, ext_proc_pb2, network_ext_proc_pb2

PAIRS: list[tuple[Any, Any]] = [
    (access_log_pb2.StreamAccessLogsMessage, als.StreamAccessLogsMessage),
    (access_log_pb2.StreamAccessLogsMessage.Identifier, als.StreamAccessLogsMessageIdentifier),
    (access_log_pb2.StreamAccessLogsMessage.HttpEntries, als.StreamAccessLogsMessageHttpAccessLogEntries),
    (access_log_pb2.StreamAccessLogsMessage.TcpEntries, als.StreamAccessLogsMessageTcpAccessLogEntries),
    (access_log_pb2.HttpEntry, access.HttpAccessLogEntry),
    (access_log_pb2.HttpEntry.Request, access.HttpRequestProperties),
    (access_log_pb2.HttpEntry.Response, access.HttpResponseProperties),
    (access_log_pb2.TcpEntry, access.TcpAccessLogEntry),
    (access_log_pb2.TcpEntry.Connection, access.ConnectionProperties),
    (access_log_pb2.Common, access.AccessLogCommon),
    (access_log_pb2.Flags, access.ResponseFlags),
    (access_log_pb2.Tls, access.TlsProperties),
    (access_log_pb2.Tls.Certificate, access.TlsPropertiesCertificateProperties),
    (access_log_pb2.Tls.Certificate.AltName, access.TlsPropertiesCertificatePropertiesSubjectAltName),
    (access_log_pb2.Address, core.Address),
    (access_log_pb2.Address.Socket, core.SocketAddress),
    (access_log_pb2.Address.Pipe, core.Pipe),
    (access_log_pb2.Metadata, core.Metadata),
    (ext_proc_pb2.ProcessingRequest, ext_proc.ProcessingRequest),
    (ext_proc_pb2.ProcessingResponse, ext_proc.ProcessingResponse),
    (ext_proc_pb2.ProtocolConfiguration, ext_proc.ProtocolConfiguration),
    (ext_proc_pb2.HttpHeaders, ext_proc.HttpHeaders),
    (ext_proc_pb2.HttpBody, ext_proc.HttpBody),
    (ext_proc_pb2.HttpTrailers, ext_proc.HttpTrailers),
    (ext_proc_pb2.HeadersResponse, ext_proc.HeadersResponse),
    (ext_proc_pb2.BodyResponse, ext_proc.BodyResponse),
    (ext_proc_pb2.TrailersResponse, ext_proc.TrailersResponse),
    (ext_proc_pb2.CommonResponse, ext_proc.CommonResponse),
    (ext_proc_pb2.ImmediateResponse, ext_proc.ImmediateResponse),
    (ext_proc_pb2.GrpcStatus, ext_proc.GrpcStatus),
    (ext_proc_pb2.HeaderMutation, ext_proc.HeaderMutation),
    (ext_proc_pb2.BodyMutation, ext_proc.BodyMutation),
    (ext_proc_pb2.ProcessingMode, filter_v3.ProcessingMode),
    (ext_proc_pb2.HeaderMap, core.HeaderMap),
    (ext_proc_pb2.HeaderValue, core.HeaderValue),
    (ext_proc_pb2.HeaderValueOption, core.HeaderValueOption),
    (ext_proc_pb2.Metadata, core.Metadata),
    (ext_proc_pb2.HttpStatus, type_v3.HttpStatus),
    (ext_authz_pb2.CheckRequest, auth.CheckRequest),
    (ext_authz_pb2.CheckResponse, auth.CheckResponse),
    (ext_authz_pb2.AttributeContext, auth.AttributeContext),
    (ext_authz_pb2.AttributeContext.Peer, auth.AttributeContextPeer),
    (ext_authz_pb2.AttributeContext.Request, auth.AttributeContextRequest),
    (ext_authz_pb2.AttributeContext.HttpRequest, auth.AttributeContextHttpRequest),
    (ext_authz_pb2.DeniedHttpResponse, auth.DeniedHttpResponse),
    (ext_authz_pb2.OkHttpResponse, auth.OkHttpResponse),
    (ext_authz_pb2.Address, core.Address),
    (ext_authz_pb2.SocketAddress, core.SocketAddress),
    (network_ext_proc_pb2.ProcessingRequest, network.ProcessingRequest),
    (network_ext_proc_pb2.ProcessingResponse, network.ProcessingResponse),
    (network_ext_proc_pb2.Data, network.Data),
]

LATER = {("extproc.wire.network.v1.ProcessingRequest", "attributes"): 4}
"""Fields of Envoy 1.40 that the published schemas lack; the end-to-end tests read them from a real Envoy."""

KINDS = {
    # text that a client controls is bytes in ours, and so is a message that we read by hand
    FieldDescriptor.TYPE_BYTES: {"bytes", "string", "message"},
    FieldDescriptor.TYPE_STRING: {"string"},
    FieldDescriptor.TYPE_MESSAGE: {"message", "map"},
    FieldDescriptor.TYPE_BOOL: {"bool"},
    FieldDescriptor.TYPE_ENUM: {"enum"},
    FieldDescriptor.TYPE_INT32: {"int32", "enum"},  # HttpStatus.code: the same varint
    FieldDescriptor.TYPE_UINT32: {"uint32"},
    FieldDescriptor.TYPE_INT64: {"int64"},
    FieldDescriptor.TYPE_UINT64: {"uint64"},
}


def fields_of(foreign: Any) -> dict[str, Any]:
    return {field.name: field.metadata["betterproto"] for field in dataclasses.fields(foreign)}


@pytest.mark.parametrize(("ours", "foreign"), PAIRS, ids=lambda pair: getattr(pair, "__name__", ""))
def test_every_field_has_envoys_number_and_type(ours: Any, foreign: Any) -> None:
    known = fields_of(foreign)
    for field in ours.DESCRIPTOR.fields:
        if (ours.DESCRIPTOR.full_name, field.name) in LATER:
            assert field.name not in known, "the published schema has it now: compare it"
            assert field.number == LATER[ours.DESCRIPTOR.full_name, field.name]
            continue
        assert field.name in known, f"{ours.DESCRIPTOR.name}.{field.name} is not in Envoy's schema"
        assert field.number == known[field.name].number
        assert known[field.name].proto_type in KINDS[field.type]


@pytest.mark.parametrize(
    ("ours", "foreign"),
    [
        (access_log_pb2.HttpEntry.Method, core.RequestMethod),
        (access_log_pb2.Common.Kind, access.AccessLogType),
        (access_log_pb2.Tls.Version, access.TlsPropertiesTlsVersion),
        (ext_proc_pb2.ProcessingMode.HeaderSendMode, filter_v3.ProcessingModeHeaderSendMode),
        (ext_proc_pb2.ProcessingMode.BodySendMode, filter_v3.ProcessingModeBodySendMode),
        (ext_proc_pb2.CommonResponse.ResponseStatus, ext_proc.CommonResponseResponseStatus),
        (
            network_ext_proc_pb2.ProcessingResponse.ConnectionStatus,
            network.ProcessingResponseConnectionStatus,
        ),
        (
            network_ext_proc_pb2.ProcessingResponse.DataProcessedStatus,
            network.ProcessingResponseDataProcessedStatus,
        ),
    ],
)
def test_every_enum_value_is_envoys(ours: Any, foreign: Any) -> None:
    assert dict(ours.items()) == {item.name: item.value for item in foreign}


def test_a_message_of_the_foreign_schema_is_read_by_ours() -> None:
    sent = ext_proc.ProcessingRequest(
        request_headers=ext_proc.HttpHeaders(
            headers=core.HeaderMap(headers=[core.HeaderValue(key=":path", raw_value=b"/x")]),
            end_of_stream=True,
        )
    )
    read = ext_proc_pb2.ProcessingRequest.FromString(bytes(sent))
    assert read_header_map(read.request_headers.headers) == ((":path", "/x"),)
    assert read.request_headers.end_of_stream
