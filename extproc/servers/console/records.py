"""What the ledger knows: sessions to be searched, one session as a timeline, policies and health."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from starlette.requests import Request
from starlette.responses import Response

from extproc.domain.display import escape_for_display, escape_json
from extproc.ledger.exchanges import Exchange, row_of
from extproc.ledger.lines import Line
from extproc.ledger.rule_counts import RuleCounts
from extproc.ledger.search import Wanted, filters_of, typed_id
from extproc.ledger.session_sums import Session as SessionSum
from extproc.servers.approvals_problems import ProblemError
from extproc.servers.console.pages import Pages, Role
from extproc.servers.console.sessions import Session
from extproc.servers.console.waterfall import waterfall
from extproc.servers.deciding import Deciding

SHOWN = 100
"""Sessions in one list."""
RANGES = {"1h": 3600.0, "24h": 86400.0, "7d": 7 * 86400.0, "30d": 30 * 86400.0, "all": 0.0}
FILTERS = ("principal", "target", "rule", "entity", "table", "code", "hold", "trace", "text")
VERDICTS = ("allow", "deny", "hold", "error", "unseen")
MAX_FILTER = 200


@dataclass(frozen=True, slots=True)
class FoundSessions:
    """The latest that match, newest first. `is_all` says that the whole range was looked at in time."""

    sessions: Sequence[SessionSum]
    total: int
    is_all: bool


@dataclass(frozen=True, slots=True)
class WholeSession:
    """What is kept of one session, oldest first. `payloads` are by record (`writer:seq`) and name: state and text.

    `is_all` says that nothing was left out, for want of time or because it was too much.
    """

    exchanges: Sequence[Exchange]
    moves: Sequence[Line]
    payloads: Mapping[str, Mapping[str, tuple[str, str]]] = field(default_factory=dict)
    is_all: bool = True


@dataclass(frozen=True, slots=True)
class LedgerState:
    """How the ledger stands: its writers that run, the newest checkpoint's age in seconds, and any alarm."""

    running: Sequence[str]
    checkpoint_age: float | None
    alarm: str


class Records(Protocol):
    """The ledger, read beside the loop. Every method raises StoreUnavailableError."""

    async def sessions(self, wanted: Wanted, limit: int) -> FoundSessions:
        """The latest `limit` sessions that have an exchange which matches."""

    async def session(self, session_id: str) -> WholeSession:
        """Empty when nothing is known of it."""

    async def rules(self, since_us: int) -> tuple[RuleCounts, bool]:
        """What each rule did since, and whether all of it was looked at in time."""

    async def activations(self) -> Sequence[Line]:
        """The latest `policy.activated` records, newest first."""

    async def state(self) -> LedgerState:
        """How it stands now."""


class RecordPages:
    """The handlers. Only operators and auditors read here; each reading is recorded before it is shown."""

    def __init__(
        self,
        deciding: Deciding,
        pages: Pages,
        records: Records,
        checks: Callable[[], Awaitable[Mapping[str, bool]]],
    ) -> None:
        self._deciding = deciding
        self._pages = pages
        self._records = records
        self._checks = checks

    async def sessions(self, request: Request, session: Session) -> Response:
        self._may_read(session)
        query = request.query_params
        given = {name: query.get(name, "").strip() for name in FILTERS}
        span, verdict = query.get("within", "24h"), query.get("verdict", "")
        if span not in RANGES or (verdict and verdict not in VERDICTS):
            raise ProblemError(400, "bad_query", "The query is not understood")
        if any(len(text) > MAX_FILTER for text in given.values()):
            raise ProblemError(400, "bad_query", "The query is not understood", "A filter is too long.")
        since = self._deciding.now() - RANGES[span] if RANGES[span] else 0.0
        names: dict[str, Any] = dict(given)
        wanted = Wanted(**names, verdicts=(verdict,) if verdict else (), since_us=int(since * 1_000_000))
        filters = filters_of(wanted, self._deciding.mask)
        self._write(session, "evidence.searched", {"command": "console", "filters": filters})
        found = await self._records.sessions(wanted, SHOWN)
        return self._pages.show(
            "sessions.html", session, given=given, within=span, ranges=list(RANGES), verdict=verdict,
            verdicts=VERDICTS, total=found.total, is_all=found.is_all,
            is_filtered=bool(verdict or any(given.values())),
            sessions=[_plain(each.to_json()) for each in found.sessions],
        )  # fmt: skip

    async def session(self, request: Request, session: Session) -> Response:
        self._may_read(session)
        session_id = request.path_params["session_id"]
        self._write(
            session,
            "evidence.session_read",
            {"session_id": typed_id(session_id[:MAX_FILTER], self._deciding.mask)},
        )
        whole = await self._records.session(session_id)
        if not whole.exchanges and not whole.is_all:
            raise ProblemError(503, "unavailable", "This session was not found in time")
        if not whole.exchanges:
            raise ProblemError(404, "not_found", "Nothing is known of this session")
        return await asyncio.to_thread(self._session_page, session, session_id, whole)

    def _session_page(self, session: Session, session_id: str, whole: WholeSession) -> Response:
        """In a thread: laying out a megabyte of payloads takes longer than others should wait."""
        total = SessionSum(session_id)
        for exchange in whole.exchanges:
            total.add(exchange)
        return self._pages.show(
            "session.html", session, session_id=escape_for_display(session_id),
            total=_plain(total.to_json()), events=events_of(whole), fall=waterfall(whole.exchanges, whole.moves),
            is_all=whole.is_all,
        )  # fmt: skip

    async def policies(self, request: Request, session: Session) -> Response:
        self._may_read(session)
        span = request.query_params.get("within", "24h")
        if span not in RANGES:
            raise ProblemError(400, "bad_query", "The query is not understood")
        since = self._deciding.now() - RANGES[span] if RANGES[span] else 0.0
        self._write(session, "evidence.policies_read", {})
        activations = await self._records.activations()
        counts, is_all = await self._records.rules(int(since * 1_000_000))
        rules = [
            {
                "target": tally.target, "rule": tally.rule, "effect": tally.effect, "shadow": tally.shadow,
                "matched": tally.matched, "errored": tally.errored,
                "of": counts.decisions.get(tally.target, 0),
            }
            for tally in counts.rules
        ]  # fmt: skip
        return self._pages.show(
            "policies.html", session, within=span, ranges=list(RANGES), rules=_plain(rules), is_all=is_all,
            activations=[_plain({"at": line.at, **line.fields}) for line in activations],
        )  # fmt: skip

    async def health(self, request: Request, session: Session) -> Response:
        self._may_read(session)
        checks = dict(await self._checks())
        state = await self._records.state()
        checks["checkpoints"] = not state.alarm
        return self._pages.show(
            "health.html", session, checks=checks, running=_plain(list(state.running)),
            checkpoint_age=state.checkpoint_age, alarm=escape_for_display(state.alarm),
        )  # fmt: skip

    def _may_read(self, session: Session) -> None:
        if not self._pages.roles(session.principal) & {Role.OPERATOR, Role.AUDITOR}:
            raise ProblemError(403, "not_a_reader", "Only operators and auditors read the ledger")

    def _write(self, session: Session, kind: str, fields: Mapping[str, Any]) -> None:
        self._deciding.write(kind, session.principal, fields)


def events_of(whole: WholeSession) -> list[dict[str, Any]]:
    """Exchanges and moves in the order of time, as the page shows them."""
    made = [_exchange(each, whole.payloads) for each in whole.exchanges]
    made += [_move(line) for line in whole.moves]
    return sorted(made, key=lambda event: (event["at"], event["place"]))


def _exchange(exchange: Exchange, payloads: Mapping[str, Mapping[str, tuple[str, str]]]) -> dict[str, Any]:
    row = row_of(exchange)
    rules = [
        {
            "rule": str(rule.get("rule", "")),
            "effect": str(rule.get("effect", "")),
            "shadow": bool(rule.get("shadow")),
        }
        for rule in exchange.rules
    ]
    kept = {
        f"{part}: {name}": {"state": state, "text": text}
        for part, line in (("asked", exchange.intent), ("answered", exchange.outcome))
        if line is not None
        for name, (state, text) in payloads.get(f"{line.writer}:{line.seq}", {}).items()
    }
    shown = {**row, "rules": rules, "what": "exchange", "place": row["record"] or row["outcome_record"]}
    plain = cast(dict[str, Any], escape_json(shown))
    plain["payloads"] = {
        escape_for_display(name): {
            "state": kept[name]["state"],
            "text": escape_for_display(kept[name]["text"], multiline=True),
        }
        for name in kept
    }
    return plain


def _move(line: Line) -> dict[str, Any]:
    fields = line.fields
    approver = fields.get("approver")
    shown = {
        "what": "move", "at": line.at, "kind": line.kind, "place": f"{line.writer}:{line.seq}",
        "hold": str(fields.get("hold", "")), "grant": str(fields.get("grant", "")),
        "by": str(approver.get("person", "")) if isinstance(approver, dict) else str(fields.get("by", "")),
        "vote": str(fields.get("vote", "")), "reason": str(fields.get("reason", "")),
    }  # fmt: skip
    return cast(dict[str, Any], _plain(shown))


def _plain(value: object) -> Any:
    """Ready for display: what a record holds was written by others."""
    return escape_json(value, multiline=False)
