"""Where the lean transport listens on TCP, and whom TLS lets in there."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from extproc.servers.peer_gate import BACKLOG

log = structlog.get_logger()

ALPN: Final = "h2"
"""The protocol name that a peer must ask for (RFC 9113 section 3.2, gRPC over HTTP/2)."""

NOT_IN_CLEAR: Final = "without TLS the lean transport listens on unix sockets and loopback only"
"""Why a socket is refused."""

BURST: Final = 64
"""Connections accepted in one turn of the loop."""
MOST_HANDSHAKES: Final = 256
"""Unfinished ones at a socket. An honest one takes milliseconds, so beyond that the oldest makes room."""
REST: Final = 1.0
"""Seconds without accepting once there is no file descriptor left."""


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


class TlsListener:
    """Accepts TLS connections at one socket. However many never finish their handshake, others get in."""

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        opener: Callable[[], asyncio.Protocol],
        *,
        handshake: float,
        farewell: float,
    ) -> None:
        """`handshake`: seconds a peer has for it. `farewell`: seconds for its answer when we close."""
        self._listener = listener
        self.context = context
        """What the next connection is met with."""
        self._opener = opener
        self._handshake = handshake
        self._farewell = farewell
        self._loop = asyncio.get_running_loop()
        self._shaking: dict[asyncio.Task[None], None] = {}
        """Oldest first."""
        self._rest: asyncio.TimerHandle | None = None
        self._is_crowded = False

    @property
    def unfinished(self) -> int:
        """Handshakes that are under way."""
        return len(self._shaking)

    def start(self) -> None:
        """Listen. Raises OSError."""
        self._listener.setblocking(False)
        self._listener.listen(BACKLOG)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more; handshakes go on."""
        if self._rest is not None:
            self._rest.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def break_off(self) -> None:
        """End all handshakes."""
        for shaking in list(self._shaking):
            shaking.cancel()

    def _accept(self) -> None:
        for _ in range(BURST):
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # that peer has left
            except OSError as error:
                log.error("accept.failed", error=error.strerror)
                self._loop.remove_reader(self._listener)
                self._rest = self._loop.call_later(REST, self._go_on)
                return
            accepted.setblocking(False)
            if len(self._shaking) >= MOST_HANDSHAKES:
                self._make_room()
            unbegun = [accepted]
            shaking = self._loop.create_task(self._shake(unbegun))
            self._shaking[shaking] = None
            shaking.add_done_callback(partial(self._shaken, unbegun))

    def _go_on(self) -> None:
        self._rest = None
        self._loop.add_reader(self._listener, self._accept)

    def _make_room(self) -> None:
        if not self._is_crowded:
            self._is_crowded = True
            log.warning("handshakes.crowded", unfinished=len(self._shaking))
        oldest = next(iter(self._shaking))
        del self._shaking[oldest]
        oldest.cancel()

    async def _shake(self, unbegun: list[socket.socket]) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._opener, unbegun.pop(), ssl=self.context,
                ssl_handshake_timeout=self._handshake, ssl_shutdown_timeout=self._farewell,
            )  # fmt: skip
        except OSError:
            pass  # TLS has said why, or the peer left, or took too long
        except Exception:
            log.exception("connection.not_opened")

    def _shaken(self, unbegun: list[socket.socket], shaking: asyncio.Task[None]) -> None:
        for accepted in unbegun:
            accepted.close()  # it was ended before it began
        self._shaking.pop(shaking, None)
        if not self._shaking:
            self._is_crowded = False


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
            # by its protocol asyncio knows that small writes must not wait for each other (TCP_NODELAY)
            listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
