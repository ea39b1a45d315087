"""Envoy's access log service: what Envoy says of a request or connection once it is over.

Each entry becomes one `access` record. It is joined by our own session id, which we gave Envoy as dynamic metadata
when the exchange began, and never by a request id, which callers can choose. An entry without it on a listener of
ours is a request that never reached us: `coverage` says whether Envoy refused it itself or passed it on.

Whoever logs waits for nobody: Envoy sends these in the background, and a receiver that is gone holds up no traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import structlog
from google.protobuf.message import DecodeError

from extproc.domain.record import Record
from extproc.servers.envoy_proto import METADATA_NAMESPACE
from extproc.servers.service import Service
from extproc.servers.wire import access_log_pb2 as pb

log = structlog.get_logger()

ACCESS_METHOD = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
LOG_NAME = "extproc"
"""What a log's name begins with: `extproc/<protocol>/<front>/<listener>/<target>`, written by `render`."""
MOST_ENTRIES = 2000
"""Entries of one message. Envoy sends one every 16 KiB or every second."""
MOST_TEXT = 256
"""Characters of a text that are kept."""
MOST_NAMES = 8
"""Names of a peer's certificate that are kept."""
LARGEST = (1 << 53) - 1
AUTHZ_NAMESPACE = "envoy.filters.http.ext_authz"
OVER = frozenset(
    (pb.Common.NotSet, pb.Common.TcpConnectionEnd, pb.Common.DownstreamEnd)
)  # the only kinds that say how something ended
_METHODS: Final = {
    number: name
    for name, number in pb.HttpEntry.Method.items()
    if number != pb.HttpEntry.Method.METHOD_UNSPECIFIED
}
_TLS = {pb.Tls.TLSv1: "1.0", pb.Tls.TLSv1_1: "1.1", pb.Tls.TLSv1_2: "1.2", pb.Tls.TLSv1_3: "1.3"}


class AccessError(Exception):
    """The stream must end: with what is wrong, and never with OK."""


class AccessStream:
    """One `StreamAccessLogs` call. It has no end of its own: Envoy keeps it open for as long as it runs."""

    __slots__ = ("_front", "_listener", "_protocol", "_service", "_target")

    def __init__(self, service: Service) -> None:
        self._service = service
        self._protocol = self._front = self._listener = self._target = ""

    def receive(self, data: bytes) -> None:
        """One message: its entries are recorded at once. Raises AccessError."""
        try:
            message = pb.StreamAccessLogsMessage.FromString(data)
        except DecodeError:
            raise AccessError("the message does not parse") from None
        if message.HasField("identifier"):
            self._identify(message.identifier.log_name)
        if not self._listener:
            raise AccessError("the log is none of ours")
        entries: list[pb.HttpEntry | pb.TcpEntry] = [
            *message.http_logs.log_entry,
            *message.tcp_logs.log_entry,
        ]
        if len(entries) > MOST_ENTRIES:
            raise AccessError("too many entries in one message")
        now = self._service.now()
        records = tuple(
            Record("access", now, self._fields(entry))
            for entry in entries
            if entry.common_properties.access_log_type in OVER
            and not entry.common_properties.intermediate_log_entry
        )
        if not self._service.note(records):
            self._service.lost_access += len(records)
            log.error("access.not_recorded", lost=len(records))
            raise AccessError("nothing can be recorded")

    def _identify(self, name: str) -> None:
        """The first message says whose log this is; render wrote it, so it names the target."""
        parts = name.split("/")
        if len(parts) != 5 or parts[0] != LOG_NAME or len(name) > MOST_TEXT:
            raise AccessError("the log is none of ours")
        _, self._protocol, self._front, self._listener, self._target = parts

    def _fields(self, entry: pb.HttpEntry | pb.TcpEntry) -> dict[str, Any]:
        common = entry.common_properties
        ids = _ids(common.metadata)
        route = _cut(common.route_name)
        fields: dict[str, Any] = {
            "protocol": self._protocol,
            "front": self._front,
            "listener": self._listener,
            "target": self._target or _target_of(route),
            "coverage": self._coverage(ids, common),
            "source": _address(common.downstream_remote_address),
            "upstream": _address(common.upstream_remote_address),
            "duration_us": _micros(common),
            "flags": _flags(common),
            **ids,
        }
        if common.HasField("start_time"):
            fields["started_us"] = _whole(
                common.start_time.seconds * 1_000_000 + common.start_time.nanos // 1000
            )
        if route:
            fields["route"] = route
        if common.upstream_request_attempt_count > 1:
            fields["attempts"] = common.upstream_request_attempt_count
        if common.connection_termination_details:
            fields["termination"] = _cut(common.connection_termination_details)
        if common.HasField("tls_properties"):
            fields["tls"] = _tls(common.tls_properties)
        if isinstance(entry, pb.HttpEntry):
            fields |= _http(entry)
        else:
            fields["bytes_received"] = _whole(entry.connection_properties.received_bytes)
            fields["bytes_sent"] = _whole(entry.connection_properties.sent_bytes)
        return fields

    def _coverage(self, ids: Mapping[str, str], common: pb.Common) -> str:
        """`joined`, `refused` by Envoy before it asked us, `unseen`: it went on without us, or `unknown`.

        A relay has no way to give Envoy a session id, so what it carried cannot be told from what it did not.
        """
        if ids.get("session_id"):
            return "joined"
        if self._front == "relay":
            return "unknown"
        reached = common.upstream_wire_bytes_sent or common.upstream_wire_bytes_received
        return "unseen" if reached else "refused"


def _http(entry: pb.HttpEntry) -> dict[str, Any]:
    asked, answered, common = entry.request, entry.response, entry.common_properties
    return {
        "method": _METHODS.get(asked.request_method, "OTHER"),
        "code": answered.response_code.value,
        "details": _cut(answered.response_code_details),
        "bytes_received": _whole(common.downstream_wire_bytes_received),
        "bytes_sent": _whole(common.downstream_wire_bytes_sent),
        "request_body": _whole(asked.request_body_bytes),
        "response_body": _whole(answered.response_body_bytes),
    }


def _flags(common: pb.Common) -> list[str]:
    """Envoy's response flags that are set, in the order of their numbers: of most ends none."""
    if not common.HasField("response_flags"):
        return []
    return [field.name for field, value in common.response_flags.ListFields() if value]


def _ids(metadata: pb.Metadata) -> dict[str, str]:
    """What we told Envoy of this exchange."""
    found: dict[str, str] = {}
    for namespace in (METADATA_NAMESPACE, AUTHZ_NAMESPACE):
        if namespace not in metadata.filter_metadata:
            continue
        told = metadata.filter_metadata[namespace].fields
        for name in ("session_id", "decision_id", "verdict"):
            if name in told and name not in found and told[name].string_value:
                found[name] = _cut(told[name].string_value)
    return found


def _target_of(route: str) -> str:
    """Routes are named `<listener>/<position>/<target>` by `render`."""
    return route.rpartition("/")[2]


def _tls(tls: pb.Tls) -> dict[str, Any]:
    peer = tls.peer_certificate_properties
    names = [name.uri or name.dns for name in peer.subject_alt_name][:MOST_NAMES]
    return {
        "version": _TLS.get(tls.tls_version, ""),
        "server_name": _cut(tls.tls_sni_hostname),
        "peer": _cut(peer.subject),
        "peer_names": [_cut(name) for name in names],
    }


def _address(address: pb.Address) -> str:
    if address.HasField("pipe"):
        return _cut(f"unix:{address.pipe.path}") if address.pipe.path else ""
    socket = address.socket_address
    if not socket.address:
        return ""
    host = f"[{socket.address}]" if ":" in socket.address else socket.address
    return _cut(f"{host}:{socket.port_value}")


def _micros(common: pb.Common) -> int:
    return _whole(common.duration.seconds * 1_000_000 + common.duration.nanos // 1000)


def _whole(number: int) -> int:
    """A record holds no number beyond 53 bits."""
    return max(0, min(number, LARGEST))


def _cut(text: str) -> str:
    return text[:MOST_TEXT]
