"""Small shapes of Envoy's configuration that several parts need."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from envoy_data_plane.envoy.config.cluster.v3 import (
    Cluster,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    DataSource,
    Pipe,
    SocketAddress,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    DownstreamTlsContext,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsCertificate,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any as Packed

from extproc.config.settings import ListenerTls
from extproc.config.units import Address as Place

TLS_SOCKET = "envoy.transport_sockets.tls"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def pack(message: Any) -> Any:
    """A message as `google.protobuf.Any`: its JSON carries `@type`."""
    return Packed.pack(message)


def seconds(value: float) -> timedelta:
    """Envoy's durations."""
    return timedelta(seconds=value)


def address(place: Place, *, mode: int | None = None) -> Address:
    """A pipe or a socket address; `mode` is the file mode of a pipe that Envoy makes."""
    if place.path is not None:
        return Address(pipe=Pipe(path=str(place.path), mode=mode or 0))
    return Address(socket_address=SocketAddress(address=place.host, port_value=place.port))


def certificate(chain: Path, key: Path) -> TlsCertificate:
    """A certificate that Envoy reads from files it can see."""
    return TlsCertificate(
        certificate_chain=DataSource(filename=str(chain)), private_key=DataSource(filename=str(key))
    )


def downstream_tls(tls: ListenerTls, alpn: list[str]) -> TransportSocket:
    """TLS for callers from the first byte on, and what they must prove."""
    return TransportSocket(name=TLS_SOCKET, typed_config=pack(downstream_context(tls, alpn)))


def downstream_context(tls: ListenerTls, alpn: list[str]) -> DownstreamTlsContext:
    """Our certificate for callers, and what they must prove."""
    validation = (
        CertificateValidationContext(trusted_ca=DataSource(filename=str(tls.client_ca)))
        if tls.client_ca is not None
        else None
    )
    return DownstreamTlsContext(
        require_client_certificate=tls.require_client_certificate,
        common_tls_context=CommonTlsContext(
            alpn_protocols=alpn,
            tls_certificates=[certificate(tls.certificate, tls.key)],
            validation_context=validation,
        ),
    )


def upstream_tls(
    server_name: str, *, ca: Path, certificates: list[TlsCertificate], alpn: str
) -> TransportSocket:
    """TLS to a server from the first byte on."""
    context = upstream_context(server_name, ca=ca, certificates=certificates, alpn=[alpn])
    return TransportSocket(name=TLS_SOCKET, typed_config=pack(context))


def upstream_context(
    server_name: str, *, ca: Path, certificates: list[TlsCertificate], alpn: list[str]
) -> UpstreamTlsContext:
    """How we know a server that must carry `server_name`: both SNI and the name checked come from settings, never from
    the request, or a caller could choose which certificate is good enough."""
    validation = CertificateValidationContext(
        trusted_ca=DataSource(filename=str(ca)),
        match_typed_subject_alt_names=[
            SubjectAltNameMatcher(
                san_type=SubjectAltNameMatcherSanType.DNS, matcher=StringMatcher(exact=server_name)
            )
        ],
    )
    return UpstreamTlsContext(
        sni=server_name,
        common_tls_context=CommonTlsContext(
            tls_certificates=certificates, validation_context=validation, alpn_protocols=alpn
        ),
    )


def cluster(
    name: str,
    places: list[Place],
    options: HttpProtocolOptions | None,
    *,
    connect_timeout: float,
    **more: Any,
) -> Cluster:
    """A cluster of fixed endpoints; host names are looked up, addresses and pipes are not."""
    named = any(not place.is_unix and not place.is_ip for place in places)
    return Cluster(
        name=name,
        type=ClusterDiscoveryType.STRICT_DNS if named else ClusterDiscoveryType.STATIC,
        dns_lookup_family=ClusterDnsLookupFamily.V4_PREFERRED if named else ClusterDnsLookupFamily.AUTO,
        connect_timeout=seconds(connect_timeout),
        typed_extension_protocol_options={HTTP_OPTIONS: pack(options)} if options is not None else {},
        load_assignment=ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                LocalityLbEndpoints(
                    lb_endpoints=[LbEndpoint(endpoint=Endpoint(address=address(place))) for place in places]
                )
            ],
        ),
        **more,
    )
