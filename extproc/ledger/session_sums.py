"""What a session's exchanges add up to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from extproc.ledger.exchanges import Exchange


@dataclass(slots=True)
class Session:
    """What a session's exchanges add up to."""

    session_id: str
    first_at: str = ""
    last_at: str = ""
    target: str = ""
    protocol: str = ""
    principal: str = ""
    exchanges: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    masked: int = 0
    rows: int = 0
    asked: str = ""

    def add(self, exchange: Exchange) -> None:
        at = exchange.line.at
        self.first_at = min(self.first_at or at, at)
        self.last_at = max(self.last_at, at)
        self.target = self.target or exchange.text("target")
        self.protocol = self.protocol or exchange.text("protocol")
        self.principal = self.principal or str(exchange.part("principal").get("subject", ""))
        if exchange.text("operation") == "login" and exchange.text("verdict") == "allow":
            return
        self.exchanges += 1
        self.asked = self.asked or exchange.asked
        verdict = exchange.text("verdict") or "unknown"
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
        masked = exchange.response.get("masked")
        self.masked += sum(masked.values()) if isinstance(masked, dict) else 0
        rows = exchange.response.get("rows")
        self.rows += rows if type(rows) is int else 0

    def line(self) -> str:
        """One line for people."""
        verdicts = " ".join(f"{name}={self.verdicts[name]}" for name in sorted(self.verdicts))
        parts = [
            self.first_at,
            self.session_id,
            self.target,
            f"by {self.principal or 'nobody known'}",
            verdicts,
        ]
        if self.masked:
            parts.append(f"masked={self.masked}")
        if self.rows:
            parts.append(f"rows={self.rows}")
        parts.append(self.asked[:80])
        return " ".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}
