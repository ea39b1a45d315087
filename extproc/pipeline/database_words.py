"""What a client reads when a statement does not run, and the ledger's words for how one ended."""

from __future__ import annotations

from extproc.pipeline.database_steps import (
    ADMIN_SHUTDOWN,
    CONFIGURATION_LIMIT,
    INSUFFICIENT_PRIVILEGE,
    INVALID_AUTHORIZATION,
    QUERY_CANCELED,
    SYSTEM_ERROR,
)

ENDS = {
    "complete": "complete",
    "error": "error",
    "denied": "refused",
    "skipped": "skipped",
    "unexecuted": "skipped",
    "abandoned": "aborted",
    "aborted": "aborted",
}
"""The wire's word for an end, and the ledger's."""

OVER: dict[str, tuple[str, str, str]] = {
    "token-expired": (INVALID_AUTHORIZATION, "your token has expired", "Connect again with a fresh token."),
    "session-too-old": (INVALID_AUTHORIZATION, "this session has reached its largest age", "Connect again."),
    "locked": (ADMIN_SHUTDOWN, "your access was locked by an operator", "Ask an operator."),
}
"""By the code of a session that is over: SQLSTATE, message, what to do."""

HINTS = {
    "rule-denied": "A rule forbids this statement. Do not send it again unchanged.",
    "no-rule-matched": "No rule allows this statement. Ask the policy's owner if it should.",
    "rule-error": "A rule could not be evaluated for this statement, so it was refused.",
    "held": "The hold stays. Wait for a person to decide, then send the same statement again.",
    "hold-rejected": "A person decided against it. Do not send it again unchanged.",
    "hold-closed": "Send it again to ask anew.",
    "hold-void": "Policy changed since this was approved. Send it again to ask anew.",
    "too-many-holds": "Wait until some of the pending holds are decided.",
    **{code: hint for code, (_, _, hint) in OVER.items()},
    "holds-unavailable": "Try again later.",
}

WAIT_ENDS: dict[str, tuple[str, str, str]] = {
    "waiting": ("this statement waits for a person's approval", "held", QUERY_CANCELED),
    "rejected": ("a person decided against this statement", "hold-rejected", INSUFFICIENT_PRIVILEGE),
    "closed": ("the hold ended without a decision", "hold-closed", QUERY_CANCELED),
    "void": ("the approval no longer fits the policy in force", "hold-void", INSUFFICIENT_PRIVILEGE),
    "released": ("the approval was already used", "hold-closed", QUERY_CANCELED),
    "too_many": (
        "too many statements are already waiting for approval",
        "too-many-holds",
        CONFIGURATION_LIMIT,
    ),
    "unavailable": ("holds cannot be kept right now", "holds-unavailable", SYSTEM_ERROR),
}
"""What a client reads when a wait did not end in release."""
