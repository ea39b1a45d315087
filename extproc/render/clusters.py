"""Where Envoy connects to: our workers, the targets, the collector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterLbPolicy,
)
from envoy_data_plane.envoy.config.core.v3 import (
    HealthCheck,
    HealthCheckGrpcHealthCheck,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    KeepaliveSettings,
)
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions as CommonOptions
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.v3 import Percent

from extproc.config import Settings
from extproc.config.settings import Otlp, Target, Upstream
from extproc.config.units import Address
from extproc.domain.errors import ConfigError
from extproc.render.contrib import starttls_to_server
from extproc.render.pieces import certificate, cluster, seconds, upstream_context, upstream_tls

PROCESSOR = "extproc"
COLLECTOR = "otlp"
POSTGRES_ALPN = "postgresql"
"""Without it a server drops direct TLS (PostgreSQL, SSL Session Encryption)."""


def target_cluster_name(target: str) -> str:
    """Targets have a prefix, so that none can be called like our own clusters."""
    return f"target_{target}"


def processor_cluster(settings: Settings, workers: Sequence[Address]) -> Cluster:
    """Our workers, one endpoint each.

    No outlier detection: ten requests aborted by their callers ejected a healthy worker; health checks decide.
    """
    more = {}
    client = settings.envoy.client_tls
    if settings.processor.tls is not None:
        if client is None:
            raise ConfigError("processor.tls needs envoy.client_tls, so that Envoy can prove itself")
        more["transport_socket"] = upstream_tls(
            client.server_name,
            ca=client.ca,
            certificates=[certificate(client.certificate, client.key)],
            alpn="h2",
        )
    return cluster(
        PROCESSOR,
        list(workers),
        HttpProtocolOptions(
            common_http_protocol_options=CommonOptions(idle_timeout=seconds(0)),
            explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                http2_protocol_options=Http2ProtocolOptions(
                    max_concurrent_streams=1000,
                    initial_stream_window_size=1 << 20,
                    initial_connection_window_size=16 << 20,
                    connection_keepalive=KeepaliveSettings(interval=seconds(30), timeout=seconds(10)),
                )
            ),
        ),
        connect_timeout=1.0,
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        # Unhealthy workers get nothing while any is healthy; when none is, trying beats a certain refusal.
        common_lb_config=ClusterCommonLbConfig(healthy_panic_threshold=Percent(value=1.0)),
        circuit_breakers=CircuitBreakers(
            thresholds=[
                CircuitBreakersThresholds(
                    # Every exchange, waiting ones included, is an open stream; the default of 1024 would cut in.
                    max_connections=4096,
                    max_pending_requests=20_000,
                    max_requests=max(50_000, 4 * settings.limits.open_waits * settings.processor.workers),
                    max_retries=1024,
                )
            ]
        ),
        health_checks=[
            HealthCheck(
                timeout=seconds(1),
                interval=seconds(1),
                # The default of 60 s would let a worker without traffic stay unknown, or gone, for a minute.
                no_traffic_interval=seconds(1),
                unhealthy_threshold=2,
                healthy_threshold=1,
                grpc_health_check=HealthCheckGrpcHealthCheck(),
            )
        ],
        **more,
    )


def target_cluster(settings: Settings, target: Target) -> Cluster:
    """The real service. TLS names come from settings alone."""
    upstream = target.upstream
    if target.kind != "http":
        return _database_cluster(settings, target)
    http2 = upstream.protocol == "http2"
    explicit = (
        HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=Http2ProtocolOptions())
        if http2
        else HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=Http1ProtocolOptions())
    )
    return cluster(
        target_cluster_name(target.name),
        [upstream.address],
        HttpProtocolOptions(explicit_http_config=explicit),
        connect_timeout=upstream.connect_timeout,
        **_transport(settings, upstream, "h2" if http2 else "http/1.1"),
    )


def _database_cluster(settings: Settings, target: Target) -> Cluster:
    """One connection of a caller is one connection here; TLS starts with the first byte (Postgres 17 and later)."""
    upstream = target.upstream
    return cluster(
        target_cluster_name(target.name),
        [upstream.address],
        None,
        connect_timeout=upstream.connect_timeout,
        circuit_breakers=CircuitBreakers(
            thresholds=[CircuitBreakersThresholds(max_connections=settings.envoy.max_connections)]
        ),
        **({} if target.wire_tls is not None else _transport(settings, upstream, POSTGRES_ALPN)),
    )


def _transport(settings: Settings, upstream: Upstream, alpn: str) -> dict[str, Any]:
    tls = upstream.transport
    if tls is None:
        return {}
    own = (
        [certificate(tls.certificate, tls.key)] if tls.certificate is not None and tls.key is not None else []
    )
    name, ca = tls.server_name or upstream.address.host, tls.ca or settings.envoy.ca_bundle
    if tls.originate == "contrib":
        context = upstream_context(name, ca=ca, certificates=own, alpn=[])
        return {"transport_socket": starttls_to_server(context)}
    return {"transport_socket": upstream_tls(name, ca=ca, certificates=own, alpn=alpn)}


def collector_cluster(settings: Settings, otlp: Otlp) -> Cluster:
    """Where Envoy's own spans go: the collector our spans go to."""
    parts = urlsplit(otlp.endpoint)
    host = parts.hostname or ""
    place = Address(host=host, port=parts.port or 0)
    explicit = (
        HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=Http2ProtocolOptions())
        if otlp.protocol == "grpc"
        else HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=Http1ProtocolOptions())
    )
    more = {}
    if parts.scheme == "https":
        alpn = "h2" if otlp.protocol == "grpc" else "http/1.1"
        more["transport_socket"] = upstream_tls(host, ca=settings.envoy.ca_bundle, certificates=[], alpn=alpn)
    return cluster(
        COLLECTOR, [place], HttpProtocolOptions(explicit_http_config=explicit), connect_timeout=2.0, **more
    )
