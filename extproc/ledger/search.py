"""Which exchanges somebody wants to see."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from extproc.ledger.exchanges import Exchange

OUR_ID: Final = re.compile(r"(?:[a-z]{1,8}[_-])?[0-9a-f]{32}")
"""Of a session, decision or trace: not to be taken for a number of somebody's."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Every filter that is set must match; empty ones match anything. Names may hold `*` and `?`.

    Times are microseconds since 1970: `since_us` belongs to the range, `until_us` does not. `verdicts` are
    alternatives. `text` is looked for, in any case, in every text of the records.
    """

    principal: str = ""
    target: str = ""
    rule: str = ""
    verdicts: tuple[str, ...] = ()
    code: str = ""
    entity: str = ""
    table: str = ""
    hold: str = ""
    trace: str = ""
    session: str = ""
    text: str = ""
    since_us: int = 0
    until_us: int | None = None

    def __call__(self, exchange: Exchange) -> bool:
        at = exchange.at_us
        return (
            self.since_us <= at
            and (self.until_us is None or at < self.until_us)
            and (not self.target or _matches(self.target, exchange.text("target")))
            and (not self.verdicts or exchange.text("verdict") in self.verdicts)
            and (not self.code or _matches(self.code, exchange.text("code")))
            and (not self.session or self.session == exchange.text("session_id"))
            and (not self.trace or str(exchange.part("trace").get("trace_id", "")).startswith(self.trace))
            and (not self.principal or self._is_by(exchange))
            and (not self.rule or self._has_rule(exchange))
            and (not self.hold or self._has_hold(exchange))
            and (not self.table or self._has_table(exchange))
            and (not self.entity or self._has_entity(exchange))
            and (not self.text or self._has_text(exchange))
        )

    def _is_by(self, exchange: Exchange) -> bool:
        principal = exchange.part("principal")
        subject, issuer = str(principal.get("subject", "")), str(principal.get("issuer", ""))
        names = (subject, str(principal.get("person", "")), f"{issuer}|{subject}")
        return any(_matches(self.principal, name) for name in names)

    def _has_rule(self, exchange: Exchange) -> bool:
        names = [str(rule.get("rule", "")) for rule in exchange.rules]
        return any(
            _matches(self.rule, name) or _matches(self.rule, name.rpartition("/")[2]) for name in names
        )

    def _has_hold(self, exchange: Exchange) -> bool:
        hold = exchange.part("hold")
        grant = hold.get("grant")
        return self.hold in (hold.get("id"), grant.get("id") if isinstance(grant, dict) else None)

    def _has_table(self, exchange: Exchange) -> bool:
        statement = exchange.part("statement")
        names = [*statement.get("tables_read", ()), *statement.get("tables_written", ())]
        return any(
            _matches(self.table, str(name)) or _matches(self.table, str(name).rpartition(".")[2])
            for name in names
        )

    def _has_entity(self, exchange: Exchange) -> bool:
        counts = (exchange.response.get("masked"), exchange.response.get("residual"))
        return any(_matches(self.entity, name) for part in counts if isinstance(part, dict) for name in part)

    def _has_text(self, exchange: Exchange) -> bool:
        needle = self.text.casefold()
        lines = [line for line in (exchange.intent, exchange.outcome) if line is not None]
        return any(needle in text.casefold() for line in lines for text in _texts(line.fields))


def filters_of(wanted: Wanted, mask: Callable[[str], str]) -> dict[str, Any]:
    """The filters that are set, as a record keeps them: what somebody typed goes through `mask`."""
    kept = {name: getattr(wanted, name) for name in Wanted.__slots__}
    return {name: _kept(value, mask) for name, value in kept.items() if value}


def typed_id(text: str, mask: Callable[[str], str]) -> str:
    """An id that somebody typed, as a record keeps it; one that has not the form of ours may be anything."""
    return text if OUR_ID.fullmatch(text) else mask(text)


def _kept(value: Any, mask: Callable[[str], str]) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return typed_id(value, mask) if isinstance(value, str) else value


def _matches(pattern: str, name: str) -> bool:
    return fnmatchcase(name.casefold(), pattern.casefold())


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
