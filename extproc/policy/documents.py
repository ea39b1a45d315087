"""Policy text in, a small tree with a place on every node out.

YAML is read as events: aliases, tags, several documents, duplicate keys and endless depth are refused while
reading, so nothing can unfold. Scalars stay text; what a scalar means is decided by the schema that reads it,
so YAML 1.1's surprises (`no` is false, `1:30` is 90) cannot happen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from extproc.domain.errors import PolicyError

MAX_TEXT = 1024 * 1024
"""Characters in one policy file."""
MAX_DEPTH = 32
MAX_NODES = 50_000


@dataclass(frozen=True, slots=True)
class PolicySource:
    """One policy file: the name by which messages call it, and its text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake and its place. Line and column count from 1."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class PolicyLoadError(PolicyError):
    """Every problem of a load at once, one per line."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file; `index` counts characters from 0, the others from 1."""

    index: int
    line: int
    column: int


@dataclass(slots=True)
class Scalar:
    """Text as written, quotes and escapes resolved. `style` is '', "'", '"', '|' or '>'."""

    text: str
    style: str
    mark: Mark

    @property
    def is_plain(self) -> bool:
        return self.style == ""

    @property
    def is_null(self) -> bool:
        return self.style == "" and self.text in ("", "~", "null")


@dataclass(slots=True)
class Sequence:
    items: list[Node]
    mark: Mark


@dataclass(slots=True)
class Mapping:
    """Keys in order; `keys` keeps where each key stands."""

    items: dict[str, Node]
    keys: dict[str, Mark]
    mark: Mark


Node = Scalar | Sequence | Mapping


@dataclass(slots=True)
class Reader:
    """Collects problems with their places while one file is read."""

    source: PolicySource
    problems: list[Problem] = field(default_factory=list)

    def problem(self, mark: Mark, message: str) -> None:
        self.problems.append(Problem(self.source.name, mark.line, mark.column, message))


START = Mark(0, 1, 1)


class _Unreadable(Exception):
    def __init__(self, mark: Mark, message: str) -> None:
        super().__init__(message)
        self.mark = mark
        self.message = message


def read_document(reader: Reader) -> Node | None:
    """The file's one document, or None with the problem noted."""
    text = reader.source.text
    if len(text) > MAX_TEXT:
        reader.problem(START, f"the file has {len(text)} characters; at most {MAX_TEXT} are read")
        return None
    try:
        return _Composer(reader, text).document()
    except _Unreadable as unreadable:
        reader.problem(unreadable.mark, unreadable.message)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reader.problem(_mark(mark) if mark else START, f"not valid YAML: {error.problem or error.context}")
    except yaml.YAMLError:
        reader.problem(START, "not valid YAML: it holds characters that YAML forbids")
    except UnicodeEncodeError:
        reader.problem(START, "not valid text: it holds lone surrogates")
    return None


def _mark(mark: object) -> Mark:
    """PyYAML counts lines and columns from 0."""
    return Mark(mark.index, mark.line + 1, mark.column + 1)  # type: ignore[attr-defined]


class _Composer:
    """Builds nodes from events, with a ceiling on depth and count."""

    def __init__(self, reader: Reader, text: str) -> None:
        self._reader = reader
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._count = 0

    def document(self) -> Node:
        self._next()  # StreamStart
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            raise _Unreadable(START, "the file is empty")
        node = self._node(self._next(), 0)
        self._next()  # DocumentEnd
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise _Unreadable(_mark(after.start_mark), "a file holds one document")
        return node

    def _next(self) -> yaml.Event:
        return next(self._events)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        mark = _mark(event.start_mark)
        self._count += 1
        if self._count > MAX_NODES:
            raise _Unreadable(mark, f"more than {MAX_NODES} values in one file")
        if depth > MAX_DEPTH:
            raise _Unreadable(mark, f"nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _Unreadable(mark, "anchors and aliases are not part of the format")
        if getattr(event, "tag", None):
            raise _Unreadable(mark, "tags are not part of the format")
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(event.value, event.style or "", mark)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := self._next(), yaml.SequenceEndEvent):
                items.append(self._node(event, depth + 1))
            return Sequence(items, mark)
        return self._mapping(mark, depth)

    def _mapping(self, mark: Mark, depth: int) -> Mapping:
        found = Mapping({}, {}, mark)
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(self._next(), depth + 1)
            if not isinstance(key, Scalar):
                raise _Unreadable(key.mark, "a key is text")
            if key.text in found.items:
                first = found.keys[key.text]
                self._reader.problem(
                    key.mark, f'the key "{key.text}" is here a second time (first at line {first.line})'
                )
                continue
            found.items[key.text] = value
            found.keys[key.text] = key.mark
        return found


def place_within(source: PolicySource, scalar: Scalar, line: int, column: int) -> Mark:
    """Where a place inside a scalar's text stands in the file. `line` and `column` count from 1.

    The raw file is walked beside the scalar's text, over quotes, escapes, folds and indentation. Where they
    cannot be brought together the start of the scalar is given.
    """
    lines = scalar.text.split("\n")
    if not 1 <= line <= len(lines):
        return scalar.mark
    offset = sum(len(text) + 1 for text in lines[: line - 1]) + max(column - 1, 0)
    raw = source.text
    at = scalar.mark.index
    if scalar.style in ("|", ">"):
        at = raw.find("\n", at) + 1
    elif scalar.style:
        at += 1
    for position in range(min(offset, len(scalar.text))):
        at = _past(raw, at, scalar.text[position])
        if at < 0:
            return scalar.mark
    if offset < len(scalar.text):
        at = _past(raw, at, scalar.text[offset]) - 1
        if at < 0:
            return scalar.mark
    start = raw.rfind("\n", 0, at) + 1
    return Mark(at, raw.count("\n", 0, at) + 1, at - start + 1)


def _past(raw: str, at: int, wanted: str) -> int:
    """The index just past `wanted`, skipping what the scalar's style adds; -1 when it does not come."""
    end = min(len(raw), at + 4096)
    if wanted.isspace():
        while at < end and not raw[at].isspace():
            at += 1
        return at + 1 if at < end else -1
    while at < end and raw[at] != wanted:
        at += 1
    return at + 1 if at < end else -1
