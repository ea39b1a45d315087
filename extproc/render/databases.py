"""Database listeners: every byte of a connection goes through us, in both directions, or the connection ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.core.v3 import (
    GrpcService,
    GrpcServiceEnvoyGrpc,
    HeaderValue,
    RetryPolicy,
    SubstitutionFormatString,
    TransportSocket,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain
from envoy_data_plane.envoy.config.listener.v3 import Listener as EnvoyListener
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StdoutAccessLog
from envoy_data_plane.envoy.extensions.filters.network.ext_proc.v3 import (
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    NetworkExternalProcessor,
)
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import TcpProxy, UpstreamConnectMode
from envoy_data_plane.google.protobuf import Struct

from extproc.config import Settings
from extproc.config.settings import Listener
from extproc.domain.errors import ConfigError
from extproc.render.access_log import to_receiver
from extproc.render.clusters import POSTGRES_ALPN, PROCESSOR, target_cluster_name
from extproc.render.contrib import starttls_for_callers
from extproc.render.filters import LISTENER_KEY, NAMESPACE, TARGET_KEY
from extproc.render.pieces import address, downstream_tls, pack, seconds
from extproc.render.relay import RELAY_BUFFER, to_relay

NETWORK_EXT_PROC = "envoy.filters.network.ext_proc"
TCP_PROXY = "envoy.filters.network.tcp_proxy"

CONNECTION_ATTRIBUTES = [
    "source.address",
    "connection.id",
    "connection.mtls",
    "connection.uri_san_peer_certificate",
    "connection.requested_server_name",
]
"""Envoy 1.40 sends these with the first bytes. `envoy-data-plane` lacks the field; `bootstrap` adds it."""
CHUNK = 64 << 10
"""Bytes per direction that Envoy buffers, and the most that one message to us carries. There is no back-pressure
between Envoy and us, so a small buffer is what keeps a large result from piling up here."""
SHORTEST_IDLE = 8 * 3600.0

ALPN = {"postgres": [POSTGRES_ALPN], "mysql": []}
"""What a caller may ask for by name under TLS that Envoy ends."""
EARLY_DATA = 64 << 10
"""Bytes of a caller that wait for Envoy's connection onwards; then it is not read."""
ACCESS_LOG = {
    # Statements are in the ledger, masked, under this session.
    "start_time": "%START_TIME%",
    "listener": "%FILTER_CHAIN_NAME%",
    "response_flags": "%RESPONSE_FLAGS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "source": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "session_id": f"%DYNAMIC_METADATA({NAMESPACE}:session_id)%",
}


def database_listener(settings: Settings, listener: Listener) -> EnvoyListener:
    """One listener for one target. Raises ConfigError when it names none."""
    target = listener.target
    if target is None:
        raise ConfigError(f"listener {listener.name} has no target")
    is_relay = listener.front == "relay"
    proxy = _tcp_proxy(settings, listener, target)
    if is_relay:
        proxy = to_relay(proxy, listener.name)
    if is_relay or listener.protocol == "mysql":
        proxy = replace(proxy, **_when_to_connect(listener))
    filters = [Filter(name=TCP_PROXY, typed_config=pack(proxy))]
    if not is_relay:
        filters.insert(
            0, Filter(name=NETWORK_EXT_PROC, typed_config=pack(_ext_proc(settings, listener, target)))
        )
    return EnvoyListener(
        name=listener.name,
        address=address(listener.address, mode=0o660),
        per_connection_buffer_limit_bytes=RELAY_BUFFER if is_relay else CHUNK,
        filter_chains=[
            FilterChain(
                name=listener.name,
                filters=filters,
                transport_socket=_transport(listener),
            )
        ],
    )


def _transport(listener: Listener) -> TransportSocket | None:
    """TLS for callers, unless it is bytes to Envoy."""
    tls = listener.tls
    if tls is None or tls.terminate == "extproc":
        return None
    if tls.terminate == "contrib":
        return starttls_for_callers(tls)
    return downstream_tls(tls, ALPN[listener.protocol])


def _ext_proc(settings: Settings, listener: Listener, target: str) -> NetworkExternalProcessor:
    return NetworkExternalProcessor(
        stat_prefix=f"{listener.name}.",
        failure_mode_allow=False,
        # A statement may wait for a person, and a server for its own work: no timer between us and Envoy.
        message_timeout=seconds(0),
        grpc_service=GrpcService(
            envoy_grpc=GrpcServiceEnvoyGrpc(
                cluster_name=PROCESSOR, max_receive_message_length=settings.envoy.grpc_message_bytes
            ),
            initial_metadata=[
                HeaderValue(key=LISTENER_KEY, value=listener.name),
                HeaderValue(key=TARGET_KEY, value=target),
            ],
            retry_policy=RetryPolicy(retry_on="connect-failure,refused-stream", num_retries=3),
        ),
        metadata_options=MetadataOptions(
            receiving_namespaces=MetadataOptionsMetadataNamespaces(untyped=[NAMESPACE])
        ),
    )


def _tcp_proxy(settings: Settings, listener: Listener, target: str) -> TcpProxy:
    return TcpProxy(
        stat_prefix=listener.name,
        cluster=target_cluster_name(target),
        # Longer than any wait for an approval; the default of an hour would cut idle sessions too.
        idle_timeout=seconds(max(SHORTEST_IDLE, 2 * settings.limits.max_message_timeout)),
        access_log=[_access_log(listener), *to_receiver(settings, listener)],
    )


def _when_to_connect(listener: Listener) -> dict[str, Any]:
    """As soon as a caller is there: its server may speak first, and a proxy that has connected nowhere yet does not
    see a caller leave that said nothing. Where Envoy ends TLS, once the caller has proven itself: only then is its
    certificate known."""
    if listener.tls is not None and listener.tls.terminate == "contrib":
        # the handshake comes in the middle of the conversation
        return {
            "upstream_connect_mode": UpstreamConnectMode.ON_DOWNSTREAM_DATA,
            "max_early_data_bytes": EARLY_DATA,
        }
    if listener.tls is None or listener.tls.terminate != "envoy":
        return {"upstream_connect_mode": UpstreamConnectMode.IMMEDIATE, "max_early_data_bytes": None}
    return {
        "upstream_connect_mode": UpstreamConnectMode.ON_DOWNSTREAM_TLS_HANDSHAKE,
        "max_early_data_bytes": 0,
    }


def _access_log(listener: Listener) -> AccessLog:
    fields = {**ACCESS_LOG, "protocol": listener.protocol}
    log = StdoutAccessLog(log_format=SubstitutionFormatString(json_format=Struct.from_dict(fields)))
    return AccessLog(name="envoy.access_loggers.stdout", typed_config=pack(log))
