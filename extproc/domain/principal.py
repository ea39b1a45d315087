"""Who asks, once verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from extproc.domain.record import Checked

PrincipalKind = Literal["human", "agent", "service", "machine"]
KINDS: tuple[PrincipalKind, ...] = ("human", "agent", "service", "machine")


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified caller. It is only ever built from a token or certificate that was checked.

    `person` identifies the human behind it across targets and issuers, and defaults to `issuer|subject`.
    `expires_at` is in Unix seconds. `token_id` is a digest that names the token; the token itself is never kept.
    """

    issuer: str
    subject: str
    kind: PrincipalKind
    person: str
    groups: tuple[str, ...] = ()
    client_id: str = ""
    provider: str = ""
    audience: tuple[str, ...] = ()
    expires_at: float = 0.0
    token_id: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict)

    def to_record(self) -> Checked:
        """What the ledger keeps of a principal. Made once: a remembered token's principal asks many times."""
        known = _records.get(id(self))
        if known is None:
            if len(_records) >= _MOST_RECORDS:
                _records.clear()
            _records[id(self)] = known = (self, Checked(self._kept()))
        return known[1]

    def _kept(self) -> dict[str, Any]:
        kept: dict[str, Any] = {
            "issuer": self.issuer,
            "subject": self.subject,
            "kind": self.kind,
            "person": self.person,
            "groups": list(self.groups),
        }
        if self.client_id:
            kept["client_id"] = self.client_id
        if self.token_id:
            kept["token_id"] = self.token_id
        if self.provider:
            kept["provider"] = self.provider
        for claim in ("acr", "amr", "auth_time"):
            if claim in self.claims:
                kept[claim] = _plain(self.claims[claim])
        return kept


_MOST_RECORDS = 1024
_records: dict[int, tuple[Principal, Checked]] = {}
"""By identity; the principal is kept, so that no other can take its place."""


def _plain(value: Any) -> Any:
    """A claim as a record can hold it: no floats, no huge numbers, nothing nested deeper than a list."""
    if isinstance(value, list | tuple):
        return [
            _plain(item) if not isinstance(item, list | tuple) else str(item)[:200] for item in value[:32]
        ]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, bool | str) or (isinstance(value, int) and abs(value) < 2**53):
        return value
    return str(value)[:200]
