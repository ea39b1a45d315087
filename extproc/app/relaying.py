"""Settings become the relay: which targets it may dial, and how it proves their servers."""

from __future__ import annotations

import ssl
from pathlib import Path

from extproc.config import Settings
from extproc.config.settings import Target
from extproc.domain.errors import ConfigError
from extproc.servers.relay import RelayServer
from extproc.servers.service import Service
from extproc.servers.upstreams import ALPN, Upstream, UpstreamTls


def build_relay(settings: Settings, service: Service) -> RelayServer | None:
    """The relay of one worker; None where no listener has one. Raises ConfigError."""
    if not settings.relayed:
        return None
    upstreams = {name: build_upstream(settings, settings.target(name)) for name in settings.relayed}
    peers = settings.processor.peers
    return RelayServer(service, upstreams, uids=peers.uids, gid=peers.gid)


def build_upstream(settings: Settings, target: Target) -> Upstream:
    """One target's server. Raises ConfigError where a certificate cannot be read."""
    upstream = target.upstream
    address = upstream.address
    return Upstream(
        path=str(address.path) if address.path is not None else "",
        host=address.host,
        port=address.port,
        tls=_tls(settings, target),
        connect_timeout=upstream.connect_timeout,
    )


def _tls(settings: Settings, target: Target) -> UpstreamTls | None:
    tls = target.upstream.transport
    if tls is None or target.wire_tls is not None:  # the wire speaks it
        return None
    authorities: Path = tls.ca or settings.envoy.ca_bundle
    try:
        context = ssl.create_default_context(cafile=str(authorities))
        if tls.certificate is not None:
            context.load_cert_chain(str(tls.certificate), str(tls.key))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"target {target.name}: TLS to its server cannot be set up: {error.strerror}"
        ) from error
    context.set_alpn_protocols([ALPN])
    return UpstreamTls(context, tls.server_name or target.upstream.address.host)
