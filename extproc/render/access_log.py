"""Envoy's access log: its own lines without anything that was asked, and entries for our receiver."""

from __future__ import annotations

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.core.v3 import ApiVersion, GrpcService, GrpcServiceEnvoyGrpc
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
    TcpGrpcAccessLogConfig,
)

from extproc.config import Settings
from extproc.config.settings import Listener
from extproc.render.clusters import PROCESSOR
from extproc.render.pieces import pack, seconds

FLUSH = 1.0
"""Seconds an entry waits in Envoy at most."""
BUFFER = 16 << 10
"""Bytes of entries that are sent at once."""


def to_receiver(settings: Settings, listener: Listener) -> list[AccessLog]:
    """The log that comes to us, unless it is not wanted. Its name tells us what it is about."""
    if not settings.envoy.access_log:
        return []
    common = _common(listener)
    if listener.protocol == "http":
        config = HttpGrpcAccessLogConfig(common_config=common)
        return [AccessLog(name="envoy.access_loggers.http_grpc", typed_config=pack(config))]
    return [
        AccessLog(
            name="envoy.access_loggers.tcp_grpc",
            typed_config=pack(TcpGrpcAccessLogConfig(common_config=common)),
        )
    ]


def log_name(listener: Listener) -> str:
    """`extproc/<protocol>/<front>/<listener>/<target>`; HTTP names its target by the route."""
    front = listener.mode if listener.protocol == "http" else listener.front
    return f"extproc/{listener.protocol}/{front}/{listener.name}/{listener.target or ''}"


def _common(listener: Listener) -> CommonGrpcAccessLogConfig:
    return CommonGrpcAccessLogConfig(
        log_name=log_name(listener),
        grpc_service=GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=PROCESSOR)),
        transport_api_version=ApiVersion.V3,
        buffer_flush_interval=seconds(FLUSH),
        buffer_size_bytes=BUFFER,
    )
