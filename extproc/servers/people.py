"""A principal as the approvals API shows it."""

from __future__ import annotations

from typing import Any

from extproc.domain.principal import Principal


def person_shown(principal: Principal) -> dict[str, Any]:
    """Who it is, by all the names we know. The caller escapes it for display."""
    return {
        "issuer": principal.issuer,
        "subject": principal.subject,
        "kind": principal.kind,
        "person": principal.person,
        "groups": list(principal.groups),
        "client_id": principal.client_id or None,
        "act": principal.claims.get("act"),
    }
