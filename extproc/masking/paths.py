"""JSONPath rules compiled to one automaton, so that a walk asks a single question per key whatever their number.

The subset (RFC 9535 §2.3): `$`, `.name`, `['name']`, `["name"]`, `[0]`, `.*`, `[*]`, and each of them after `..`.
Slices, filters, unions and negative indices are refused when the plan is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from extproc.domain.errors import PolicyError
from extproc.masking.operators import Operator, strictest

MAX_STATES = 2048
ANY = None
"""A step that takes every member and every element."""

Step = tuple[bool, str | int | None]
"""Whether any number of levels may lie between (`..`), and the name, index or `ANY`."""


@dataclass(slots=True, eq=False)
class Node:
    """A place in a document: which operator applies to the value here, and where its members lead."""

    operator: Operator | None = None
    label: str = ""
    """The path whose operator that is, as it was written: what is counted."""
    named: dict[bytes, Node] = field(default_factory=dict)
    indexed: dict[int, Node] = field(default_factory=dict)
    other_name: Node | None = None
    other_index: Node | None = None


@dataclass(frozen=True, slots=True)
class PathRule:
    """A parsed path, its text, and what happens where it leads."""

    text: str
    steps: tuple[Step, ...]
    operator: Operator

    @property
    def names(self) -> tuple[bytes, ...]:
        """Names that a document must hold, as plain bytes, for the path to lead anywhere in it."""
        return tuple(
            step.encode() for _, step in self.steps if isinstance(step, str) and _PLAIN_NAME.match(step)
        )


def parse_path(text: str) -> tuple[Step, ...]:
    """The steps of a JSONPath. Raises PolicyError with the column of the first thing that is not in the subset."""
    if not text.startswith("$"):
        raise PolicyError(f'path "{text}": must begin with "$"')
    steps: list[Step] = []
    at = 1
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise PolicyError(f"path \"{text}\": column {at + 1}: expected .name, ['name'], [0], .* or [*]")
        deep = text.startswith("..", at)
        if match["index"] is not None:
            steps.append((deep, int(match["index"])))
        elif match["star"] is not None:
            steps.append((deep, ANY))
        else:
            quoted = match["quoted"]
            steps.append((deep, match["name"] if quoted is None else _unquote(text, quoted)))
        at = match.end()
    return tuple(steps)


def compile_paths(rules: Sequence[PathRule]) -> Node | None:
    """The node for the root of a document; None when there are no rules. Raises PolicyError if they explode."""
    if not rules:
        return None
    return _Compiler(rules).node(frozenset((index, 0) for index in range(len(rules))))


_STEP = re.compile(
    r"""(?:\.\.?(?P<name>[^\W\d][\w-]*)          # .name  ..name
        |\.\.?(?P<star>\*)
        |(?:\.\.)?\[\s*(?:
            (?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
            |(?P<index>0|[1-9][0-9]{0,8})
            |(?P<any>\*)
        )\s*\])""",
    re.VERBOSE,
)
_PLAIN_NAME = re.compile(r"[\w -]+\Z")
"""Names that JSON writes in one way, escapes by code point aside."""
_ESCAPED = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_PLAIN = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", "\\": "\\", "'": "'", '"': '"'}


def _unquote(path: str, quoted: str) -> str:
    def plain(match: re.Match[str]) -> str:
        code = match.group(1)
        if len(code) == 5:
            return chr(int(code[1:], 16))
        if code not in _PLAIN:
            raise PolicyError(f'path "{path}": unknown escape "\\{code}"')
        return _PLAIN[code]

    return _ESCAPED.sub(plain, quoted[1:-1])


State = tuple[int, int]
"""Rule and how many of its steps are done."""


class _Compiler:
    """Subset construction over all rules; keys that no rule names share one way on."""

    def __init__(self, rules: Sequence[PathRule]) -> None:
        self._rules = rules
        self._nodes: dict[frozenset[State], Node] = {}

    def node(self, start: frozenset[State]) -> Node:
        root = self._known(start)
        waiting = [start]
        done: set[frozenset[State]] = set()
        while waiting:
            states = waiting.pop()
            if states in done:
                continue
            done.add(states)
            for reached in self._expand(states, self._nodes[states]):
                if len(self._nodes) > MAX_STATES:
                    raise PolicyError(
                        "the paths of these masks combine into too many states; use fewer `..` steps"
                    )
                waiting.append(reached)
        return root

    def _expand(self, states: frozenset[State], node: Node) -> list[frozenset[State]]:
        steps = [
            self._rules[rule].steps[done][1] for rule, done in states if done < len(self._rules[rule].steps)
        ]
        reached: list[frozenset[State]] = []
        for key in {step for step in steps if isinstance(step, str)}:
            reached.append(self._after(states, key))
            node.named[key.encode("utf-8", "surrogatepass")] = self._known(reached[-1])
        for index in {step for step in steps if isinstance(step, int)}:
            reached.append(self._after(states, index))
            node.indexed[index] = self._known(reached[-1])
        rest = self._after(states, ANY)
        if rest:
            reached.append(rest)
            node.other_name = node.other_index = self._known(rest)
        return reached

    def _after(self, states: frozenset[State], key: str | int | None) -> frozenset[State]:
        after: set[State] = set()
        for rule, done in states:
            steps = self._rules[rule].steps
            if done == len(steps):
                continue
            deep, wanted = steps[done]
            if deep:
                after.add((rule, done))
            if wanted is ANY or (key is not ANY and wanted == key):
                after.add((rule, done + 1))
        return frozenset(after)

    def _known(self, states: frozenset[State]) -> Node:
        node = self._nodes.get(states)
        if node is None:
            node = self._nodes[states] = Node()
            for index in sorted({rule for rule, done in states if done == len(self._rules[rule].steps)}):
                rule = self._rules[index]
                if node.operator is None or strictest(node.operator, rule.operator) is not node.operator:
                    node.operator, node.label = rule.operator, rule.text
        return node
