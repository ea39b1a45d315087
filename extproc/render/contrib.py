"""TLS inside a database's protocol by Envoy's contrib build: its filter answers requests for TLS, and may ask.

The filter only does that. It parses no SQL here: its parser lets through what it does not understand.
"""

from __future__ import annotations

from typing import Any

from envoy_data_plane.envoy.config.core.v3 import TransportSocket
from envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer.v3 import RawBuffer
from envoy_data_plane.envoy.extensions.transport_sockets.starttls.v3 import (
    StartTlsConfig,
    UpstreamStartTlsConfig,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import UpstreamTlsContext

from extproc.config import Settings
from extproc.config.settings import Listener, ListenerTls
from extproc.render.pieces import downstream_context, pack

STARTTLS = "envoy.transport_sockets.starttls"
POSTGRES_PROXY = "envoy.filters.network.postgres_proxy"
_POSTGRES_TYPE = "type.googleapis.com/envoy.extensions.filters.network.postgres_proxy.v3alpha.PostgresProxy"


def starttls_for_callers(tls: ListenerTls) -> TransportSocket:
    """A socket that begins in the clear, until the filter says otherwise."""
    config = StartTlsConfig(
        cleartext_socket_config=RawBuffer(), tls_socket_config=downstream_context(tls, [])
    )
    return TransportSocket(name=STARTTLS, typed_config=pack(config))


def starttls_to_server(context: UpstreamTlsContext) -> TransportSocket:
    """The same towards the server."""
    config = UpstreamStartTlsConfig(cleartext_socket_config=RawBuffer(), tls_socket_config=context)
    return TransportSocket(name=STARTTLS, typed_config=pack(config))


def contrib_filter(settings: Settings, listener: Listener) -> dict[str, Any] | None:
    """The filter in front of ours, where a listener has one. `envoy-data-plane` has no class for it.

    `downstream_ssl: REQUIRE` (Envoy 1.37 and later) refuses whoever goes on in the clear.
    """
    if listener.target is None or listener.tls is None or listener.tls.terminate != "contrib":
        return None
    tls = settings.target(listener.target).upstream.transport
    asks = listener.front != "relay" and tls is not None and tls.originate == "contrib"
    return {
        "name": POSTGRES_PROXY,
        "typed_config": {
            "@type": _POSTGRES_TYPE,
            "stat_prefix": listener.name,
            "enable_sql_parsing": False,
            "downstream_ssl": "REQUIRE",
            "upstream_ssl": "REQUIRE" if asks else "DISABLE",
        },
    }
