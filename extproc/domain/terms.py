"""How far one approval may reach: the most a rule allows, what an approver gives, and what a shape leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Scope = Literal["exact", "pinned", "shape"]
SCOPES: tuple[Scope, ...] = ("exact", "pinned", "shape")
"""Narrowest first: exactly this request; its shape with some values as here; its shape with any values."""


@dataclass(frozen=True, slots=True)
class GrantLimit:
    """The most an approver may give. `duration` in seconds; `uses` counts the held request itself, so 1 is *once*."""

    duration: float = 0.0
    uses: int = 1
    scope: Scope = "exact"

    @property
    def is_once(self) -> bool:
        """An approval lets the held request go and nothing else."""
        return self.uses < 2


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """What one approver gives, or all of them agreed on. `pins` name the values that must be as they are here."""

    duration: float
    uses: int
    scope: Scope = "exact"
    pins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """What is left of a request when its values are taken out.

    `key` is a keyed digest over everything that must stay: caller, target, session, the deciding rules, and the
    request without its values. `same` and `free` say in words what stays and what does not. `values` has a keyed
    digest for each value that can be pinned, by the name people call it.
    """

    key: str
    same: str
    free: str
    values: Mapping[str, str] = field(default_factory=dict)
