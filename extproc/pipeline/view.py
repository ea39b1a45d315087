"""What an approver sees: our facts first, then the normalised request, then the raw one; all of it masked.

Nothing is cut silently: `truncated` is True when something is not shown, and then it cannot be approved.
"""

from __future__ import annotations

from typing import Any

from extproc.domain.errors import MaskingError, ProtocolError
from extproc.masking import Masker
from extproc.pipeline.facts import HttpFacts
from extproc.protocols.http.head import query_params

MAX_SHOWN = 64 << 10
"""Characters of a body that an approver is shown."""


def hold_view(facts: HttpFacts, risk: tuple[tuple[str, int], ...], reason: str) -> dict[str, Any]:
    """The view of one held HTTP request, through the target's record plan."""
    masker = facts.plan.record_masker
    line = facts.line
    truncated = False
    view: dict[str, Any] = {
        "facts": {
            "protocol": "http",
            "target": facts.plan.name,
            "method": line.method,
            "host": masker.text(line.host)[0],
            "path": masker.text(line.url_path)[0],
            "risk": [{"rule": rule, "risk": points} for rule, points in risk],
            "reason": reason,
        },
        "normalised": {
            "url_path": masker.text(line.url_path)[0],
            "query": _query(masker, line.query),
        },
    }
    shown = [(n, v) for n, v in facts.head.headers if n[0] != ":" and not facts.is_secret(n)]
    # it is bound and it goes on, so whoever approves must know that it is there
    shown += [("cookie", "[not shown]")] if "cookie" in facts.head.headers else []
    raw: dict[str, Any] = {
        "path": masker.url(line.path)[0],
        "headers": [list(pair) for pair in masker.headers(shown)[0]],
    }
    if facts.body:
        try:
            content_type = facts.head.headers.get("content-type", "text/plain")
            text = masker.body(facts.plain_body(), content_type).data.decode("utf-8")
            raw["body"] = text[:MAX_SHOWN]
            if len(text) > MAX_SHOWN:
                raw["body_cut_at"] = MAX_SHOWN
                truncated = True
        except (MaskingError, ProtocolError, UnicodeDecodeError) as error:
            raw["body_omitted"] = getattr(error, "code", "not-text")
            truncated = True
    view["raw"] = raw
    view["truncated"] = truncated
    return view


def _query(masker: Masker, query: str) -> dict[str, list[str]]:
    """Parameters by masked name; two names that look alike once masked lose none of their values."""
    shown: dict[str, list[str]] = {}
    for name, values in query_params(query).items():
        shown.setdefault(masker.text(name)[0], []).extend(masker.text(value)[0] for value in values)
    return shown
