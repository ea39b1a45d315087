"""Envoy's messages become our nouns and back, without a byte lost; what we write is read as Envoy reads it."""

from __future__ import annotations

import pytest
from envoy_data_plane.envoy.service.auth import v3 as auth
from envoy_data_plane.envoy.service.ext_proc import v3 as ext_proc
from google.protobuf.message import DecodeError

from extproc.domain.decision import HeaderChange
from extproc.domain.request import Headers, Trace
from extproc.domain.steps import BodyMode, BodyModes, Forward, Refuse
from extproc.domain.tracing import parse_traceparent
from extproc.servers import envoy_proto
from extproc.servers.asked import Asked, read_asked
from extproc.servers.envoy_proto import (
    MOST_REMEMBERED,
    UNCHANGED,
    CallMetadata,
    WireHeaders,
    authz_head,
    call_metadata,
    check_reply,
    forward_reply,
    modes_in_force,
    mutate,
    refuse_reply,
    request_head,
    timeout_reply,
)
from extproc.servers.wire import ext_authz_pb2 as az
from extproc.servers.wire import ext_proc_pb2 as pb

# ---------------------------------------------------------------------- requests


def header_map(*pairs: tuple[bytes, bytes]) -> bytes:
    return pb.HeaderMap(
        headers=[pb.HeaderValue(key=name, raw_value=value) for name, value in pairs]
    ).SerializeToString()


def test_a_response_is_read_when_somebody_asks():
    headers = WireHeaders(header_map((b":status", b"204"), (b"X-A", b"\xff"), (b"x-a", b"2")))
    assert headers.get(":status") == "204"
    assert headers.all("x-a") == ["\xff", "2"]
    assert headers.items == ((":status", "204"), ("x-a", "\xff"), ("x-a", "2"))
    assert "x-a" in headers and len(headers) == 3 and headers.get("absent") == ""


@pytest.mark.parametrize("pairs", [((b"a", b"1"), (b":status", b"404")), ((b":status", b"40"),), ()])
def test_a_status_is_found_wherever_it_stands(pairs: tuple[tuple[bytes, bytes], ...]):
    wanted = dict(pairs).get(b":status", b"").decode()
    assert WireHeaders(header_map(*pairs)).get(":status") == wanted


def asked(message: pb.ProcessingRequest | pb.Asked) -> Asked:
    """The message as the request path reads it."""
    return read_asked(message.SerializeToString())


def test_a_head_is_read_from_the_first_message():
    message = pb.ProcessingRequest(
        request_headers=pb.HttpHeaders(headers=header_map((b":path", b"/x")), end_of_stream=True)
    )
    struct = message.attributes["envoy.filters.http.ext_proc"]
    struct.fields["source.address"].string_value = "10.0.0.9:1234"
    struct.fields["connection.mtls"].bool_value = True
    struct.fields["connection.uri_san_peer_certificate"].string_value = "spiffe://a/b"
    struct.fields["xds.route_name"].string_value = "http/0/api"
    message.metadata_context.filter_metadata["jwt"].fields["p"].struct_value.fields[
        "sub"
    ].string_value = "alice"
    head = request_head(asked(message), CallMetadata("api"))
    assert (head.target, head.end_of_stream, head.route) == ("api", True, "http/0/api")
    assert (head.source.address, head.source.mtls, head.source.peer_uri_san) == (
        "10.0.0.9:1234",
        True,
        "spiffe://a/b",
    )
    assert head.metadata == {"jwt": {"p": {"sub": "alice"}}}


def test_attributes_of_a_wrong_type_mean_nothing():
    message = pb.ProcessingRequest(request_headers=pb.HttpHeaders())
    struct = message.attributes["envoy.filters.http.ext_proc"]
    struct.fields["source.address"].number_value = 7
    struct.fields["connection.mtls"].string_value = "true"
    head = request_head(asked(message), CallMetadata("api"))
    assert (head.source.address, head.source.mtls) == ("", False)


def told(*entries: bytes) -> tuple[str, str]:
    """Source and route, read twice: parsed, then remembered."""
    found = {
        (head.source.address, head.route)
        for _ in range(2)
        for head in [request_head(asked(pb.Asked(attributes=entries)), CallMetadata("api"))]
    }
    return found.pop()


def entry(key: str, **values: str) -> bytes:
    message = pb.NamedAttributes(key=key)
    for name, value in values.items():
        message.value.fields[name.replace("_", ".", 1)].string_value = value
    return message.SerializeToString()


OURS = "envoy.filters.http.ext_proc"


def test_attributes_of_another_filter_mean_nothing():
    assert told(entry("envoy.filters.http.other", source_address="10.0.0.1:1")) == ("", "")
    assert told(entry(OURS, xds_route_name="r"), entry("z", source_address="10.0.0.1:1")) == ("", "r")
    assert told() == ("", "")


def test_of_attributes_named_twice_the_last_count_as_in_any_map():
    twice = entry(OURS, source_address="10.0.0.1:1"), entry(OURS, source_address="10.0.0.2:2")
    assert told(*twice) == ("10.0.0.2:2", "")
    general = pb.ProcessingRequest.FromString(pb.Asked(attributes=twice).SerializeToString())
    assert general.attributes[OURS].fields["source.address"].string_value == "10.0.0.2:2"


def test_what_is_remembered_of_attributes_has_a_bound():
    for number in range(envoy_proto.MOST_REMEMBERED + 5):
        assert told(entry(OURS, source_address=f"10.0.0.1:{number}"))[0] == f"10.0.0.1:{number}"
    assert 0 < len(envoy_proto._told) <= envoy_proto.MOST_REMEMBERED


BAD = b"\x0a\xff"


@pytest.mark.parametrize(
    "message", [pb.Asked(attributes=[BAD]), pb.Asked(metadata_context=BAD), pb.Asked(protocol_config=BAD)]
)
def test_parts_that_do_not_parse_are_refused(message: pb.Asked):
    with pytest.raises(DecodeError):
        modes_in_force(asked(message))
        request_head(asked(message), CallMetadata("api"))


@pytest.mark.parametrize(
    ("pairs", "target"),
    [
        ([("x-extproc-target", "a")], "a"),
        ([], ""),
        ([("x-extproc-target", "a"), ("x-extproc-target", "b")], ""),
        ([("x-extproc-target", "a"), ("x-extproc-target", "a")], ""),
        ([("x-extproc-target", b"a")], ""),
        ([("x-extproc-target-bin", b"a")], ""),
        ([("x-extproc-listener", "a")], ""),
    ],
)
def test_only_one_target_in_the_calls_own_metadata_counts(pairs, target):
    assert call_metadata(pairs).target == target


GOOD = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


@pytest.mark.parametrize(
    ("value", "trace"),
    [
        (GOOD, Trace("a" * 32, "b" * 16, True)),
        (GOOD[:-2] + "00", Trace("a" * 32, "b" * 16, False)),
        ("cc" + GOOD[2:] + "-future", Trace("a" * 32, "b" * 16, True)),
        ("ff" + GOOD[2:], Trace()),
        (GOOD.upper(), Trace()),
        ("00-" + "0" * 32 + "-" + "b" * 16 + "-01", Trace()),
        ("00-" + "a" * 32 + "-" + "0" * 16 + "-01", Trace()),
        (GOOD[:-1], Trace()),
        ("", Trace()),
        ("00-" + "é" * 32 + "-" + "b" * 16 + "-01", Trace()),
    ],
)
def test_a_traceparent_is_read_strictly(value, trace):
    assert parse_traceparent(value) == trace


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        (None, None),
        ((2, 2, False), BodyModes(BodyMode.BUFFERED, BodyMode.BUFFERED)),
        ((0, 1, False), BodyModes(BodyMode.NONE, BodyMode.STREAMED)),
        ((3, 2, False), None),
        ((2, 3, False), None),
        ((4, 2, False), None),
        ((2, 5, False), None),
        ((99, 2, False), None),
        ((2, 2, True), None),
    ],
)
def test_only_body_modes_we_serve_are_taken(config, modes):
    message = pb.ProcessingRequest(request_headers=pb.HttpHeaders())
    if config is not None:
        request, response, early = config
        message.protocol_config.CopyFrom(
            pb.ProtocolConfiguration(
                request_body_mode=request, response_body_mode=response,
                send_body_without_waiting_for_header_response=early,
            )
        )  # fmt: skip
    for _ in range(2):  # read, and remembered
        assert modes_in_force(asked(message)) == modes


# ---------------------------------------------------------------------- replies


def as_envoy_reads(reply: bytes) -> ext_proc.ProcessingResponse:
    return ext_proc.ProcessingResponse.parse(reply)


def test_nothing_to_change_is_an_empty_reply():
    for kind, reply in UNCHANGED.items():
        assert forward_reply(kind, Forward()) is reply
        assert pb.ProcessingResponse.FromString(reply).WhichOneof("response") == kind


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Envoy obeys `append` alone, deprecated or not
def test_a_repeated_header_replaces_and_then_appends():
    mutation = pb.HeaderMutation()
    mutate(mutation, HeaderChange(set=(("x-a", "1"), ("x-a", "2"), ("x-b", "\xff")), remove=("x-c",)))
    read = ext_proc.HeaderMutation.parse(mutation.SerializeToString())
    assert [(o.header.key, o.header.raw_value, o.append) for o in read.set_headers if o.header] == [
        ("x-a", b"1", None), ("x-a", b"2", True), ("x-b", b"\xff", None),
    ]  # fmt: skip
    assert read.remove_headers == ["x-c"]


def test_an_override_always_names_both_body_modes():
    step = Forward(modes=BodyModes(BodyMode.NONE, BodyMode.BUFFERED))
    for kind in ("request_headers", "response_headers"):
        override = as_envoy_reads(forward_reply(kind, step)).mode_override
        assert override is not None
        assert (override.request_body_mode.name, override.response_body_mode.name) == ("NONE", "BUFFERED")
        assert (override.request_header_mode.name, override.response_header_mode.name) == ("SEND", "SEND")
    assert as_envoy_reads(forward_reply("request_body", step)).mode_override is None


def test_a_refusal_carries_everything_the_client_needs():
    step = Refuse(401, (("www-authenticate", "Bearer"),), b"{}", "extproc_x", metadata={"verdict": "deny"})
    read = as_envoy_reads(refuse_reply(step))
    immediate = read.immediate_response
    assert immediate is not None and immediate.status is not None and immediate.headers is not None
    assert (int(immediate.status.code), immediate.body, immediate.details) == (401, b"{}", "extproc_x")
    option = immediate.headers.set_headers[0]
    assert option.header is not None
    assert (option.header.key, option.header.raw_value) == ("www-authenticate", b"Bearer")
    assert read.dynamic_metadata is not None


def test_more_time_is_asked_for_alone():
    reply = pb.ProcessingResponse.FromString(timeout_reply(12.5))
    assert reply.WhichOneof("response") is None
    assert (reply.override_message_timeout.seconds, reply.override_message_timeout.nanos) == (12, 500_000_000)


def test_a_new_body_and_its_headers_travel_together():
    step = Forward(HeaderChange(set=(("content-length", "3"),)), body=b"abc", metadata={"verdict": "allow"})
    read = as_envoy_reads(forward_reply("response_body", step))
    assert read.response_body is not None and read.response_body.response is not None
    assert read.response_body.response.body_mutation is not None
    assert read.response_body.response.body_mutation.body == b"abc"


# ---------------------------------------------------------------------- ext_authz


def check_request(*pairs: tuple[bytes, bytes], raw: bool = True, **context: str) -> az.CheckRequest:
    request = az.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host, http.scheme = b"GET", b"/a?b=c", b"api", b"http"
    if raw:
        http.header_map.ParseFromString(header_map(*pairs))
    else:
        for name, value in pairs:
            http.headers[name.decode()] = value.decode()
    for key, text in context.items():
        request.attributes.context_extensions[key.replace("_", ".")] = text
    return request


def asked_check(request: az.CheckRequest) -> az.AskedCheck:
    return az.AskedCheck.FromString(request.SerializeToString())


@pytest.mark.parametrize("raw", [True, False])
def test_a_check_is_read_as_a_request(raw):
    request = check_request((b":path", b"/forged"), (b"x-a", "é".encode()), raw=raw, extproc_target="api")
    request.attributes.request.http.raw_body = b"body"
    head, body = authz_head(asked_check(request), CallMetadata())
    assert (head.target, body, head.end_of_stream) == ("api", b"body", False)
    assert head.headers.all(":path") == ["/a?b=c"]
    assert head.headers.get("x-a") == "é".encode().decode("latin-1")


@pytest.mark.parametrize(
    ("extension", "call", "target"),
    [("a", "", "a"), ("", "a", "a"), ("a", "a", "a"), ("a", "b", ""), ("", "", "")],
)
def test_two_targets_are_none(extension, call, target):
    head, _ = authz_head(asked_check(check_request(extproc_target=extension)), CallMetadata(call))
    assert head.target == target


def test_calls_of_other_connections_and_routes_are_not_taken_for_each_other():
    """What Envoy says of them is remembered by its bytes."""

    def ask(port: int, principal: str, target: str) -> tuple[str, bool, str, str]:
        request = check_request(extproc_target=target, other_key="x")
        source = request.attributes.source
        source.address.socket_address.address, source.address.socket_address.port_value = "10.0.0.1", port
        source.principal = principal
        head, _ = authz_head(asked_check(request), CallMetadata())
        return head.source.address, head.source.mtls, head.source.peer_uri_san, head.target

    for _ in range(2):
        assert ask(1, "", "a") == ("10.0.0.1:1", False, "", "a")
        assert ask(1, "spiffe://x", "a") == ("10.0.0.1:1", True, "spiffe://x", "a")
        assert ask(2, "", "b") == ("10.0.0.1:2", False, "", "b")
    for port in range(MOST_REMEMBERED + 9):
        assert ask(port, "", "a")[0] == f"10.0.0.1:{port}"
    assert len(envoy_proto._contexts) <= MOST_REMEMBERED


@pytest.mark.parametrize("field", ["source", "extension", "metadata", "headers"])
def test_a_part_of_a_check_that_does_not_parse_is_noticed(field):
    message = asked_check(check_request(extproc_target="a"))
    attributes = message.attributes
    if field == "source":
        attributes.source = b"\x0a\xff"
    elif field == "extension":
        attributes.context_extensions.append(b"\x0a\xff")
    elif field == "metadata":
        attributes.metadata_context = b"\xff"
    else:
        attributes.request.http.header_map = b"\x0a\xff"
    with pytest.raises(DecodeError):
        authz_head(message, CallMetadata())


def test_metadata_of_a_check_is_read():
    request = check_request(extproc_target="a")
    named = request.attributes.metadata_context.filter_metadata["envoy.filters.http.jwt_authn"]
    named.fields["payload"].struct_value.fields["sub"].string_value = "alice"
    head, _ = authz_head(asked_check(request), CallMetadata())
    assert head.metadata == {"envoy.filters.http.jwt_authn": {"payload": {"sub": "alice"}}}


def test_an_allowed_check_names_its_session_and_decision():
    for number in (1, 2):
        ids = {"session_id": f"ses_{number:032x}", "decision_id": f"dec_{number:032x}", "verdict": "allow"}
        step = Forward(HeaderChange(set=(("x-k", "v"),), remove=("authorization",)), metadata=ids)
        reply = az.CheckResponse.FromString(check_reply(step))
        assert {name: value.string_value for name, value in reply.dynamic_metadata.fields.items()} == ids
        assert [(o.header.key, o.header.value) for o in reply.ok_response.headers] == [(b"x-k", b"v")]
        assert list(reply.ok_response.headers_to_remove) == [b"authorization"]
        assert reply.HasField("ok_response") and reply.status.code == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_check_is_answered_in_envoys_words():
    allowed = auth.CheckResponse.parse(
        check_reply(Forward(HeaderChange(set=(("x-k", "v"),), remove=("authorization",))))
    )
    assert allowed.status is not None and allowed.status.code == 0 and allowed.ok_response is not None
    assert allowed.ok_response.headers_to_remove == ["authorization"]
    header = allowed.ok_response.headers[0].header
    assert header is not None and (header.key, header.value) == ("x-k", "v")
    denied = auth.CheckResponse.parse(
        check_reply(Refuse(403, (("content-type", "application/problem+json"),), b"{}", "d"))
    )
    assert denied.status is not None and denied.status.code != 0 and denied.denied_response is not None
    assert denied.denied_response.body == "{}"
    assert denied.denied_response.status is not None and int(denied.denied_response.status.code) == 403


def test_the_headers_class_never_shows_values():
    assert "secret" not in repr(Headers((("authorization", "secret"),)))


def test_the_request_path_reads_the_same_fields_as_the_whole_message():
    for field in pb.Asked.DESCRIPTOR.fields:
        whole = pb.ProcessingRequest.DESCRIPTOR.fields_by_name[field.name]
        assert (field.number, field.is_repeated) == (whole.number, whole.is_repeated)
        assert field.type in (whole.type, field.TYPE_BYTES) and whole.type != field.TYPE_STRING
    assert len(pb.Asked.DESCRIPTOR.fields) == len(pb.ProcessingRequest.DESCRIPTOR.fields)


def test_a_check_is_read_with_the_same_fields_as_the_whole_message():
    pairs = [
        (az.AskedCheck, az.CheckRequest),
        (az.AskedCheck.Attributes, az.AttributeContext),
        (az.AskedCheck.Request, az.AttributeContext.Request),
        (az.AskedCheck.Http, az.AttributeContext.HttpRequest),
    ]
    for ours, whole in pairs:
        for field in ours.DESCRIPTOR.fields:
            assert whole.DESCRIPTOR.fields_by_name[field.name].number == field.number
