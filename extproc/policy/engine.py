"""The port to a CEL engine: `compile` a condition, `batch` the conditions of a phase.

An engine never says "true" by accident. A judgement is `True`, `False` or `Unjudged`: an exception, CEL's error
value and anything that is no boolean all mean that the condition did not evaluate.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from extproc.domain.errors import PolicyError
from extproc.policy.facts import suggestion
from extproc.policy.syntax import Expr

MAX_CONDITION = 8_000
"""Characters in one `when`."""


@dataclass(frozen=True, slots=True)
class Unjudged:
    """The condition did not evaluate. `reason` never holds a value, only a kind of trouble."""

    reason: str


Judgement = bool | Unjudged

MISSING_FACT = Unjudged("a fact is not available")
MISSING_KEY = Unjudged("a key or index is not there")
WRONG_TYPE = Unjudged("a value has the wrong type")
OUT_OF_RANGE = Unjudged("a number is out of range or a text does not convert")
NOT_BOOLEAN = Unjudged("the result is not true or false")
TOO_MUCH_WORK = Unjudged("the evaluation took too many steps")
FAILED = Unjudged("the evaluation failed")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong with a condition; line and column count from 1 within its text."""

    line: int
    column: int
    message: str


class ConditionError(Exception):
    """A condition that cannot be compiled."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("; ".join(mistake.message for mistake in mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True)
class Condition:
    """A compiled `when`: its text, its syntax and the engine's own program."""

    text: str
    syntax: Expr
    """As checked: facts are single identifiers."""
    parsed: Expr
    """As written, macros unfolded: `has(request.json)` is still to be seen here."""
    program: Any


class Batch(Protocol):
    """Conditions that are judged together."""

    def judge(self, data: dict[str, object]) -> Sequence[Judgement]:
        """One judgement per condition, in order. A fact that is not in `data` is not available."""


class Engine(Protocol):
    """A CEL implementation, set up with the facts of one kind of target."""

    name: str

    def compile(self, text: str) -> Condition:
        """Raises ConditionError with every mistake it can tell."""

    def batch(self, conditions: Sequence[Condition]) -> Batch: ...


ENGINES = ("cel-expr", "cel-python")
_MODULES = {"cel-expr": "cel_expr_python", "cel-python": "celpy"}


def choose_engine(name: str | None) -> str:
    """The engine by name, or the best that is installed. Raises PolicyError."""
    if name is None:
        for known in ENGINES:
            if _is_installed(known):
                return known
        raise PolicyError("no CEL engine is installed; install cel-expr-python or extproc[portable]")
    if name not in ENGINES:
        raise PolicyError(
            f'unknown CEL engine "{name}"{suggestion(name, ENGINES)}; known: {", ".join(ENGINES)}'
        )
    if not _is_installed(name):
        raise PolicyError(f'the CEL engine "{name}" is not installed')
    return name


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(_MODULES[name]) is not None


def build_engine(name: str, kind: str, variables: Mapping[str, str]) -> Engine:
    """An engine over the facts of one kind of target; libraries are imported only when chosen."""
    if name == "cel-expr":
        from extproc.policy.cel import CelExprEngine

        return CelExprEngine(kind, variables)
    from extproc.policy.celpy import CelPythonEngine

    return CelPythonEngine(kind, variables)
