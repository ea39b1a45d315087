"""What the demo's issuer answers with."""

from __future__ import annotations

import base64
import threading
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Page:
    """What a path is answered with. A `gate` keeps the answer back until it is set."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)
    gate: threading.Event | None = field(default=None, compare=False)


def b64(data: bytes) -> str:
    """Unpadded base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
