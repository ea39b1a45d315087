"""What an approval is bound to: one principal, one target, one exact request, the rules that asked for it."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from operator import itemgetter

from extproc.domain.principal import Principal
from extproc.domain.request import Headers
from extproc.protocols.http.prefer import without

UNBOUND = frozenset(
    {
        # hop-by-hop (RFC 9110 §7.6.1)
        "connection", "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate",
        "te", "trailer", "transfer-encoding",
        # forwarding
        "forwarded", "via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port",
        "x-forwarded-client-cert", "x-real-ip", "x-request-id",
        # tracing
        "traceparent", "tracestate", "baggage", "b3", "x-ot-span-context",
        # changes with every try and says nothing about what is asked
        "authorization", "date", "user-agent", "content-length", "host",
    }
)  # fmt: skip
"""The only headers that may differ between the approved request and its repetition."""
CALLERS_WORD = ("forwarded", "x-forwarded-host", "x-forwarded-port", "x-real-ip")
"""Unbound headers that Envoy passes on as the caller wrote them, so they do not go on behind an approval."""
UNBOUND_PREFIXES = ("x-envoy-", "x-b3-")
PSEUDO = (":method", ":scheme", ":authority", ":path")


def binding(
    key: bytes,
    principal: Principal,
    target: str,
    headers: Headers,
    body: bytes,
    rules_digest: str,
    unbound: Iterable[frozenset[str]],
    wishes: frozenset[str] = frozenset({"hold"}),
) -> str:
    """A keyed digest (HMAC-SHA256, hex) over everything that must not change. Parts are length-prefixed.

    `wishes` are the preferences that say how long to wait and nothing about what is asked.
    """
    mac = hmac.new(key, digestmod="sha256")

    def add(part: bytes) -> None:
        mac.update(len(part).to_bytes(8, "big"))
        mac.update(part)

    for text in (principal.issuer, principal.subject, target, rules_digest):
        add(text.encode())
    for name in PSEUDO:
        add(headers.get(name).encode("latin-1", "surrogateescape"))
    for part in bound_headers(headers, unbound, wishes):
        add(part)
    add(b"")  # ends the header list: no header has an empty name
    add(body)
    return mac.hexdigest()


def bound_headers(
    headers: Headers, unbound: Iterable[frozenset[str]], wishes: frozenset[str]
) -> Iterator[bytes]:
    """Name and value of every header that is part of what is asked, in an order that does not hang on the client."""
    skip = UNBOUND.union(*unbound)
    for name, value in sorted(headers.items, key=itemgetter(0)):  # stable: equal names keep their order
        if name[0] == ":" or name in skip or name.startswith(UNBOUND_PREFIXES):
            continue
        if name == "prefer":
            value = without(value, wishes)
            if not value:
                continue
        yield name.encode("latin-1")
        yield value.encode("latin-1", "surrogateescape")
