"""Whether a connection string of the shared hold store leads to the database that was meant, and unread by others."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from extproc.domain.errors import ConfigError

CHECKED: Final = ("verify-full", "verify-ca")
"""The values of libpq's `sslmode` under which the server has to prove itself."""


def check_dsn(dsn: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raises ConfigError for a host of another machine without a checked certificate; it never quotes the string.

    Who can stand between could otherwise read the holds and forge votes. As in libpq, PGHOST, PGSSLMODE and
    PGSERVICE count where the string is silent.
    """
    try:
        parts = urlsplit(dsn)
        if parts.scheme not in ("postgresql", "postgres"):
            raise ValueError
        query = {
            name: values[-1]
            for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()
        }
    except ValueError:
        raise ConfigError("holds.postgres: must be a connection URI, postgresql://…") from None
    hosts = _hosts(parts.netloc.rpartition("@")[2])
    hosts += [host for host in query.get("host", "").split(",") if host]
    hosts = hosts or [host for host in environment.get("PGHOST", "").split(",") if host]
    service = "service" in query or (not hosts and environment.get("PGSERVICE"))
    mode = query.get("sslmode") or environment.get("PGSSLMODE", "")
    if mode not in CHECKED and (service or not all(_is_here(host) for host in hosts)):
        raise ConfigError(
            "holds.postgres: a database on another machine needs sslmode=verify-full (or verify-ca) in its "
            "connection string; only a unix socket or a loopback address goes without"
        )


def _hosts(netloc: str) -> list[str]:
    """`a:1,[::1]:2` → a, ::1; percent-encoded ones may be paths of sockets."""
    found = []
    for each in netloc.split(","):
        host = each[1:].partition("]")[0] if each.startswith("[") else each.partition(":")[0]
        if host:
            found.append(unquote(host))
    return found


def _is_here(host: str) -> bool:
    if host.startswith("/") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
