"""Texts that come again and again, such as a client's headers: what they say is worked out once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

Said = TypeVar("Said")
LONGEST = 128
"""Characters; a longer text is read each time, so that nobody fills the memory with them."""
MOST = 256


def recurring(read: Callable[[str], Said]) -> Callable[[str], Said]:
    """Remember what `read` makes of the latest short texts. It must say the same each time."""
    known = lru_cache(maxsize=MOST)(read)

    @wraps(read)
    def reading(text: str) -> Said:
        return known(text) if len(text) <= LONGEST else read(text)

    return reading
