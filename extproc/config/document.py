"""A YAML file as nodes that know their line and column; duplicate keys and tricks are refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from extproc.domain.errors import ConfigError

LONGEST_FILE = 1 << 20
MOST_NODES = 50_000
DEEPEST = 40

Key = str | int
Place = tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """Line and column, both counted from one."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """Text with the YAML type it would have: str, int, float, bool, null or another."""

    text: str
    kind: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys with where each stands and what it holds."""

    items: dict[str, tuple[Mark, Node]]
    mark: Mark


Node = Scalar | Sequence | Mapping


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where in the file, where in the tree, and what to do about it."""

    message: str
    place: Place = ()
    mark: Mark | None = None

    def render(self, file: str) -> str:
        """`extproc.yaml:12:7: targets[0].upstream: missing setting "address"`."""
        where = file if self.mark is None else f"{file}:{self.mark.line}:{self.mark.column}"
        return f"{where}: {f'{dotted(self.place)}: ' if self.place else ''}{self.message}"


class InvalidConfigError(ConfigError):
    """Every mistake found, one a line."""

    def __init__(self, file: str, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = tuple(problems)
        super().__init__("\n".join(problem.render(file) for problem in self.problems))


def dotted(place: Place) -> str:
    """`("targets", 0, "name")` -> `targets[0].name`."""
    text = ""
    for key in place:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def read_text(path: Path) -> str:
    """The file's text. Raises InvalidConfigError when it is missing, too large, not UTF-8 or writable by others."""
    file = str(path)
    try:
        with path.open("rb") as stream:
            mode = path.stat().st_mode
            raw = stream.read(LONGEST_FILE + 1)
    except OSError as error:
        raise InvalidConfigError(file, [Problem(f"cannot be read: {error.strerror}")]) from None
    if mode & 0o022:
        raise InvalidConfigError(
            file, [Problem(f"others may change it (mode {mode & 0o777:04o}); chmod go-w")]
        )
    if len(raw) > LONGEST_FILE:
        raise InvalidConfigError(file, [Problem(f"is larger than {LONGEST_FILE} bytes")])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidConfigError(file, [Problem(f"is not UTF-8 (byte {error.start})")]) from None


def parse(text: str, file: str) -> tuple[Node, list[Problem]]:
    """The document and what is wrong with its keys; raises InvalidConfigError when it is no YAML at all."""
    try:
        deep = _too_deep(text)
        if deep is not None:
            raise InvalidConfigError(file, [Problem("is nested too deeply", (), deep)])
        root = _compose(text)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Mark(at.line + 1, at.column + 1) if at else None
        raise InvalidConfigError(file, [Problem(error.problem or "cannot be parsed", (), mark)]) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidConfigError(file, [Problem(f"is not YAML: {error}")]) from None
    if root is None:
        raise InvalidConfigError(file, [Problem("is empty")])
    problems: list[Problem] = []
    return _read(root, (), problems, _Budget()), problems


class _Budget:
    """Aliases may repeat nodes; this bounds how many there are once written out."""

    def __init__(self) -> None:
        self.left = MOST_NODES

    def spend(self) -> bool:
        self.left -= 1
        return self.left >= 0


def _too_deep(text: str) -> Mark | None:
    """Where nesting passes the bound. The C composer recurses once per level, so this looks at events."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                at = event.start_mark
                return Mark(at.line + 1, at.column + 1) if at else Mark(1, 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


def _compose(text: str) -> yaml.Node | None:
    loader = yaml.CSafeLoader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


def _read(node: yaml.Node, place: Place, problems: list[Problem], budget: _Budget) -> Node:
    mark = Mark(node.start_mark.line + 1, node.start_mark.column + 1)
    if not budget.spend() or len(place) > DEEPEST:
        if budget.left == -1 or len(place) > DEEPEST:
            problems.append(Problem("aliases make this file too large", place, mark))
        return Scalar("", "null", mark)
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if isinstance(node, yaml.SequenceNode):
        items = tuple(_read(item, (*place, n), problems, budget) for n, item in enumerate(node.value))
        return Sequence(items, mark)
    if isinstance(node, yaml.MappingNode):
        entries: dict[str, tuple[Mark, Node]] = {}
        for key, value in node.value:
            at = Mark(key.start_mark.line + 1, key.start_mark.column + 1)
            if not isinstance(key, yaml.ScalarNode):
                problems.append(Problem("a setting's name must be text", place, at))
                continue
            if key.tag == "tag:yaml.org,2002:merge":
                problems.append(Problem("merge keys (<<) are not supported", place, at))
                continue
            if key.value in entries:
                first = entries[key.value][0]
                problems.append(Problem(f'"{key.value}" is set twice, first in line {first.line}', place, at))
                continue
            entries[key.value] = (at, _read(value, (*place, key.value), problems, budget))
        return Mapping(entries, mark)
    return Scalar(node.value, kind, mark)
