"""Which parts of a large value rules read, and a copy that holds only those.

Handing a value to an engine costs by its size, read or not, so a rule that reads `request.json.amount` gets an
object with one key. Everything a rule can observe through the paths it names stays as it was: present keys,
absent keys, lengths up to the last index that is read, and the kind of value at each step.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Paths:
    """A tree of the steps that are read below a value. `whole` means: all of it from here on."""

    whole: bool = False
    steps: dict[str | int, Paths] = field(default_factory=dict)

    def add(self, path: tuple[str | int, ...], *, whole: bool = True) -> None:
        """`whole=False` asks only whether the last step is there."""
        node = self
        for step in path:
            node = node.steps.setdefault(step, Paths())
        node.whole = node.whole or whole

    def merge(self, other: Paths) -> None:
        self.whole = self.whole or other.whole
        for step, below in other.steps.items():
            self.steps.setdefault(step, Paths()).merge(below)

    def keeps(self, value: object) -> object:
        """`value` cut down to what is read of it."""
        if self.whole:
            return value
        if type(value) is dict:
            return {step: below.keeps(value[step]) for step, below in self.steps.items() if step in value}
        if type(value) is list:
            return self._kept_items(value)
        return value

    def _kept_items(self, items: list[object]) -> list[object]:
        last = max((step for step in self.steps if type(step) is int), default=-1)
        kept: list[object] = [None] * min(last + 1, len(items))
        for step, below in self.steps.items():
            if type(step) is int and 0 <= step < len(kept):
                kept[step] = below.keeps(items[step])
        return kept
