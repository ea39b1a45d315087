"""What a child tells the supervisor of itself every few seconds, for the metrics process to ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from extproc.adapters.control import Control

EVERY = 2.0
"""Seconds between two reports."""


async def tell_figures(control: Control, figures: Callable[[], dict[str, Any]]) -> None:
    """Report until the supervisor is gone."""
    while True:
        try:
            await control.send({"figures": figures()})
        except OSError:
            return
        await asyncio.sleep(EVERY)
