"""What a well-formed configuration may still get wrong: DESIGN's trust boundary and Envoy's traps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

from extproc.config.console_checks import check_console, check_webhooks, check_witnesses
from extproc.config.database_checks import check_database, check_database_listener, check_filtered
from extproc.config.document import Place
from extproc.config.findings import Finding, exposure, is_reserved, socket_path, twice
from extproc.config.identity_checks import check_identity
from extproc.config.settings import (
    Listener,
    Route,
    Settings,
    Target,
)
from extproc.config.shape import did_you_mean
from extproc.config.units import Address, format_duration, format_size
from extproc.domain.errors import ConfigError

ENVOY_LONGEST_TIMEOUT = 3600.0
"""Envoy refuses message timeouts above one hour."""
WAIT_MARGIN = 15.0
"""Seconds between the end of the longest wait and Envoy's own timeout, for our answer to arrive."""


def check(settings: Settings) -> Iterator[Finding]:
    """Every finding, in the order of the file."""
    for part in _PARTS:
        yield from part(settings)


def check_waits(settings: Settings, longest_wait: float) -> None:
    """Refuse policies whose longest wait (seconds) Envoy would cut short. Raises ConfigError."""
    room = settings.limits.max_message_timeout - WAIT_MARGIN
    if longest_wait > room:
        raise ConfigError(
            f"limits.max_message_timeout: a policy waits {format_duration(longest_wait)}, but Envoy gives up after "
            f"{format_duration(settings.limits.max_message_timeout)} and {format_duration(WAIT_MARGIN)} of it are kept "
            f"for the answer; wait at most {format_duration(room)} or raise it"
        )


def _processor(settings: Settings) -> Iterator[Finding]:
    processor = settings.processor
    where: Place = ("processor", "listen")
    yield from exposure(
        where, processor.listen, has_tls=processor.tls is not None, insecure=processor.insecure
    )
    if processor.tls is not None:
        if processor.listen.is_unix:
            yield ("processor", "tls"), "means nothing on a unix socket"
        if not processor.tls.client_sans:
            yield (
                ("processor", "tls", "client_sans"),
                "name the clients that may connect; empty would let nobody in",
            )
    if processor.peers != type(processor.peers)() and not processor.listen.is_unix and not settings.relayed:
        yield ("processor", "peers"), "only a unix socket knows its peers; use tls.client_sans"
    if not 0 <= processor.drain <= 3600:
        yield ("processor", "drain"), "must be at most 1h"
    if not processor.listen.is_unix and processor.listen.port + processor.workers - 1 > 65535:
        yield ("processor", "workers"), "the last worker's port would be above 65535"
    for address in processor.addresses:
        yield from socket_path(where, address)
    if not processor.relay.is_unix:
        yield ("processor", "relay"), "must be a unix socket, whose peers the kernel names"
    for address in processor.relay_addresses if settings.relayed else ():
        yield from socket_path(("processor", "relay"), address)
    if processor.listen == processor.relay:
        yield ("processor", "relay"), "is processor.listen as well"


def _approvals(settings: Settings) -> Iterator[Finding]:
    approvals = settings.approvals
    where: Place = ("approvals", "listen")
    yield from exposure(
        where, approvals.listen, has_tls=approvals.tls is not None, insecure=approvals.insecure
    )
    yield from socket_path(where, approvals.listen)
    for number, provider in enumerate(settings.identity.providers):
        if approvals.audience in provider.audiences:
            yield (
                ("identity", "providers", number, "audiences"),
                f'"{approvals.audience}" is the approvals audience; a data-path token must never approve',
            )
    metadata = settings.identity.trust.metadata
    if metadata is not None and approvals.audience in metadata.audiences:
        yield (
            ("identity", "trust", "metadata", "audiences"),
            f'"{approvals.audience}" is the approvals audience; a data-path token must never approve',
        )


def _listeners(settings: Settings) -> Iterator[Finding]:
    yield from twice(("listeners",), [listener.name for listener in settings.listeners])
    yield from twice(("listeners",), [str(listener.address) for listener in settings.listeners], "address")
    targets = {target.name: target.kind for target in settings.targets}
    asked = {
        target.name
        for target in settings.targets
        if target.upstream.transport is not None and target.upstream.transport.originate == "contrib"
    }
    for number, listener in enumerate(settings.listeners):
        where: Place = ("listeners", number)
        yield from socket_path((*where, "address"), listener.address)
        if not listener.address.is_unix and not listener.address.is_ip:
            yield (
                (*where, "address"),
                f"Envoy listens on IP addresses, not on names such as {listener.address.host}",
            )
        if listener.tls and listener.tls.require_client_certificate and listener.tls.client_ca is None:
            yield (*where, "tls", "require_client_certificate"), "needs client_ca"
        if listener.protocol != "http":
            yield from check_database_listener(where, listener, targets)
            if listener.target in asked:
                yield from check_filtered(where, listener)
            continue
        for name, unfit in (
            ("target", listener.target),
            ("cleartext_tokens", listener.cleartext_tokens),
            ("rsa_key", listener.rsa_key is not None),
            ("callers", listener.callers),
            ("front", listener.front != "ext_proc"),
        ):
            if unfit:
                yield (*where, name), "is for database listeners; HTTP has routes"
        if listener.tls and listener.tls.terminate != "envoy":
            yield (*where, "tls", "terminate"), "Envoy ends the TLS of HTTP listeners"
        if not listener.routes:
            yield (*where, "routes"), "needs at least 1 entry"
        yield from _routes(where, listener, targets)


def _routes(where: Place, listener: Listener, targets: Mapping[str, str]) -> Iterator[Finding]:
    seen: dict[tuple[str, str, str], int] = {}
    for number, route in enumerate(listener.routes):
        at: Place = (*where, "routes", number)
        if route.target not in targets:
            yield (*at, "target"), f'unknown target "{route.target}"{did_you_mean(route.target, targets)}'
        elif targets[route.target] != "http":
            yield (*at, "target"), f'"{route.target}" is no HTTP target'
        if (route.prefix is None) == (route.path is None):
            yield at, "needs exactly one of prefix and path"
        if route.prefix is not None and route.prefix != "/" and route.prefix.endswith("/"):
            yield (
                (*at, "prefix"),
                f'drop the slash at the end: "{route.prefix.rstrip("/")}" covers all below it',
            )
        if not route.hosts:
            yield (*at, "hosts"), 'is empty; write ["*"] for any'
        for host in route.hosts:
            key = (host.lower(), *_match(route))
            if key in seen:
                yield at, f"never matches: routes[{seen[key]}] takes the same requests"
            seen.setdefault(key, number)


def _match(route: Route) -> tuple[str, str]:
    return ("path", route.path) if route.path is not None else ("prefix", route.prefix or "")


def _targets(settings: Settings) -> Iterator[Finding]:
    yield from twice(("targets",), [target.name for target in settings.targets])
    for number, target in enumerate(settings.targets):
        where: Place = ("targets", number)
        yield from _upstream((*where, "upstream"), target)
        yield from check_database(where, target)
        yield from _credential(settings, (*where, "credential"), target)
        if target.record.mask is not None and target.record.mask not in settings.masks:
            known = did_you_mean(target.record.mask, settings.masks) if settings.masks else ""
            yield (*where, "record", "mask"), f'unknown mask "{target.record.mask}"{known}'
        for name, size in (
            ("request_body", target.limits.request_body),
            ("response_body", target.limits.response_body),
        ):
            if size >= settings.envoy.buffer_bytes:
                yield (
                    (*where, "limits", name),
                    f"must be below envoy.buffer_bytes ({format_size(settings.envoy.buffer_bytes)}), "
                    "or Envoy refuses before we can say why",
                )
        for bound, header in enumerate(target.volatile_headers):
            if header in ("authorization", "cookie", "host", "content-type"):
                yield (*where, "volatile_headers", bound), f'"{header}" is part of what is approved'


def _upstream(where: Place, target: Target) -> Iterator[Finding]:
    upstream = target.upstream
    yield from socket_path((*where, "address"), upstream.address)
    tls = upstream.transport
    if tls is None:
        return
    if tls.server_name is None and (upstream.address.is_unix or upstream.address.is_ip):
        yield where, f"tls to {upstream.address} needs tls.server_name to check its certificate, or tls: off"
    if (tls.certificate is None) != (tls.key is None):
        yield (*where, "tls"), "certificate and key belong together"


def _credential(settings: Settings, where: Place, target: Target) -> Iterator[Finding]:
    if target.credential is None:
        return
    header = target.credential.header
    if is_reserved(header):
        yield (
            (*where, "header"),
            f'"{header}" belongs to the connection or to Envoy and cannot carry a credential',
        )
    if any(not 0x20 <= ord(letter) < 0x7F for letter in target.credential.prefix):
        yield (*where, "prefix"), "may only have printable ASCII characters"
    if header in target.volatile_headers:
        yield (*where, "header"), f'"{header}" cannot be volatile as well'


def _limits(settings: Settings) -> Iterator[Finding]:
    limits = settings.limits
    longest = limits.max_message_timeout
    if not WAIT_MARGIN < longest <= ENVOY_LONGEST_TIMEOUT:
        low, high = format_duration(WAIT_MARGIN), format_duration(ENVOY_LONGEST_TIMEOUT)
        yield ("limits", "max_message_timeout"), f"must be more than {low} and at most {high} (Envoy's bound)"
    if limits.stream_idle_timeout <= longest:
        yield (
            ("limits", "stream_idle_timeout"),
            f"must be longer than limits.max_message_timeout ({format_duration(longest)}), or Envoy ends a hold early",
        )
    if not 1024 <= limits.header_bytes <= 8192 * 1024 or limits.header_bytes % 1024:
        yield ("limits", "header_bytes"), "must be whole KiB, from 1KiB to 8192KiB"
    if not 256 <= limits.token_bytes < limits.header_bytes:
        yield ("limits", "token_bytes"), "must be at least 256B and below limits.header_bytes"
    if not 0.5 <= settings.envoy.message_timeout <= longest:
        yield ("envoy", "message_timeout"), "must be from 500ms to limits.max_message_timeout"
    if not 1 << 16 <= settings.envoy.buffer_bytes <= 1 << 30:
        yield ("envoy", "buffer_bytes"), "must be from 64KiB to 1GiB"
    if not settings.envoy.admin.is_unix:
        yield ("envoy", "admin"), "must be a unix socket; the admin interface can change and stop Envoy"
    yield from socket_path(("envoy", "admin"), settings.envoy.admin)


def _rest(settings: Settings) -> Iterator[Finding]:
    for name, mask in settings.masks.items():
        if not (mask.paths or mask.entities or mask.columns):
            yield ("masks", name), "finds nothing: name paths, entities or columns"
    if settings.telemetry.otlp is not None:
        where: Place = ("telemetry", "otlp", "endpoint")
        yield from _endpoint(where, settings.telemetry.otlp.endpoint)
        if settings.envoy.tracing and settings.telemetry.otlp.endpoint.startswith("https://"):
            host = urlsplit(settings.telemetry.otlp.endpoint).hostname or ""
            if Address(host=host).is_ip:
                yield where, "https needs a host name, which Envoy checks, or envoy.tracing: false"
    yield from _metrics(settings)
    for place, reference in settings.secrets():
        if (reference.env is None) == (reference.file is None) or reference.env == "":
            yield _place(place), "needs exactly one of env and file"
    if settings.ledger.encryption is not None:
        ids = [one.id for one in settings.ledger.encryption.keys]
        yield from twice(("ledger", "encryption", "keys"), ids, "id")
    for sized, low in (("segment_bytes", 1 << 20),):
        if getattr(settings.ledger, sized) < low:
            yield ("ledger", sized), f"must be at least {format_size(low)}"


def _metrics(settings: Settings) -> Iterator[Finding]:
    metrics = settings.telemetry.metrics
    if metrics is None:
        return
    where: Place = ("telemetry", "metrics")
    address = metrics.listen
    if address is None and not metrics.otlp:
        yield where, "goes nowhere: name listen, or set otlp: true"
    if address is None or address.is_unix or address.is_loopback:
        if metrics.insecure:
            yield (*where, "insecure"), "means nothing here; remove it"
    elif metrics.tls is not None and metrics.insecure:
        yield (*where, "insecure"), "contradicts tls; remove one of them"
    elif metrics.tls is None and not metrics.insecure:
        yield (*where, "listen"), f"{address} can be reached from elsewhere: set tls, or insecure: true"
    if address is not None:
        yield from socket_path((*where, "listen"), address)
        taken = (settings.approvals.listen, settings.console.listen if settings.console else None)
        if address in (*settings.processor.addresses, *taken):
            yield (*where, "listen"), f"{address} is taken"
    if metrics.every < 1.0:
        yield (*where, "every"), "must be at least 1s"


def _endpoint(where: Place, url: str) -> Iterator[Finding]:
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        port, host, parts = None, None, urlsplit("")
    if (
        parts.scheme not in ("http", "https")
        or not host
        or parts.path.strip("/")
        or parts.query
        or parts.username
    ):
        yield where, "must be a URL of scheme, host and port, such as http://127.0.0.1:4317"
    elif port is None:
        yield where, "needs a port, such as :4317 (grpc) or :4318 (http)"


def _place(text: str) -> Place:
    """`targets[0].credential.value` -> its place."""
    keys: list[str | int] = []
    for part in text.split("."):
        name, bracket, number = part.partition("[")
        keys.append(name)
        if bracket:
            keys.append(int(number.rstrip("]")))
    return tuple(keys)


_PARTS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _processor,
    _listeners,
    _targets,
    check_identity,
    _approvals,
    check_console,
    check_webhooks,
    check_witnesses,
    _limits,
    _rest,
)
