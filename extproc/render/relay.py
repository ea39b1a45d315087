"""Envoy's side of the relay: tcp_proxy hands a connection to our workers, with a PROXY header in front."""

from __future__ import annotations

from dataclasses import replace

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterLbPolicy,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HealthCheck,
    HealthCheckPayload,
    HealthCheckTcpHealthCheck,
    ProxyProtocolConfig,
    ProxyProtocolConfigVersion,
    ProxyProtocolPassThroughTlVs,
    ProxyProtocolPassThroughTlVsPassTlVsMatchType,
    SubstitutionFormatString,
    TlvEntry,
    TransportSocket,
)
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import (
    ProxyProtocolTlvMergePolicy,
    TcpProxy,
)
from envoy_data_plane.envoy.extensions.transport_sockets.proxy_protocol.v3 import (
    ProxyProtocolUpstreamTransport,
)
from envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer.v3 import RawBuffer
from envoy_data_plane.envoy.type.v3 import Percent

from extproc.config import Settings
from extproc.config.settings import Listener
from extproc.domain.relay import PING, PONG, TLV_CERTIFICATE, TLV_LISTENER, TLV_PEER, TLV_TARGET
from extproc.render.pieces import cluster, pack, seconds

PROXY_PROTOCOL = "envoy.transport_sockets.upstream_proxy_protocol"
RAW_BUFFER = "envoy.transport_sockets.raw_buffer"
RELAY_BUFFER = 256 << 10
"""Bytes per direction that Envoy buffers for a connection of the relay before it stops reading."""


def relay_cluster_name(listener: str) -> str:
    """Our workers again, as the way on from one listener."""
    return f"relay_{listener}"


def to_relay(proxy: TcpProxy, listener: str) -> TcpProxy:
    """The same proxy, but to our relay, which is told who connected."""
    return replace(
        proxy,
        cluster=relay_cluster_name(listener),
        max_connect_attempts=3,
        proxy_protocol_tlvs=[
            _formatted(TLV_PEER, "%DOWNSTREAM_PEER_URI_SAN%"),
            _formatted(TLV_CERTIFICATE, "%DOWNSTREAM_PEER_FINGERPRINT_256%"),
        ],
        # Nothing that another proxy or a caller said of itself counts.
        proxy_protocol_tlv_merge_policy=ProxyProtocolTlvMergePolicy.OVERWRITE_BY_TYPE_IF_EXISTS_OR_ADD,
    )


def _formatted(kind: int, text: str) -> TlvEntry:
    source = DataSource(inline_string=text)
    return TlvEntry(type=kind, format_string=SubstitutionFormatString(text_format_source=source))


def relay_cluster(settings: Settings, listener: Listener) -> Cluster:
    """Our workers' relay sockets. What they are told of a connection is a PROXY header that Envoy writes: target and
    listener from here, the caller's certificate from its connection."""
    socket = ProxyProtocolUpstreamTransport(
        config=ProxyProtocolConfig(
            version=ProxyProtocolConfigVersion.V2,
            added_tlvs=[
                TlvEntry(type=TLV_TARGET, value=(listener.target or "").encode()),
                TlvEntry(type=TLV_LISTENER, value=listener.name.encode()),
            ],
            pass_through_tlvs=ProxyProtocolPassThroughTlVs(
                match_type=ProxyProtocolPassThroughTlVsPassTlVsMatchType.INCLUDE,
                tlv_type=[TLV_PEER, TLV_CERTIFICATE],
            ),
        ),
        transport_socket=TransportSocket(name=RAW_BUFFER, typed_config=pack(RawBuffer())),
    )
    return cluster(
        relay_cluster_name(listener.name),
        list(settings.processor.relay_addresses),
        None,
        connect_timeout=1.0,
        transport_socket=TransportSocket(name=PROXY_PROTOCOL, typed_config=pack(socket)),
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        per_connection_buffer_limit_bytes=RELAY_BUFFER,
        common_lb_config=ClusterCommonLbConfig(healthy_panic_threshold=Percent(value=1.0)),
        circuit_breakers=CircuitBreakers(
            thresholds=[CircuitBreakersThresholds(max_connections=settings.envoy.max_connections)]
        ),
        health_checks=[
            HealthCheck(
                timeout=seconds(1),
                interval=seconds(1),
                no_traffic_interval=seconds(1),
                unhealthy_threshold=2,
                healthy_threshold=1,
                tcp_health_check=HealthCheckTcpHealthCheck(
                    send=HealthCheckPayload(text=PING.hex()), receive=[HealthCheckPayload(text=PONG.hex())]
                ),
            )
        ],
    )
