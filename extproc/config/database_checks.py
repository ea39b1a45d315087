"""What a well-formed database listener or target may still get wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from extproc.config.document import Place
from extproc.config.findings import Finding
from extproc.config.settings import Listener, Target, TargetLimits
from extproc.config.shape import did_you_mean

SHORTEST_NOTICE = 1.0
LONGEST_WAIT = 3600.0
SHORTEST_AGE = 1.0
LONGEST_AGE = 30 * 86400.0


def check_database_listener(
    where: Place, listener: Listener, targets: Mapping[str, str]
) -> Iterator[Finding]:
    """One target, and a way for tokens that nobody listens on. `targets` are kinds by name."""
    if listener.routes:
        yield (*where, "routes"), "are for HTTP; a database listener has one target"
    if listener.target is None:
        yield where, 'missing setting "target"'
    elif listener.target not in targets:
        yield (
            (*where, "target"),
            f'unknown target "{listener.target}"{did_you_mean(listener.target, targets)}',
        )
    elif targets[listener.target] != listener.protocol:
        yield (*where, "target"), f'"{listener.target}" is no {listener.protocol} target'
    if listener.mode != "ext_proc":
        yield (*where, "mode"), "is for HTTP; a database listener has a front"
    yield from check_callers(where, listener)
    if listener.protocol == "mysql" and listener.tls is not None and listener.tls.terminate == "contrib":
        yield (*where, "tls", "terminate"), "contrib is for Postgres; with MySQL extproc ends TLS itself"
    if listener.front == "relay" and listener.address.is_unix:
        yield (*where, "address"), "the relay is told where callers come from, which needs IP and port"
    for name, is_default in (
        ("upgrades", listener.upgrades in (("websocket",), ())),
        ("trusted_hops", listener.trusted_hops == 0),
    ):
        if not is_default:
            yield (*where, name), "is for HTTP listeners"
    yield from _check_tokens_way(where, listener)


def _check_tokens_way(where: Place, listener: Listener) -> Iterator[Finding]:
    """Tokens never cross a network as they are, unless somebody says that a tunnel protects them."""
    is_local = listener.address.is_unix or listener.address.is_loopback
    key = listener.rsa_key if listener.protocol == "mysql" else None
    if not is_local and listener.tls is None and not listener.cleartext_tokens and key is None:
        yield (
            (*where, "address"),
            "tokens would cross the network in cleartext: set tls, or cleartext_tokens: true behind a tunnel",
        )
    if listener.cleartext_tokens and (is_local or listener.tls is not None or key is not None):
        yield (*where, "cleartext_tokens"), "means nothing here; remove it"
    if listener.rsa_key is not None and listener.protocol != "mysql":
        yield (*where, "rsa_key"), "is for MySQL listeners"
    elif key is not None and listener.tls is not None and listener.tls.terminate == "envoy":
        yield (*where, "rsa_key"), "means nothing inside TLS that Envoy ends; remove it"


def check_filtered(where: Place, listener: Listener) -> Iterator[Finding]:
    """The contrib filter asks the database for TLS, so it has to be in front and to read what callers say."""
    if listener.front == "relay":
        yield (
            (*where, "front"),
            "the relay dials the database itself; originate: contrib needs front: ext_proc",
        )
    elif listener.tls is None or listener.tls.terminate != "contrib":
        yield (*where, "tls"), "must be terminate: contrib where the target's upstream is originate: contrib"


def check_callers(where: Place, listener: Listener) -> Iterator[Finding]:
    """A certificate counts only where somebody verifies it."""
    for number, caller in enumerate(listener.callers):
        place: Place = (*where, "callers", number)
        scheme, separator, rest = caller.uri.partition("://")
        if not scheme or not separator or not rest.strip("/*") or "*" in rest.removesuffix("/*"):
            yield (*place, "uri"), "must be a whole URI, such as spiffe://example.org/etl, or end in /*"
        if caller.kind == "human" and not caller.person:
            yield (*place, "person"), "a human caller needs the name of the person"
    if listener.callers and (listener.tls is None or listener.tls.client_ca is None):
        yield (*where, "callers"), "need tls.client_ca, which says whose certificates are believed"


def check_database(where: Place, target: Target) -> Iterator[Finding]:
    """A database target has `database`, and nothing that only HTTP knows; other kinds have none."""
    database = target.database
    if target.kind == "http":
        if target.upstream.transport is not None and target.upstream.transport.originate != "envoy":
            yield (*where, "upstream", "tls", "originate"), "Envoy speaks TLS with HTTP targets"
        if database is not None:
            yield (*where, "database"), "is for kinds postgres and mysql"
        return
    if database is None:
        yield where, 'missing setting "database"'
        return
    tls = target.upstream.transport
    if target.kind == "mysql" and tls is not None and tls.originate == "contrib":
        yield (
            (*where, "upstream", "tls", "originate"),
            "contrib is for Postgres; with MySQL extproc asks itself",
        )
    if not database.roles:
        yield (*where, "database", "roles"), "is empty; nobody could log in"
    if not 1024 <= database.statement_bytes <= 64 << 20:
        yield (*where, "database", "statement_bytes"), "must be from 1KiB to 64MiB"
    if not database.statement_bytes <= database.waiting_bytes <= 256 << 20:
        yield (*where, "database", "waiting_bytes"), "must be from statement_bytes to 256MiB"
    if not 0 <= database.wait_in_transaction <= LONGEST_WAIT:
        yield (*where, "database", "wait_in_transaction"), "must be at most 1h"
    if not SHORTEST_NOTICE <= database.notice_every <= LONGEST_WAIT:
        yield (*where, "database", "notice_every"), "must be from 1s to 1h"
    session, place = database.session, (*where, "database", "session")
    if session.on_expiry == "max_age" and session.max_age is None:
        yield place, 'missing setting "max_age": sessions that outlive their token need another end'
    if session.max_age is not None and not SHORTEST_AGE <= session.max_age <= LONGEST_AGE:
        yield (*place, "max_age"), "must be from 1s to 30d"
    for name, is_default in (
        ("credential", target.credential is None),
        ("volatile_headers", not target.volatile_headers),
        ("limits", target.limits == TargetLimits()),
        ("unparsable_json", target.unparsable_json == "refuse"),
    ):
        if not is_default:
            yield (*where, name), "is for HTTP targets"
    upstream = target.upstream
    for name, is_default in (("host", upstream.host is None), ("protocol", upstream.protocol == "http1")):
        if not is_default:
            yield (*where, "upstream", name), "is for HTTP targets"
