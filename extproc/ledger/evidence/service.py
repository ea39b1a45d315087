"""Tables of the service itself: its policies, its settings, and what was done to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import unified_diff

from extproc.ledger.evidence.approvals import Row
from extproc.ledger.evidence.period import Period, detail_of, who_of


def policies(period: Period) -> list[Row]:
    """Every policy that came into force or was refused, with what changed against the one before."""
    rows: list[Row] = []
    before: Mapping[str, str] = {}
    for line in sorted(period.lines, key=lambda line: line.at):
        if line.kind not in ("policy.activated", "policy.refused"):
            continue
        sources = sources_of(period.read(line, "sources"))
        rows.append(
            {
                "at": line.at,
                "what": line.kind,
                "policy": line.fields.get("policy", ""),
                "before": line.fields.get("before", ""),
                "author": line.fields.get("author", ""),
                "asked_by": who_of(line),
                "error": str(line.fields.get("error", "")),
                "files": " ".join(
                    f"{f.get('name')}@{f.get('digest')}"
                    for f in line.fields.get("files", ())
                    if isinstance(f, dict)
                ),
                "change": _diff(before, sources) if sources else "",
                "record": f"{line.writer}:{line.seq}",
            }
        )
        before = sources or before
    return rows


def configuration(period: Period) -> list[Row]:
    """The settings at every start of the service, with what changed against the start before."""
    rows: list[Row] = []
    before: Mapping[str, str] = {}
    for line in sorted(period.lines, key=lambda line: line.at):
        if line.kind != "config.loaded":
            continue
        settings = _pretty(period.read(line, "settings"))
        now = {"settings": settings} if settings else {}
        rows.append(
            {
                "at": line.at,
                "digest": line.fields.get("digest", ""),
                "change": _diff(before, now) if now else "",
                "settings": settings,
                "record": f"{line.writer}:{line.seq}",
            }
        )
        before = now or before
    return rows


def _pretty(payload: bytes | None) -> str:
    try:
        return json.dumps(json.loads(payload), indent=1, sort_keys=True) if payload is not None else ""
    except ValueError:
        return ""


def administration(period: Period) -> list[Row]:
    """What people and the service itself did to it, readings of evidence included."""
    kinds = ("admin.", "evidence.", "policy.", "config.", "grant.", "retention.", "start", "stop", "gap")
    return [
        {
            "at": line.at,
            "kind": line.kind,
            "who": who_of(line),
            "detail": detail_of(line),
            "record": f"{line.writer}:{line.seq}",
        }
        for line in sorted(period.lines, key=lambda line: (line.at, line.writer, line.seq))
        if line.kind.startswith(kinds)
    ]


def sources_of(payload: bytes | None) -> dict[str, str]:
    """Policy files by name, as a `policy.activated` record keeps them."""
    try:
        found = json.loads(payload) if payload is not None else {}
    except ValueError:
        return {}
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def _diff(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    parts: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, "").splitlines(), after.get(name, "").splitlines()
        parts += unified_diff(old, new, f"before/{name}", f"after/{name}", lineterm="", n=2)
    return "\n".join(parts)
