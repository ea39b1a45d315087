"""Envoy's messages to our nouns and back. Protobuf is known here and in the transports, nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from google.protobuf import struct_pb2

from extproc.domain.decision import HeaderChange
from extproc.domain.request import NO_HEADERS, Headers, RequestHead, Source, Trace
from extproc.domain.steps import BodyMode, BodyModes, Forward, Refuse
from extproc.domain.tracing import parse_traceparent
from extproc.servers.asked import Asked
from extproc.servers.header_map import read_header_map
from extproc.servers.wire import ext_authz_pb2 as az
from extproc.servers.wire import ext_proc_pb2 as pb

PROCESS_METHOD: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
CHECK_METHOD: Final = "/envoy.service.auth.v3.Authorization/Check"
TARGET_KEY: Final = "x-extproc-target"
"""The gRPC metadata key, written by Envoy's own configuration, that names the target."""
LISTENER_KEY: Final = "x-extproc-listener"
"""The same for the listener."""
METADATA_NAMESPACE: Final = "extproc"
ATTRIBUTES_KEY: Final = "envoy.filters.http.ext_proc"
CODE_DETAILS: Final = "response.code_details"
VIA_UPSTREAM: Final = "via_upstream"


Mode = pb.ProcessingMode
_TO_MODE: Final = {
    Mode.NONE: BodyMode.NONE,
    Mode.STREAMED: BodyMode.STREAMED,
    Mode.BUFFERED: BodyMode.BUFFERED,
}
_FROM_MODE: Final = {mode: number for number, mode in _TO_MODE.items()}
_MODES: Final = {
    (asked, answered): BodyModes(request, response)
    for asked, request in _TO_MODE.items()
    for answered, response in _TO_MODE.items()
}


@dataclass(frozen=True, slots=True)
class CallMetadata:
    """What came with the RPC itself, from Envoy's configuration and tracer; never from the client."""

    target: str = ""
    trace: Trace = Trace()
    raw: Mapping[str, str] = field(default_factory=dict)
    listener: str = ""


def call_metadata(pairs: Iterable[tuple[str, str | bytes]]) -> CallMetadata:
    """Read RPC metadata. Two targets are as bad as none: both leave `target` empty."""
    targets: list[str] = []
    listeners: list[str] = []
    traceparent = ""
    for key, value in pairs:
        if key == TARGET_KEY and isinstance(value, str):
            targets.append(value)
        elif key == LISTENER_KEY and isinstance(value, str):
            listeners.append(value)
        elif key == "traceparent" and isinstance(value, str):
            traceparent = value
    return CallMetadata(
        targets[0] if len(targets) == 1 and len(listeners) < 2 else "",
        parse_traceparent(traceparent),
        listener=listeners[0] if len(listeners) == 1 else "",
    )


_STATUS: Final = bytes((0x0A, 14, 0x0A, 7)) + b":status" + bytes((0x1A, 3))
"""How a HeaderMap begins whose first field is `:status` with three characters, as it always is."""
_STATUS_AT: Final = len(_STATUS)


class WireHeaders(Headers):
    """Header fields that are read when somebody asks: of most responses only the status is."""

    __slots__ = ("_wire",)

    def __init__(self, header_map: bytes) -> None:
        super().__init__(None)
        self._wire = header_map

    def read(self) -> tuple[tuple[str, str], ...]:
        """What Envoy sent. Raises DecodeError."""
        return read_header_map(self._wire)

    def get(self, name: str, default: str = "") -> str:
        if name == ":status" and self._wire.startswith(_STATUS):
            return self._wire[_STATUS_AT : _STATUS_AT + 3].decode("latin-1")
        return super().get(name, default)


@dataclass(frozen=True, slots=True)
class Told:
    """What Envoy's attributes say of a connection and of a response."""

    source: Source = Source()
    route: str = ""
    code_details: str = ""


NOTHING_TOLD: Final = Told()
MOST_REMEMBERED: Final = 1024
_told: Final[dict[bytes, Told]] = {}
_modes: Final[dict[bytes, BodyModes]] = {}
"""By their bytes: requests of one connection come with the same attributes, those of a listener with the same modes."""


def request_head(message: Asked, call: CallMetadata) -> RequestHead:
    """The head of an exchange from its first message, whatever kind that message is. Raises DecodeError."""
    told = told_by(message)
    context = message.metadata_context
    metadata: dict[str, Any] = {}
    if context:
        named = pb.Metadata.FromString(context).filter_metadata
        metadata = {name: struct_values(value) for name, value in named.items()}
    headers, end = NO_HEADERS, False
    if message.kind == "request_headers":
        headers = Headers(read_header_map(message.content))
        end = message.end_of_stream
    return RequestHead(call.target, headers, end, told.source, call.trace, told.route, metadata)


def is_from_upstream(message: Asked) -> bool | None:
    """Whether the upstream gave this response; False when Envoy answered in its place, None when it does not say."""
    details = told_by(message).code_details
    return details == VIA_UPSTREAM if details else None


def told_by(message: Asked) -> Told:
    """The attributes of a message. Raises DecodeError."""
    entries = message.attributes
    if len(entries) == 1:  # as always
        return _told_in(entries[0])
    found = NOTHING_TOLD
    for entry in entries:
        told = _told_in(entry)
        if told is not NOTHING_TOLD:
            found = told  # of two with one key the last counts
    return found


def _told_in(entry: bytes) -> Told:
    told = _told.get(entry)
    if told is None:
        told = _read_attributes(entry)
        if len(_told) >= MOST_REMEMBERED:
            _told.clear()
        _told[entry] = told
    return told


def _read_attributes(entry: bytes) -> Told:
    named = pb.NamedAttributes.FromString(entry)
    if named.key != ATTRIBUTES_KEY:
        return NOTHING_TOLD
    attributes = named.value.fields
    mtls = attributes.get("connection.mtls")
    return Told(
        Source(
            _text(attributes, "source.address"),
            mtls is not None and mtls.bool_value,
            _text(attributes, "connection.uri_san_peer_certificate"),
        ),
        _text(attributes, "xds.route_name"),
        _text(attributes, CODE_DETAILS),
    )


def modes_in_force(message: Asked) -> BodyModes | None:
    """The body modes Envoy says it uses (first message only); None when it uses one we do not serve.

    Raises DecodeError.
    """
    said = message.protocol_config
    if said is None:
        return None
    found = _modes.get(said)
    if found is not None:
        return found
    config = pb.ProtocolConfiguration.FromString(said)
    if config.send_body_without_waiting_for_header_response:
        return None
    found = _MODES.get((config.request_body_mode, config.response_body_mode))
    if found is not None and len(_modes) < MOST_REMEMBERED:
        _modes[said] = found
    return found


def struct_values(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A protobuf Struct as plain Python; numbers stay floats."""
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return struct_values(value.struct_value)
    if kind == "list_value":
        return [_value(item) for item in value.list_value.values]
    if kind is None or kind == "null_value":
        return None
    return getattr(value, kind)


def _text(attributes: Mapping[str, struct_pb2.Value], name: str) -> str:
    """One attribute; only what is read is converted. Anything but text is empty."""
    value = attributes.get(name)
    return value.string_value if value is not None else ""


# ---------------------------------------------------------------------- replies


class Message(Protocol):
    """A reply to Envoy that is being made."""

    def SerializeToString(self) -> bytes: ...


def forward_reply(kind: str, step: Forward) -> bytes:
    """The reply to a message of `kind` that lets it go on, changed or not."""
    headers, metadata = step.headers, step.metadata
    if step.body is None:
        if not (headers.set or headers.remove or metadata):
            modes = step.modes
            return UNCHANGED[kind] if modes is None else _lowered(kind, modes)
        if len(metadata) == 3:
            return _with_ids(kind, step)
    return _forward_message(kind, step).SerializeToString()


_IDS: Final = ("ses_" + "S" * 32, "dec_" + "D" * 32)
_MOST_TEMPLATES: Final = 512
_Template = tuple[bytes, bytes, bytes, bool]
_templates: Final[dict[tuple[object, ...], _Template]] = {}


def _with_ids(kind: str, step: Forward) -> bytes:
    """A reply that names the session and the decision: but for these two, replies are alike, and written once."""
    metadata = step.metadata
    session, decision = metadata["session_id"], metadata["decision_id"]
    if len(session) != len(_IDS[0]) or len(decision) != len(_IDS[1]):
        return _forward_message(kind, step).SerializeToString()
    headers, modes = step.headers, step.modes
    key = (
        kind, headers.set, headers.remove, metadata["verdict"],
        None if modes is None else (modes.request, modes.response),
    )  # fmt: skip
    parts = _templates.get(key)
    if parts is None:
        ids = {"session_id": _IDS[0], "decision_id": _IDS[1], "verdict": metadata["verdict"]}
        parts = _cut(_forward_message(kind, replace(step, metadata=ids, records=())).SerializeToString())
        if parts is None:
            return _forward_message(kind, step).SerializeToString()
        if len(_templates) >= _MOST_TEMPLATES:
            _templates.clear()
        _templates[key] = parts
    before, between, after, session_first = parts
    first, second = (session, decision) if session_first else (decision, session)
    return b"".join((before, first.encode(), between, second.encode(), after))


def _cut(message: bytes) -> _Template | None:
    """Cut a message at its two ids; None when they cannot be told from its other bytes."""
    session, decision = (name.encode() for name in _IDS)
    if message.count(session) != 1 or message.count(decision) != 1:
        return None
    first, second = sorted((session, decision), key=message.index)
    before, _, rest = message.partition(first)
    between, _, after = rest.partition(second)
    return before, between, after, first is session


def _forward_message(kind: str, step: Forward) -> Message:
    return _check_message(step) if kind == "check" else _process_message(kind, step)


def _process_message(kind: str, step: Forward) -> pb.ProcessingResponse:
    reply = pb.ProcessingResponse()
    if kind.endswith("trailers"):
        trailers = getattr(reply, kind)
        trailers.SetInParent()
        mutate(trailers.header_mutation, step.headers)
        return reply
    part = getattr(reply, kind)
    part.SetInParent()
    if step.headers.set or step.headers.remove:
        mutate(part.response.header_mutation, step.headers)
    if step.body is not None:
        part.response.body_mutation.body = step.body
    if step.metadata:
        _put_metadata(reply.dynamic_metadata, step.metadata)
    if step.modes is not None and kind.endswith("_headers"):
        _put_modes(reply.mode_override, step.modes)
    return reply


_lowering: Final[dict[tuple[str, BodyMode, BodyMode], bytes]] = {}


def _lowered(kind: str, modes: BodyModes) -> bytes:
    """A reply that only changes the body modes: there are a handful, so each is made once."""
    key = (kind, modes.request, modes.response)
    known = _lowering.get(key)
    if known is None:
        _lowering[key] = known = _process_message(kind, Forward(modes=modes)).SerializeToString()
    return known


def _put_modes(override: pb.ProcessingMode, modes: BodyModes) -> None:
    """Every mode is named: Envoy takes what is left out as NONE."""
    override.request_header_mode = Mode.SEND
    override.response_header_mode = Mode.SEND
    override.request_body_mode = _FROM_MODE[modes.request]
    override.response_body_mode = _FROM_MODE[modes.response]
    override.request_trailer_mode = Mode.SKIP
    # whoever looks at a body looks at what follows it
    override.response_trailer_mode = Mode.SKIP if modes.response is BodyMode.NONE else Mode.SEND


def refuse_reply(step: Refuse) -> bytes:
    """An immediate response."""
    reply = pb.ProcessingResponse()
    immediate = reply.immediate_response
    immediate.status.code = step.status
    mutate(immediate.headers, HeaderChange(set=step.headers))
    immediate.body = step.body
    immediate.details = step.details
    if step.metadata:
        _put_metadata(reply.dynamic_metadata, step.metadata)
    return reply.SerializeToString()


def timeout_reply(seconds: float) -> bytes:
    """Ask for more time. Envoy honours one per message, and only when it comes alone."""
    reply = pb.ProcessingResponse()
    reply.override_message_timeout.FromMilliseconds(max(1, int(seconds * 1000)))
    return reply.SerializeToString()


def mutate(mutation: pb.HeaderMutation, change: HeaderChange) -> None:
    """Removals, then sets; a repeated name replaces once and then appends. Values travel as `raw_value`."""
    mutation.remove_headers.extend(name.encode("latin-1") for name in change.remove)
    seen: set[str] = set()
    for name, value in change.set:
        option = mutation.set_headers.add()
        option.header.key = name.encode("latin-1")
        option.header.raw_value = value.encode("latin-1", "replace")
        if name in seen:
            option.append.value = True
        seen.add(name)


def _put_metadata(struct: struct_pb2.Struct, values: Mapping[str, str]) -> None:
    inner = struct.fields[METADATA_NAMESPACE].struct_value
    for name, value in values.items():
        inner.fields[name].string_value = value


UNCHANGED: Final = {
    kind: _process_message(kind, Forward()).SerializeToString()
    for kind in (
        "request_headers", "response_headers", "request_body", "response_body", "request_trailers", "response_trailers",
    )
}  # fmt: skip
"""Replies that change nothing."""


# ---------------------------------------------------------------------- ext_authz


@dataclass(frozen=True, slots=True)
class AuthzContext:
    """What Envoy says of a Check call's connection and route."""

    source: Source
    target: str
    """Of the route's context extensions; "" where they name none."""


_contexts: Final[dict[tuple[bytes, ...], AuthzContext]] = {}
"""By their bytes, as attributes are: calls of one connection and route come with the same."""


def authz_head(message: az.AskedCheck, call: CallMetadata) -> tuple[RequestHead, bytes]:
    """The request of a Check call and its body. Raises DecodeError.

    Its target is in the route's context extensions or the call's metadata; two that differ are as bad as none.
    """
    attributes = message.attributes
    http = attributes.request.http
    items = [
        (":method", http.method.decode("latin-1")),
        (":path", http.path.decode("latin-1")),
        (":authority", http.host.decode("latin-1")),
        (":scheme", http.scheme.decode("latin-1")),
    ]
    if http.HasField("header_map"):
        items += [pair for pair in read_header_map(http.header_map) if pair[0][0] != ":"]
    else:
        items += [
            (name.lower(), value.encode().decode("latin-1"))
            for name, value in http.headers.items()
            if name[:1] != ":"
        ]
    context = _authz_context(attributes)
    target = context.target or call.target
    if target != (call.target or target):
        target = ""
    metadata: dict[str, Any] = {}
    if attributes.metadata_context:
        named = pb.Metadata.FromString(attributes.metadata_context).filter_metadata
        metadata = {name: struct_values(value) for name, value in named.items()}
    head = RequestHead(target, Headers(tuple(items)), False, context.source, call.trace, "", metadata)
    return head, http.raw_body or http.body


def _authz_context(attributes: az.AskedCheck.Attributes) -> AuthzContext:
    key = (attributes.source, *attributes.context_extensions)
    found = _contexts.get(key)
    if found is None:
        peer = az.AttributeContext.Peer.FromString(attributes.source)
        place = peer.address.socket_address
        extensions: dict[str, str] = {}  # of two with one key the last counts
        for entry in attributes.context_extensions:
            extension = az.ContextExtension.FromString(entry)
            extensions[extension.key] = extension.value
        found = AuthzContext(
            Source(f"{place.address}:{place.port_value}", bool(peer.principal), peer.principal),
            extensions.get("extproc.target", ""),
        )
        if len(_contexts) >= MOST_REMEMBERED:
            _contexts.clear()
        _contexts[key] = found
    return found


def check_reply(step: Forward | Refuse) -> bytes:
    """A Check verdict: OK with header changes, or a denial with its body (RFC 9457)."""
    if isinstance(step, Forward) and len(step.metadata) == 3:
        return _with_ids("check", step)
    return _check_message(step).SerializeToString()


def _check_message(step: Forward | Refuse) -> az.CheckResponse:
    reply = az.CheckResponse()
    if isinstance(step, Refuse):
        reply.status.code = 7 if step.status < 500 else 14  # PERMISSION_DENIED, UNAVAILABLE
        denied = reply.denied_response
        denied.status.code = step.status
        denied.body = step.body
        _options(denied.headers, step.headers)
    else:
        ok = reply.ok_response
        ok.SetInParent()
        _options(ok.headers, step.headers.set)
        ok.headers_to_remove.extend(name.encode("latin-1") for name in step.headers.remove)
        reply.status.code = 0
    if step.metadata:
        for name, value in step.metadata.items():
            reply.dynamic_metadata.fields[name].string_value = value
    return reply


def _options(container: Any, pairs: Iterable[tuple[str, str]]) -> None:
    for name, value in pairs:
        option = container.add()
        option.header.key = name.encode("latin-1")
        # ext_authz reads `value`, unlike ext_proc
        option.header.value = value.encode("latin-1", "replace")
        option.append.value = False
