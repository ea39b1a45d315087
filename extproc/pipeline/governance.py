"""Everything an exchange is governed by at one moment: targets with their rules and masks, identity, keys.

A reload builds a new `Governance` and swaps it whole; a running exchange keeps the one it started with,
and asks for the current one only when an approval is about to be used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from extproc.domain.principal import Principal
from extproc.domain.request import Headers
from extproc.domain.steps import NeedKeys
from extproc.masking import Masker
from extproc.masking.literal_stream import Literals
from extproc.masking.rows import RowMasks
from extproc.pipeline.listeners import ListenerPlan
from extproc.pipeline.locks import LockBoard
from extproc.policy import RuleSet
from extproc.protocols.tls import ServerTlsPlan

RecordDetail = Literal["none", "masked"]
CALLERS_PROOF: Final = frozenset({"authorization", "proxy-authorization"})
"""Headers that may carry the caller's proof whatever header is configured for it."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What the target wants to see instead of the caller's token. `repr` never shows it."""

    header: str
    value: str = field(repr=False)
    literals: Literals
    """The spellings of the secret that an echo may use."""


@dataclass(frozen=True, slots=True)
class DatabaseRole:
    """The database user behind a caller. `groups` may use it; empty is everybody. `repr` hides the password."""

    user: str
    password: str = field(repr=False, default="")
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class DatabasePlan:
    """How connections of a database target are governed. Durations in seconds, sizes in bytes."""

    roles: Mapping[str, DatabaseRole]
    """By the user name that callers give; `*` is any other."""
    protected: bool = False
    """The way to the server is a unix socket or under TLS: a password may cross it as it is."""
    wait_in_transaction: float = 30.0
    notice_every: float = 15.0
    statement_limit: int = 1 << 20
    waiting_limit: int = 4 << 20
    unparsed: Literal["deny", "judge"] = "deny"
    masked_use: Literal["deny", "whole"] = "deny"
    """What happens to a statement that uses a masked column otherwise than by showing it."""
    on_expiry: Literal["close", "max_age"] = "close"
    max_age: float = 0.0
    """Seconds that a session may live; 0 is no bound."""
    upstream_tls: ServerTlsPlan | None = None
    """Where set, we speak TLS with the server ourselves."""
    filter_asks: bool = False
    """Envoy's contrib filter asks the server for TLS, through us."""
    row_masks: Callable[[tuple[str, ...]], RowMasks] | None = None
    """What a combination of named masks means for rows."""

    def role(self, user: str) -> DatabaseRole | None:
        """Whom a caller who asks for `user` becomes; None when nobody is behind that name."""
        return self.roles.get(user) or self.roles.get("*")


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """One target, ready to govern. Limits in bytes."""

    name: str
    kind: str
    labels: Mapping[str, str]
    rules: RuleSet
    record_masker: Masker
    """What everything kept of this target goes through, whatever the verdict."""
    masker_for: Callable[[tuple[str, ...]], Masker]
    """The masker for a combination of named masks; it always includes the credential's literal."""
    credential: Credential | None = None
    volatile_headers: frozenset[str] = frozenset()
    request_limit: int = 1 << 20
    response_limit: int = 4 << 20
    record_request: RecordDetail = "masked"
    record_response: RecordDetail = "masked"
    record_max: int = 64 << 10
    unparsable_json: Literal["refuse", "allow"] = "refuse"
    prefer_wait: bool = False
    prefer_async: bool = False
    degraded: tuple[str, ...] = ()
    """Opt-outs of this target; its records carry them."""
    database: DatabasePlan | None = None

    @property
    def wishes(self) -> frozenset[str]:
        """Preferences (RFC 7240) that are ours alone: how long to wait is no part of what is asked."""
        asked = {"hold"}
        if self.prefer_wait:
            asked.add("wait")
        if self.prefer_async:
            asked.add("respond-async")
        return frozenset(asked)


class Identifier(Protocol):
    """Who asks, from what Envoy passed on. Raises TokenError."""

    def identify(self, headers: Headers, metadata: Mapping[str, Any], now: float) -> Principal | NeedKeys: ...

    def identify_token(self, token: str, now: float) -> Principal | NeedKeys:
        """Who presents this token (a database password, say). Raises TokenError."""

    def challenge(self, error: Exception | None) -> str:
        """The WWW-Authenticate value for a 401 (RFC 6750)."""


@dataclass(frozen=True, slots=True)
class Governance:
    """One consistent set of targets, rules and identity settings."""

    targets: Mapping[str, TargetPlan]
    identifier: Identifier
    policy_digest: str
    binding_key: bytes = field(repr=False)
    record_key: bytes = field(repr=False)
    strip_headers: frozenset[str] = CALLERS_PROOF
    """Headers that carry the caller's proof: never a fact, never recorded, removed before the upstream."""
    max_wait: float = 3600.0
    degraded: tuple[str, ...] = ()
    """Opt-outs in force for everything (`insecure-listener`); every record carries them."""
    skews: Mapping[str, float] = field(default_factory=dict)
    """By provider: seconds for which a token is still taken after it has expired."""
    locks: LockBoard = field(default_factory=LockBoard)
    """One board for all governances of a worker: a lock outlives a reload."""
    listeners: Mapping[str, ListenerPlan] = field(default_factory=dict)
    """Database listeners by name."""

    def listener(self, name: str, target: str) -> ListenerPlan | None:
        """The listener that Envoy says a connection came by; None when it is none of ours for that target.

        One without a name is believed only where no listener is described for that target.
        """
        if name:
            plan = self.listeners.get(name)
            return plan if plan is not None and plan.target == target else None
        if any(plan.target == target for plan in self.listeners.values()):
            return None
        return ListenerPlan(target=target)
