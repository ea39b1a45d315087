"""The head of a gRPC call: which method, how long, with what metadata (gRPC over HTTP/2, "Requests")."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from extproc.protocols.h2 import blocks

_NAME: Final = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_FORBIDDEN_IN_VALUE: Final = re.compile(rb"[\x00\r\n]|^[ \t]|[ \t]$")
_CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_PSEUDO: Final = frozenset((":method", ":scheme", ":path", ":authority"))
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_OURS: Final = frozenset(("te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding"))


class MalformedError(Exception):
    """The header list breaks a rule of RFC 9113 section 8: a stream error of type PROTOCOL_ERROR."""


class CallHead:
    """One call's head. Shared between calls whose header blocks were equal: never change it, but for `memo`."""

    __slots__ = ("memo", "metadata", "path", "refusal", "timeout")

    def __init__(
        self, path: str, metadata: tuple[tuple[str, str], ...], timeout: float | None, refusal: bytes | None
    ) -> None:
        self.path = path
        self.metadata = metadata
        """What is neither HTTP's nor gRPC's own, in order."""
        self.timeout = timeout
        """Seconds, from grpc-timeout."""
        self.refusal = refusal
        """The header block that answers this call when it can not be served."""
        self.memo: Any = None
        """For whoever serves the call: what was made of this head, to be found again by the next call."""


def check_field(name: bytes, value: bytes) -> tuple[str, str]:
    """One field as text (latin-1 keeps every byte). Raises MalformedError (RFC 9113 section 8.2)."""
    if not _NAME.fullmatch(name):
        raise MalformedError("a field name that HTTP/2 does not allow")
    if _FORBIDDEN_IN_VALUE.search(value):
        raise MalformedError("a field value that HTTP/2 does not allow")
    if name in _CONNECTION_FIELDS or (name == b"te" and value != b"trailers"):
        raise MalformedError("a connection-specific field")
    return name.decode("latin-1"), value.decode("latin-1")


def build_head(fields: Iterable[tuple[str, str]]) -> CallHead:
    """Checked fields to a head. Raises MalformedError (section 8.3)."""
    pseudo: dict[str, str] = {}
    own: dict[str, str] = {}
    metadata: list[tuple[str, str]] = []
    for field in fields:
        name = field[0]
        if name[0] == ":":
            if name not in _PSEUDO or name in pseudo or metadata or own:
                raise MalformedError("a pseudo-header that does not belong there")
            pseudo[name] = field[1]
        elif name in _OURS:
            own[name] = field[1]
        else:
            metadata.append(field)
    method = pseudo.get(":method")
    path = pseudo.get(":path", "")
    if method is None or (method != "CONNECT" and (not path or ":scheme" not in pseudo)):
        raise MalformedError("a pseudo-header is missing")
    timeout, refusal = _judge(method, own)
    return CallHead(path, tuple(metadata), timeout, refusal)


def check_trailers(fields: Iterable[tuple[str, str]]) -> None:
    """Trailers hold no pseudo-headers. Raises MalformedError."""
    for name, _ in fields:
        if name[0] == ":":
            raise MalformedError("a pseudo-header in trailers")


def _judge(method: str, own: dict[str, str]) -> tuple[float | None, bytes | None]:
    """The timeout, and the refusal if this is no call we can serve."""
    if method != "POST":
        return None, blocks.http_error(405)
    kind = own.get("content-type", "")
    if kind != "application/grpc" and kind[:17] not in ("application/grpc+", "application/grpc;"):
        return None, blocks.http_error(415)
    encoding = own.get("grpc-encoding", "identity")
    if encoding != "identity":
        return None, blocks.trailers_only(
            blocks.UNIMPLEMENTED, "this grpc-encoding is not supported", accept_encoding=True
        )
    text = own.get("grpc-timeout")
    if text is None:
        return None, None
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        return None, blocks.trailers_only(blocks.INTERNAL, "malformed grpc-timeout")
    return int(match[1]) * _UNITS[match[2]], None
