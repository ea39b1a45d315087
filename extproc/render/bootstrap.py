"""A whole Envoy configuration from settings, as the JSON that Envoy reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import betterproto2
from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapStaticResources,
    LayeredRuntime,
    RuntimeLayer,
)
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.config.overload.v3 import (
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ThresholdTrigger,
    Trigger,
)
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import (
    DownstreamConnectionsConfig,
)
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 import FixedHeapConfig
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Struct

from extproc.config import Address, Settings
from extproc.config.settings import Target
from extproc.render.clusters import collector_cluster, processor_cluster, target_cluster
from extproc.render.contrib import contrib_filter
from extproc.render.databases import CONNECTION_ATTRIBUTES, NETWORK_EXT_PROC
from extproc.render.filters import EXT_AUTHZ, EXT_PROC
from extproc.render.listeners import listeners
from extproc.render.pieces import address, pack, seconds
from extproc.render.relay import relay_cluster

RUNTIME = {
    # A clean end of stream instead of a reset, so that the end of an exchange is not taken for a failure.
    "envoy.reloadable_features.ext_proc_graceful_grpc_close": True,
    # With true, connections whose bytes we do not answer one for one would never be closed (database listeners).
    "envoy.reloadable_features.connection_close_through_filter_manager": False,
}
ADMIN_PATHS = (
    "/stats",
    "/ready",
    "/server_info",
    "/clusters",
    "/listeners",
    "/config_dump",
    "/drain_listeners",
)
HEAP = "envoy.resource_monitors.fixed_heap"


def envoy_config(settings: Settings, *, sockets: Sequence[str] | None = None) -> dict[str, Any]:
    """The configuration of one Envoy for all listeners and targets.

    `sockets` are the workers' addresses (`unix:/path` or `host:port`), one endpoint each; by default those that
    settings give. Raises ConfigError when settings lack what Envoy needs, ValueError for an odd socket.
    """
    workers = (
        settings.processor.addresses
        if sockets is None
        else tuple(Address.parse(socket, Path.cwd()) for socket in sockets)
    )
    clusters = [
        processor_cluster(settings, workers),
        *(target_cluster(settings, target) for target in settings.targets if _is_dialled(settings, target)),
        *(relay_cluster(settings, listener) for listener in settings.listeners if listener.front == "relay"),
    ]
    if settings.telemetry.otlp is not None and settings.envoy.tracing:
        clusters.append(collector_cluster(settings, settings.telemetry.otlp))
    bootstrap = Bootstrap(
        node=Node(id=settings.envoy.node, cluster="extproc"),
        admin=_admin(settings),
        layered_runtime=LayeredRuntime(
            layers=[RuntimeLayer(name="extproc", static_layer=Struct.from_dict(RUNTIME))]
        ),
        overload_manager=_overload(settings),
        static_resources=BootstrapStaticResources(listeners=list(listeners(settings)), clusters=clusters),
    )
    found = bootstrap.to_dict(casing=betterproto2.Casing.SNAKE)
    for listener in settings.listeners:
        _put_in_front(found, listener.name, contrib_filter(settings, listener))
    return _complete(found)


def _put_in_front(config: dict[str, Any], listener: str, filter_config: dict[str, Any] | None) -> None:
    if filter_config is not None:
        found = next(one for one in config["static_resources"]["listeners"] if one["name"] == listener)
        found["filter_chains"][0]["filters"].insert(0, filter_config)


def _is_dialled(settings: Settings, target: Target) -> bool:
    """Envoy connects to it. A database behind the relay alone has no cluster, and so no way past us."""
    fronts = {listener.front for listener in settings.listeners if listener.target == target.name}
    return fronts != {"relay"}


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """The one place that adds to what `envoy-data-plane` writes.

    It leaves out fields that have their default; those an auditor looks for are spelled out. Fields of Envoy 1.40
    that its classes lack are added here as well: `connection_attributes`.
    """
    for listener in config["static_resources"].get("listeners", []):
        for network_filter in listener["filter_chains"][0]["filters"]:
            if network_filter["name"] == NETWORK_EXT_PROC:
                network_filter["typed_config"]["failure_mode_allow"] = False
                network_filter["typed_config"]["connection_attributes"] = list(CONNECTION_ATTRIBUTES)
        for http_filter in _http_filters(listener):
            filter_config = http_filter["typed_config"]
            if http_filter["name"] in (EXT_PROC, EXT_AUTHZ):
                filter_config["failure_mode_allow"] = False
            for mode in filter_config.get("allowed_override_modes", []):
                mode.setdefault("request_body_mode", "NONE")
                mode.setdefault("response_body_mode", "NONE")
    return config


def _http_filters(listener: dict[str, Any]) -> list[dict[str, Any]]:
    chain = listener["filter_chains"][0]["filters"][0]
    filters: list[dict[str, Any]] = chain["typed_config"].get("http_filters", [])
    return filters


def _admin(settings: Settings) -> Admin:
    """Reading and draining only, on a socket for its owner alone."""
    return Admin(
        address=address(settings.envoy.admin, mode=0o600),
        allow_paths=[StringMatcher(prefix=path) for path in ADMIN_PATHS],
    )


def _overload(settings: Settings) -> OverloadManager:
    """Envoy buffers whole bodies for us; this bounds what that can cost."""
    return OverloadManager(
        refresh_interval=seconds(0.25),
        resource_monitors=[
            ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=pack(
                    DownstreamConnectionsConfig(
                        max_active_downstream_connections=settings.envoy.max_connections
                    )
                ),
            ),
            ResourceMonitor(
                name=HEAP, typed_config=pack(FixedHeapConfig(max_heap_size_bytes=settings.envoy.max_heap))
            ),
        ],
        actions=[
            _action("stop_accepting_connections", 0.92),
            _action("stop_accepting_requests", 0.95),
        ],
    )


def _action(name: str, threshold: float) -> OverloadAction:
    return OverloadAction(
        name=f"envoy.overload_actions.{name}",
        triggers=[Trigger(name=HEAP, threshold=ThresholdTrigger(value=threshold))],
    )
