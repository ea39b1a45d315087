"""Counts over records as they are written: decisions, outcomes, masks, holds. A line at a time, in bounded memory.

The request path counts nothing for this: who reads the ledger does.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from extproc.domain.metric import Counter, Family, Histogram

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Seconds: from a quick answer to the longest hold."""


class _Rule(msgspec.Struct):
    rule: str = ""
    effect: str = ""
    shadow: bool = False
    errored: bool = False


class _Response(msgspec.Struct):
    inspected: str = ""
    masked: dict[str, int] = {}


class _Head(msgspec.Struct):
    kind: str
    seq: int


class _Gap(msgspec.Struct):
    refused_records: int = 0


class _Access(msgspec.Struct):
    protocol: str = ""
    target: str = ""
    coverage: str = ""


class _Line(msgspec.Struct):
    """The few members of an intent or outcome that are counted; all else in a line is skipped."""

    target: str = ""
    protocol: str = ""
    operation: str = ""
    verdict: str = ""
    end: str = ""
    duration_us: int | None = None
    rules: list[_Rule] = []
    degraded: list[str] = []
    response: _Response | None = None


class Tallies:
    """What was counted since the start of whoever holds it."""

    def __init__(self) -> None:
        self._head = msgspec.json.Decoder(_Head).decode
        self._line = msgspec.json.Decoder(_Line).decode
        self._access = msgspec.json.Decoder(_Access).decode
        self._gap = msgspec.json.Decoder(_Gap).decode
        self.unread = 0
        """Lines that are no records."""
        self._records = Counter("extproc_ledger_records_total", "Records written, by kind.", ("kind",))
        self._decisions = Counter(
            "extproc_decisions_total",
            "Decisions by verdict and the rule that made it; no rule is the policy's default.",
            ("protocol", "target", "operation", "verdict", "rule"),
        )
        self._rules = Counter(
            "extproc_rule_matches_total",
            "Rules that matched, those in shadow mode too; errored are those that could not be evaluated.",
            ("target", "rule", "effect", "shadow", "errored"),
        )
        self._outcomes = Counter(
            "extproc_outcomes_total", "How exchanges ended.", ("protocol", "target", "operation", "end")
        )
        self._masked = Counter(
            "extproc_masked_values_total", "Values masked in what callers were given.", ("target", "entity")
        )
        self._unseen = Counter(
            "extproc_uninspected_responses_total",
            "Responses that went through unread: uninspected or opaque.",
            ("target", "inspected"),
        )
        self._degraded = Counter(
            "extproc_degraded_decisions_total", "Decisions under a stated weakness.", ("target", "reason")
        )
        self._ends = Counter(
            "extproc_access_entries_total",
            "Requests and connections that Envoy says have ended, by whether they are joined to one of ours.",
            ("protocol", "target", "coverage"),
        )
        self._lost = Counter(
            "extproc_ledger_refused_records_total", "Records refused while the ledger could not be written."
        )
        self._durations = Histogram(
            "extproc_exchange_duration_seconds",
            "From the first message of an exchange to its end, waiting and upstream included.",
            ("protocol", "target", "operation"),
            BOUNDS,
        )

    def take(self, data: bytes) -> int | None:
        """Count one line without its newline; its sequence number, or None if it is no record."""
        try:
            head = self._head(data)
            if head.kind == "intent":
                self._intent(self._line(data))
            elif head.kind == "outcome":
                self._outcome(self._line(data))
            elif head.kind == "access":
                entry = self._access(data)
                self._ends.add(entry.protocol, entry.target, entry.coverage)
            elif head.kind == "gap":
                self._lost.add(by=self._gap(data).refused_records)
        except msgspec.MsgspecError:
            self.unread += 1
            return None
        self._records.add(head.kind)
        return head.seq

    def families(self) -> Iterator[Family]:
        """Everything as it stands."""
        yield self._records.family()
        yield self._decisions.family()
        yield self._rules.family()
        yield self._outcomes.family()
        yield self._durations.family()
        yield self._masked.family()
        yield self._unseen.family()
        yield self._degraded.family()
        yield self._ends.family()
        yield self._lost.family()

    def _intent(self, line: _Line) -> None:
        self._matched(line)
        deciding = next(
            (rule.rule for rule in line.rules if rule.effect == line.verdict and not rule.shadow), ""
        )
        operation = line.operation or "request"
        self._decisions.add(line.protocol, line.target, operation, line.verdict, deciding)
        for reason in line.degraded:
            self._degraded.add(line.target, reason)

    def _outcome(self, line: _Line) -> None:
        self._matched(line)
        operation = line.operation or "request"
        self._outcomes.add(line.protocol, line.target, operation, line.end)
        if line.duration_us is not None:
            self._durations.add(line.duration_us / 1_000_000, line.protocol, line.target, operation)
        if line.response is not None:
            for entity, count in line.response.masked.items():
                self._masked.add(line.target, entity, by=count)
            if line.response.inspected in ("uninspected", "opaque"):
                self._unseen.add(line.target, line.response.inspected)

    def _matched(self, line: _Line) -> None:
        for rule in line.rules:
            self._rules.add(line.target, rule.rule, rule.effect, _yes(rule.shadow), _yes(rule.errored))


def _yes(value: bool) -> str:
    return "true" if value else "false"
