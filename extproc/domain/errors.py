"""Whose fault it was. Servers turn these into refusals in one place."""

from __future__ import annotations


class ExtprocError(Exception):
    """Anything we raise on purpose. Its text is safe to show: it never quotes a secret or a body."""


class ProtocolError(ExtprocError):
    """The peer's fault: bytes, headers or a body we cannot accept. `code` is stable and machine-readable."""

    def __init__(self, code: str, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


class TokenError(ExtprocError):
    """The token does not prove a principal. `code` is stable; the text never quotes the token."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class PolicyError(ExtprocError):
    """The author's fault, with its place: `policies/db.yaml:12:7: rule "no-drop": unknown name "usr"`."""


class ConfigError(PolicyError):
    """The operator's fault in `extproc.yaml`, with its place."""


class MaskingError(ExtprocError):
    """A body that must be masked could not be read; it may not go on."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class StoreUnavailableError(ExtprocError):
    """Our own fault: a store we depend on cannot answer now."""


class LedgerUnavailableError(StoreUnavailableError):
    """Nothing can be recorded, so nothing may be answered but a refusal."""
