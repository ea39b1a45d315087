"""The console, webhooks and witnesses: over https or on this machine alone; the console for who may use the API too."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from extproc.config.document import Place
from extproc.config.findings import Finding, exposure, socket_path, twice
from extproc.config.identity_checks import https
from extproc.config.settings import Console, Settings
from extproc.config.units import Address, format_duration

SHORTEST_SESSION = 60.0
LONGEST_SESSION = 24 * 3600.0


def check_webhooks(settings: Settings) -> Iterator[Finding]:
    """`approvals.webhooks`: told over https alone, each under a name of its own."""
    webhooks = settings.approvals.webhooks
    yield from twice(("approvals", "webhooks"), [webhook.name for webhook in webhooks])
    for number, webhook in enumerate(webhooks):
        where: Place = ("approvals", "webhooks", number, "url")
        yield from https(where, webhook.url, webhook.insecure_loopback)


def check_witnesses(settings: Settings) -> Iterator[Finding]:
    """`ledger.witnesses`: each a file elsewhere or a URL, told over https alone, under a name of its own."""
    witnesses = settings.ledger.witnesses
    yield from twice(("ledger", "witnesses"), [witness.name for witness in witnesses])
    for number, witness in enumerate(witnesses):
        where: Place = ("ledger", "witnesses", number)
        if (witness.file is None) == (not witness.url):
            yield where, "is a file or a url"
        elif witness.file is not None:
            inside = (settings.state, settings.ledger.directory)
            if any(witness.file.resolve().is_relative_to(place.resolve()) for place in inside):
                yield (*where, "file"), "is beside what it is to witness: keep it on another disk or machine"
        else:
            yield from https((*where, "url"), witness.url, witness.insecure_loopback)
            if witness.secret is None:
                yield (*where, "secret"), "is missing: messages are signed"


def check_console(settings: Settings) -> Iterator[Finding]:
    """Everything about `console`."""
    console = settings.console
    if console is None:
        return
    yield from exposure(
        ("console", "listen"), console.listen, has_tls=console.tls is not None, insecure=console.insecure
    )
    yield from socket_path(("console", "listen"), console.listen)
    if console.listen == settings.approvals.listen:
        yield ("console", "listen"), "is approvals.listen as well"
    yield from _url(console)
    if console.login is None and console.one_time is None:
        yield ("console",), "has no way in: name login"
    if not SHORTEST_SESSION <= console.session <= LONGEST_SESSION:
        low, high = format_duration(SHORTEST_SESSION), format_duration(LONGEST_SESSION)
        yield ("console", "session"), f"must be from {low} to {high}"
    if not SHORTEST_SESSION <= console.idle <= console.session:
        yield ("console", "idle"), f"must be from {format_duration(SHORTEST_SESSION)} to console.session"
    yield from _login(settings, console)
    if console.one_time is not None and not (console.insecure and console.listen.is_loopback):
        yield ("console", "one_time"), "is for a demo on this machine: it needs console.insecure on loopback"


def _url(console: Console) -> Iterator[Finding]:
    where: Place = ("console", "url")
    try:
        parts = urlsplit(console.url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        yield where, "is not a URL"
        return
    if parts.scheme not in ("http", "https") or not host or parts.path or parts.query or parts.fragment:
        yield where, "must be scheme, host and port alone, such as https://approvals.example.com"
    elif parts.username or parts.password:
        yield where, "must not have a user or password"
    elif parts.scheme == "http" and not (Address(host=host).is_loopback and console.insecure):
        yield where, "must be https; on this machine set console.insecure: true and accept the risk"


def _login(settings: Settings, console: Console) -> Iterator[Finding]:
    login = console.login
    if login is None:
        return
    where: Place = ("console", "login")
    if login.provider not in [provider.name for provider in settings.identity.providers]:
        yield (*where, "provider"), f'"{login.provider}" is none of identity.providers'
    if login.client_id not in settings.approvals.clients:
        yield (
            (*where, "client_id"),
            f'"{login.client_id}" is not in approvals.clients, so nobody could log in',
        )
    if "openid" not in login.scopes:
        yield (*where, "scopes"), "must have openid"
