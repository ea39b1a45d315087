"""Takes a configured literal (an injected credential) out of a stream, however it is cut into pieces.

Only bytes that could be the beginning of a literal are held back, so an ordinary event is never delayed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

REPLACEMENT = b"[CREDENTIAL]"


class LiteralStream:
    """Feed pieces in, get pieces out; `count` literals were replaced. `forms` are `literals.literal_forms`."""

    __slots__ = ("_forms", "_pattern", "_rest", "count")

    def __init__(self, forms: Iterable[bytes]) -> None:
        self._forms = tuple(sorted(forms, key=lambda form: (-len(form), form)))  # the longest spelling wins
        self._pattern = re.compile(b"|".join(re.escape(form) for form in self._forms))
        self._rest = b""
        self.count = 0

    def feed(self, piece: bytes, *, last: bool = False) -> bytes:
        """The bytes that may go on now. With `last`, nothing is held back."""
        data = self._rest + piece
        data, found = self._pattern.subn(REPLACEMENT, data)
        self.count += found
        keep = 0 if last else self._possible_start(data)
        self._rest = data[len(data) - keep :]
        return data[: len(data) - keep]

    def _possible_start(self, data: bytes) -> int:
        """The length of the longest tail that begins a literal without completing it."""
        longest = 0
        for form in self._forms:
            for size in range(min(len(form) - 1, len(data)), longest, -1):
                if data.endswith(form[:size]):
                    longest = size
                    break
        return longest
