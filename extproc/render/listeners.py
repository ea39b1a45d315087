"""Where callers reach Envoy, and how strictly their HTTP is read."""

from __future__ import annotations

from collections.abc import Iterable

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutation,
    HeaderMutationRemoveOnMatch,
)
from envoy_data_plane.envoy.config.core.v3 import (
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    HttpService,
    HttpUri,
    SubstitutionFormatString,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain
from envoy_data_plane.envoy.config.listener.v3 import Listener as EnvoyListener
from envoy_data_plane.envoy.config.route.v3 import (
    Route,
    RouteAction,
    RouteActionUpgradeConfig,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.config.trace.v3 import OpenTelemetryConfig, TracingHttp
from envoy_data_plane.envoy.extensions.access_loggers.stream.v3 import StdoutAccessLog
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerForwardClientCertDetails,
    HttpConnectionManagerInternalAddressConfig,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpConnectionManagerServerHeaderTransformation,
    HttpConnectionManagerSetCurrentClientCertDetails,
    HttpConnectionManagerTracing,
    HttpConnectionManagerUpgradeConfig,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Struct

from extproc.config import Settings
from extproc.config import settings as tree
from extproc.config.settings import Listener
from extproc.render.access_log import to_receiver
from extproc.render.clusters import COLLECTOR, target_cluster_name
from extproc.render.databases import database_listener
from extproc.render.filters import NAMESPACE, http_filters, route_config
from extproc.render.pieces import address, downstream_tls, pack, seconds

ACCESS_LOG = {
    # No path, query or header values: what was asked is in the ledger, masked, under this session.
    "start_time": "%START_TIME%",
    "listener": "%FILTER_CHAIN_NAME%",
    "route": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "response_flags": "%RESPONSE_FLAGS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "source": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "upstream_cluster": "%UPSTREAM_CLUSTER%",
    "session_id": f"%DYNAMIC_METADATA({NAMESPACE}:session_id)%",
    "decision_id": f"%DYNAMIC_METADATA({NAMESPACE}:decision_id)%",
    "verdict": f"%DYNAMIC_METADATA({NAMESPACE}:verdict)%",
}


def http_listener(settings: Settings, listener: Listener) -> EnvoyListener:
    """One listener with its connection manager, filters and routes."""
    return EnvoyListener(
        name=listener.name,
        address=address(listener.address, mode=0o660),
        per_connection_buffer_limit_bytes=settings.envoy.buffer_bytes,
        filter_chains=[
            FilterChain(
                name=listener.name,
                filters=[
                    Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=pack(_connection_manager(settings, listener)),
                    )
                ],
                transport_socket=(
                    downstream_tls(listener.tls, ["h2", "http/1.1"]) if listener.tls is not None else None
                ),
            )
        ],
    )


def _connection_manager(settings: Settings, listener: Listener) -> HttpConnectionManager:
    limits = settings.limits
    return HttpConnectionManager(
        stat_prefix=listener.name,
        http_filters=http_filters(settings, listener),
        route_config=_routes(settings, listener),
        # One reading of a path and of a peer: what rules see is what the upstream gets.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        use_remote_address=True,
        xff_num_trusted_hops=listener.trusted_hops,
        internal_address_config=HttpConnectionManagerInternalAddressConfig(unix_sockets=False),
        forward_client_cert_details=HttpConnectionManagerForwardClientCertDetails.SANITIZE_SET,
        set_current_client_cert_details=HttpConnectionManagerSetCurrentClientCertDetails(
            subject=True, uri=True
        ),
        early_header_mutation_extensions=[_strip_envoy_headers()],
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        max_request_headers_kb=limits.header_bytes // 1024,
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=seconds(max(3600.0, limits.stream_idle_timeout)),
            max_headers_count=100,
            headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
        ),
        http_protocol_options=Http1ProtocolOptions(
            allow_absolute_url=False, accept_http_10=False, allow_chunked_length=False, enable_trailers=False
        ),
        http2_protocol_options=Http2ProtocolOptions(
            max_concurrent_streams=100,
            initial_stream_window_size=1 << 16,
            initial_connection_window_size=1 << 20,
            # Strict for HTTP/2 as for HTTP/1: what is not valid ends the connection.
            override_stream_error_on_invalid_http_message=False,
        ),
        # A hold is a stream without bytes; headers alone have no reason to be slow.
        stream_idle_timeout=seconds(limits.stream_idle_timeout),
        request_timeout=seconds(limits.stream_idle_timeout),
        request_headers_timeout=seconds(10),
        upgrade_configs=[HttpConnectionManagerUpgradeConfig(upgrade_type=kind) for kind in listener.upgrades],
        access_log=[_access_log(), *to_receiver(settings, listener)],
        tracing=_tracing(settings),
    )


def _strip_envoy_headers() -> TypedExtensionConfig:
    """Callers have no say in retries, timeouts or routing: `x-envoy-retry-on` alone could run an approved request
    three times."""
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=pack(
            EarlyHeaderMutation(
                mutations=[
                    HeaderMutation(
                        remove_on_match=HeaderMutationRemoveOnMatch(
                            key_matcher=StringMatcher(prefix=prefix, ignore_case=True)
                        )
                    )
                    for prefix in ("x-envoy-", "x-extproc-")
                ]
            )
        ),
    )


def _routes(settings: Settings, listener: Listener) -> RouteConfiguration:
    """One virtual host per host pattern, routes in the order of the file."""
    hosts = dict.fromkeys(host.lower() for route in listener.routes for host in route.hosts)
    return RouteConfiguration(
        name=listener.name,
        virtual_hosts=[
            VirtualHost(
                name=f"{listener.name}_{number}",
                domains=[host],
                routes=[
                    _route(settings, listener, position, route)
                    for position, route in enumerate(listener.routes)
                    if host in (named.lower() for named in route.hosts)
                ],
            )
            for number, host in enumerate(hosts)
        ],
    )


def _route(settings: Settings, listener: Listener, position: int, route: tree.Route) -> Route:
    """Never a retry, mirror or hedge: behind one decision the request runs once."""
    target = settings.target(route.target)
    if route.path is not None:
        match = RouteMatch(path=route.path)
    elif route.prefix in (None, "/"):
        match = RouteMatch(prefix="/")
    else:
        match = RouteMatch(path_separated_prefix=route.prefix)
    upgrades = [RouteActionUpgradeConfig(upgrade_type=kind, enabled=True) for kind in listener.upgrades]
    return Route(
        name=f"{listener.name}/{position}/{route.target}",
        match=match,
        route=RouteAction(
            cluster=target_cluster_name(route.target),
            timeout=seconds(route.timeout),
            idle_timeout=seconds(settings.limits.stream_idle_timeout),
            host_rewrite_literal=target.upstream.host,
            upgrade_configs=upgrades,
        ),
        request_body_buffer_limit=settings.envoy.buffer_bytes,
        typed_per_filter_config=route_config(listener, route.target),
    )


def _access_log() -> AccessLog:
    log = StdoutAccessLog(log_format=SubstitutionFormatString(json_format=Struct.from_dict(ACCESS_LOG)))
    return AccessLog(name="envoy.access_loggers.stdout", typed_config=pack(log))


def _tracing(settings: Settings) -> HttpConnectionManagerTracing | None:
    otlp = settings.telemetry.otlp
    if otlp is None or not settings.envoy.tracing:
        return None
    config = OpenTelemetryConfig(service_name=f"{settings.telemetry.service_name or 'extproc'}-envoy")
    if otlp.protocol == "grpc":
        config.grpc_service = GrpcService(
            envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=COLLECTOR), timeout=seconds(2)
        )
    else:
        uri = f"{otlp.endpoint.rstrip('/')}/v1/traces"
        config.http_service = HttpService(http_uri=HttpUri(uri=uri, cluster=COLLECTOR, timeout=seconds(2)))
    return HttpConnectionManagerTracing(
        provider=TracingHttp(name="envoy.tracers.opentelemetry", typed_config=pack(config)),
        random_sampling=Percent(value=100.0),
        spawn_upstream_span=True,
    )


def listeners(settings: Settings) -> Iterable[EnvoyListener]:
    """All of them, in the order of the file."""
    return (
        http_listener(settings, listener)
        if listener.protocol == "http"
        else database_listener(settings, listener)
        for listener in settings.listeners
    )
