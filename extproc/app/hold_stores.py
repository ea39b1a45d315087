"""The hold store that the settings name."""

from __future__ import annotations

from typing import Protocol

from extproc.adapters.hold_sqlite import SqliteHoldStore
from extproc.config import Settings
from extproc.domain.grant import ApprovalStore
from extproc.domain.hold import HoldLimits, HoldsOpen


class Holds(ApprovalStore, Protocol):
    """A hold store as the processes of a machine open and close it."""

    async def check(self) -> None:
        """Open it now. Raises StoreUnavailableError."""

    async def aclose(self) -> None:
        """Let go of it."""

    async def forget(self, before: float) -> int:
        """Drop what closed long ago; how many holds."""

    async def standing(self) -> list[HoldsOpen]:
        """Open holds by state."""


def open_holds(settings: Settings) -> Holds:
    """The hold store that all processes share: of this machine, or of several. Raises ConfigError."""
    bounds = settings.holds.limits
    limits = HoldLimits(bounds.per_principal, bounds.total, bounds.waiters)
    if settings.holds.postgres is None:
        return SqliteHoldStore(settings.holds.store.path, limits=limits)
    from extproc.adapters.hold_postgres import PostgresHoldStore  # 60 ms that most do not need
    from extproc.adapters.hold_postgres_dsn import check_dsn

    dsn = settings.holds.postgres.resolve()
    check_dsn(dsn)
    return PostgresHoldStore(dsn, limits=limits)
