"""Takes a configured literal (an injected credential) out of a stream, however it is cut into pieces.

Only bytes that could be the beginning of a literal are held back, so an ordinary event is never delayed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

REPLACEMENT = b"[CREDENTIAL]"


@dataclass(frozen=True, slots=True)
class Literals:
    """The spellings of a secret, the longest first, and what finds any of them. `repr` shows neither."""

    forms: tuple[bytes, ...] = field(repr=False)
    pattern: re.Pattern[bytes] = field(repr=False, compare=False)


def build_literals(forms: Iterable[bytes]) -> Literals:
    """`forms` are `literals.literal_forms`."""
    longest_first = tuple(sorted(forms, key=lambda form: (-len(form), form)))  # the longest spelling wins
    return Literals(longest_first, re.compile(b"|".join(re.escape(form) for form in longest_first)))


class LiteralStream:
    """Feed pieces in, get pieces out; `count` literals were replaced.

    With `same_length` a literal becomes as many asterisks: every other byte keeps its place.
    """

    __slots__ = ("_literals", "_replacement", "_rest", "count")

    def __init__(self, literals: Literals, *, same_length: bool = False) -> None:
        self._literals = literals
        self._replacement: bytes | Callable[[re.Match[bytes]], bytes] = _stars if same_length else REPLACEMENT
        self._rest = b""
        self.count = 0

    def feed(self, piece: bytes, *, last: bool = False) -> bytes:
        """The bytes that may go on now. With `last`, nothing is held back."""
        data = self._rest + piece
        data, found = self._literals.pattern.subn(self._replacement, data)
        self.count += found
        keep = 0 if last else self._possible_start(data)
        self._rest = data[len(data) - keep :]
        return data[: len(data) - keep]

    @property
    def holds_back(self) -> bool:
        """Bytes wait for what follows them."""
        return bool(self._rest)

    def _possible_start(self, data: bytes) -> int:
        """The length of the longest tail that begins a literal without completing it."""
        longest = 0
        for form in self._literals.forms:
            for size in range(min(len(form) - 1, len(data)), longest, -1):
                if data.endswith(form[:size]):
                    longest = size
                    break
        return longest


def _stars(found: re.Match[bytes]) -> bytes:
    return b"*" * len(found.group())


class GrpcFrames:
    """Follows the length-prefixed messages of a gRPC body (gRPC over HTTP/2, Length-Prefixed-Message)."""

    __slots__ = ("_head", "_left", "compressed")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self.compressed = False
        """Some message was compressed, so nobody can look into it."""

    def ends_whole(self, piece: bytes) -> bool:
        """Whether `piece` ends where a message ends, so that nothing of it needs to wait for more."""
        at = 0
        while at < len(piece):
            if self._left:
                taken = min(self._left, len(piece) - at)
                self._left -= taken
                at += taken
                continue
            missing = 5 - len(self._head)
            self._head += piece[at : at + missing]
            at += missing
            if len(self._head) == 5:
                self.compressed = self.compressed or bool(self._head[0] & 1)
                self._left = int.from_bytes(self._head[1:], "big")
                self._head = b""
        return not self._left and not self._head
