"""How nouns that every request makes anew are declared.

`@noun(frozen=True, slots=True)` is `dataclass(frozen=True, slots=True)` to the type checker, which refuses to see one
changed. At run time the class is not frozen, because a frozen one takes three times as long to make (ADR 13).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as noun
else:

    def noun(*, frozen, slots):
        """A dataclass compared and hashed by its fields."""
        return dataclasses.dataclass(slots=slots, unsafe_hash=frozen)


__all__ = ["noun"]
