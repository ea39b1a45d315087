"""What differs between two requests of one kind, for an approver who has approved the like before.

Both are given as the views that approvers see: masked, so what is masked looks alike in both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MOST = 50
"""Differences that are told; the rest is counted."""
SHOWN = 500
"""Characters of a value that are told."""
ABOUT_US = ("risk", "reason", "target", "protocol")
"""Facts that say what we think of a request, not what it is."""


PLAIN = re.compile(r"[\w$-]+")


@dataclass(frozen=True, slots=True)
class Difference:
    """One place: `before` or `now` is None where it is not there at all."""

    where: str
    before: str | None
    now: str | None


def kind_of(view: Mapping[str, Any]) -> Hashable:
    """What two requests share that are worth comparing, or None: the statements' shapes; the method, host and path."""
    statements = _part(view, "normalised").get("statements")
    if isinstance(statements, list | tuple) and statements:
        return ("sql", *map(str, statements))
    facts = _part(view, "facts")
    if "method" in facts:
        return ("http", *(str(facts.get(name)) for name in ("method", "host", "path")))
    return None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """Every place whose value is another, in the order of the newer view; what is gone comes last."""
    old, new = dict(_places(before)), dict(_places(now))
    names = [*new, *(name for name in old if name not in new)]
    return [
        Difference(name, _cut(old.get(name)), _cut(new.get(name)))
        for name in names
        if old.get(name) != new.get(name)
    ]


def _places(view: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each value of a view with the name of its place, once: `body.to.iban`, `parameters[0]`, `headers.accept`."""
    facts, raw = _part(view, "facts"), dict(_part(view, "raw"))
    yield from _leaves({name: value for name, value in facts.items() if name not in ABOUT_US})
    if "query" in (normalised := _part(view, "normalised")):
        yield from _leaves({"query": normalised["query"]})
        raw.pop("path", None)  # it is facts and query
    headers: dict[str, list[str]] = {}
    for name, value in raw.pop("headers", ()):
        headers.setdefault(str(name), []).append(str(value))
    yield from _leaves({"headers": {name: ", ".join(values) for name, values in headers.items()}})
    if isinstance(body := raw.get("body"), str):
        raw["body"] = _json(body)
    yield from _leaves(raw)


def _leaves(value: Any) -> Iterator[tuple[str, str]]:
    """Depth first, without recursion: a body may be nested as deeply as it likes."""
    waiting = [("", value)]
    while waiting:
        name, found = waiting.pop()
        if isinstance(found, Mapping) and found:
            inner = [(_inside(name, str(key)), each) for key, each in found.items()]
        elif isinstance(found, list | tuple) and found:
            inner = [(f"{name}[{place}]", each) for place, each in enumerate(found)]
        else:
            yield name, found.written if isinstance(found, _Number) else json.dumps(found, ensure_ascii=False)
            continue
        waiting += reversed(inner)


def _inside(name: str, key: str) -> str:
    """`name.key`; a key that could be read as a place of its own is quoted, so that no two places look alike."""
    if PLAIN.fullmatch(key):
        return f"{name}.{key}" if name else key
    return f"{name}[{json.dumps(key, ensure_ascii=False)}]"


@dataclass(frozen=True, slots=True)
class _Number:
    """As it was written: 1.0 and 1.00 are two texts."""

    written: str


def _json(text: str) -> Any:
    """A JSON body by its values; any other, and one that says a name twice, as the text it is."""
    try:
        return json.loads(
            text,
            object_pairs_hook=_distinct,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_Number,
        )
    except (ValueError, RecursionError):
        return text


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name twice")
    return made


def _part(view: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = view.get(name)
    return found if isinstance(found, Mapping) else {}


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= SHOWN else text[:SHOWN] + "…"
