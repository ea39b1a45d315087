"""Where the lean transport listens on TCP, and whom TLS lets in there."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from typing import Final

import structlog

log = structlog.get_logger()

ALPN: Final = "h2"
"""The protocol name that a peer must ask for (RFC 9113 section 3.2, gRPC over HTTP/2)."""

NOT_IN_CLEAR: Final = "without TLS the lean transport listens on unix sockets and loopback only"
"""Why a socket is refused."""


class WatchedHandshake(ssl.SSLObject):
    """A TLS connection that says why its handshake failed; asyncio closes it without a word."""

    def do_handshake(self) -> None:
        """Raises ssl.SSLError."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            log.warning("handshake.failed", reason=getattr(error, "verify_message", None) or error.reason)
            raise


def prepare(context: ssl.SSLContext) -> ssl.SSLContext:
    """The context, which from now on says why a handshake failed. ValueError if it would let anybody in."""
    if context.verify_mode != ssl.CERT_REQUIRED:
        raise ValueError("the lean transport speaks TLS only with clients that prove themselves")
    context.sslobject_class = WatchedHandshake
    return context


def speaks_http2(tls: ssl.SSLObject) -> bool:
    """Both sides agreed on it in the handshake."""
    return tls.selected_alpn_protocol() == ALPN


def bind_tcp(address: str, *, has_tls: bool) -> list[socket.socket]:
    """Sockets at `host:port`, one per IP address that the host has; without TLS on loopback only.

    Raises RuntimeError for what is no such address, OSError when it cannot be bound.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit():
        raise RuntimeError(f"not an address: {address}")
    if not has_tls and not is_loopback(host):
        raise RuntimeError(NOT_IN_CLEAR)
    hosts = ["127.0.0.1"] if host == "localhost" else _resolve(host)
    bound: list[socket.socket] = []
    number = int(port)
    try:
        for each in hosts:
            family = socket.AF_INET6 if ":" in each else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM)
            bound.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((each, number))
            number = int(listener.getsockname()[1])
    except BaseException:
        for listener in bound:
            listener.close()
        raise
    return bound


def is_loopback(host: str) -> bool:
    """An IP address or name that nothing outside this machine reaches."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _resolve(host: str) -> list[str]:
    """IP addresses in the order the resolver gives them."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(str(each[4][0]) for each in found))
