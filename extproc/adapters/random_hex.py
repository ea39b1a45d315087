"""Random ids, many from one read of the kernel's generator."""

from __future__ import annotations

import os
from typing import Final


class RandomHex:
    """Random hexadecimal ids of `size` bytes, drawn from the kernel a block at a time."""

    BLOCK: Final = 4096

    def __init__(self) -> None:
        self._block = ""
        self._at = 0

    def __call__(self, size: int) -> str:
        end = self._at + 2 * size
        if end > len(self._block):
            self._block, self._at, end = os.urandom(self.BLOCK).hex(), 0, 2 * size
        drawn = self._block[self._at : end]
        self._at = end
        return drawn
