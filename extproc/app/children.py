"""A child process as the supervisor knows it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from extproc.adapters.control import Control

Phase = Literal["", "starting", "leaving"]


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True)
class Child:
    """One child process and the line to it."""

    kind: str
    index: int = 0
    configuration: Path = Path()
    """The text of the settings it is started with."""
    phase: Phase = ""
    """`starting` is a worker that is to take the place of another, `leaving` one whose place was taken."""
    is_renewed: bool = False
    """It was stopped on purpose, to be started anew at once."""
    process: asyncio.subprocess.Process | None = None
    control: Control | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    may_start: asyncio.Event = field(default_factory=_set)
    """Not set while another is about to take its place: if it dies, it stays away."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """It left for good."""
    answers: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    deaths: int = 0
    policy: str = ""
    """The digest that a worker said it governs by."""
    locks: int = -1
    """The version of the locks that a worker said it has."""
    starts: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    """What it said of itself last, for the metrics."""

    def kill(self) -> None:
        """At once; it is started anew, unless it was leaving."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.kill()

    @property
    def name(self) -> str:
        name = f"{self.kind}-{self.index}" if self.kind == "worker" else self.kind
        return f"{name}-{self.phase}" if self.phase else name
