"""How nouns that every request makes anew are declared.

`@noun(frozen=True, slots=True)` is `dataclass(frozen=True, slots=True)` to the type checker, which refuses to see one
changed. At run time the class is not frozen, because a frozen one takes three times as long to make (ADR 13).

`@noun(slots=True, init=False, unsafe_hash=True)` is for those that are made most: they write their own `__init__`,
because one that dataclasses generate is never compiled (ADR 18), and their fields are `Final`, but for those that are
kept out of the repr: `field()` and `Final` do not go together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dataclasses import dataclass as noun
else:

    def noun(*, slots, frozen=False, init=True, unsafe_hash=False):
        """A dataclass compared and hashed by its fields."""
        return dataclasses.dataclass(slots=slots, init=init, unsafe_hash=frozen or unsafe_hash)


NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
"""An empty mapping, for whoever has nothing to say in one."""

__all__ = ["NOTHING", "noun"]
