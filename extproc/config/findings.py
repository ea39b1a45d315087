"""What checks share: the shape of a finding, names taken twice, headers that are spoken for, who can reach us."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from extproc.config.document import Place
from extproc.config.units import LONGEST_SOCKET_PATH, Address

Finding = tuple[Place, str]
"""Where in the tree, and what is wrong there."""

# Hop-by-hop fields (RFC 9110 7.6.1) and fields whose meaning HTTP, Envoy or tracing owns.
_RESERVED_HEADERS = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("host", "content-length", "content-encoding", "content-type", "accept-encoding", "expect"),
        *("forwarded", "via", "proxy-authenticate", "x-request-id", "x-forwarded-for", "x-forwarded-proto"),
        *("x-forwarded-host", "x-forwarded-port", "x-forwarded-client-cert"),
        *("traceparent", "tracestate", "baggage"),
    }
)
_RESERVED_PREFIXES = ("x-envoy-", "x-extproc-", ":")


def is_reserved(header: str) -> bool:
    """A header that cannot carry a token or a credential. `header` is in lower case."""
    return header in _RESERVED_HEADERS or header.startswith(_RESERVED_PREFIXES)


def twice(where: Place, names: Sequence[str], field: str = "name") -> Iterator[Finding]:
    """Entries of the list at `where` whose `field` an earlier entry has already."""
    for number, name in enumerate(names):
        first = names.index(name)
        if first != number:
            yield (*where, number, field), f'"{name}" is taken by {where[-1]}[{first}]'


def exposure(where: Place, address: Address, *, has_tls: bool, insecure: bool) -> Iterator[Finding]:
    """Unix socket, or TLS, or loopback that says `insecure`; nothing else."""
    switch: Place = (where[0], "insecure")
    if address.is_unix:
        if insecure:
            yield switch, "means nothing on a unix socket; remove it"
        return
    if has_tls:
        if insecure:
            yield switch, "contradicts tls; remove one of them"
        return
    if not address.is_loopback:
        yield where, f"{address} can be reached from elsewhere: set {where[0]}.tls or use a unix socket"
    elif not insecure:
        yield (
            where,
            f"{address} is plain TCP: use a unix socket, or set {where[0]}.insecure: true and accept the risk",
        )


def socket_path(where: Place, address: Address) -> Iterator[Finding]:
    if address.path is not None and len(str(address.path).encode()) > LONGEST_SOCKET_PATH:
        yield where, f"{address.path} is longer than the {LONGEST_SOCKET_PATH} bytes a socket path may have"
