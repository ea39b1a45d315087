"""Mask what is not JSON: text, markup, forms, URLs, header values. Each is plain text behind at most one escaping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from extproc.masking.finder import Search, Tally
from extproc.masking.json_body import PATH_ENTITY
from extproc.masking.rules import Rules
from extproc.masking.views import Edit, View, apply_edits, percent_view, reference_view

_AMPERSAND: Final = 0x26
_PERCENT: Final = 0x25
_PLUS: Final = 0x2B


def mask_text(data: bytes, rules: Rules, tally: Tally) -> bytes:
    """Plain text, without any escaping."""
    return _masked(data, None, rules, tally)


def mask_markup(data: bytes, rules: Rules, tally: Tally) -> bytes:
    """HTML and XML: character references are resolved before looking; tags are text like any other."""
    return _masked(data, reference_view(data) if _AMPERSAND in data else None, rules, tally)


def mask_percent(data: bytes, rules: Rules, tally: Tally) -> bytes:
    """Percent-encoded text, such as the path of a URL."""
    return _masked(data, percent_view(data, plus=False) if _PERCENT in data else None, rules, tally)


def mask_url(url: bytes, rules: Rules, tally: Tally) -> bytes:
    """Path and query each decoded before looking; in the query a plus sign is a space."""
    path, mark, query = url.partition(b"?")
    masked = mask_percent(path, rules, tally)
    if not mark:
        return masked
    escaped = _PERCENT in query or _PLUS in query
    return masked + mark + _masked(query, percent_view(query, plus=True) if escaped else None, rules, tally)


def mask_form(data: bytes, rules: Rules, tally: Tally) -> bytes:
    """A urlencoded form: names and values; a path rule `$.name` takes the fields of that name."""
    at = 0
    edits: list[Edit] = []
    searches = rules.finder.look(percent_view(data, plus=True).text)
    for pair in data.split(b"&"):
        name, mark, value = pair.partition(b"=")
        edits += _field(name, at, b"", searches, rules, tally)
        start = at + len(name) + 1
        if mark and not _by_path(name, value, start, edits, searches, rules, tally):
            edits += _field(value, start, name, searches, rules, tally)
        at += len(pair) + 1
    return apply_edits(data, edits) if edits else data


def _by_path(
    name: bytes, value: bytes, at: int, edits: list[Edit],
    searches: Sequence[Search], rules: Rules, tally: Tally,
) -> bool:  # fmt: skip
    """Change the field if a path rule names it."""
    root = rules.root
    if root is None:
        return False
    node = root.named.get(percent_view(name, plus=True).text, root.other_name)
    operator = node.operator if node is not None else None
    if operator is None or not operator.rank or node is None:
        return False
    view = percent_view(value, plus=True)
    tally.count(node.label)
    new = rules.change(view.text, operator, searches, name + b"=", tally, PATH_ENTITY)
    edits.append(Edit(at, at + len(value), view.escape(new or b"")))
    return True


def _field(
    raw: bytes, at: int, name: bytes, searches: Sequence[Search], rules: Rules, tally: Tally
) -> list[Edit]:
    if not searches:
        return []
    view = percent_view(raw, plus=True)
    found, is_null = rules.edits(view.text, searches, name + b"=", tally)
    if is_null:
        found = [Edit(0, len(view.text), b"")]
    return view.edits(found, at)


def _masked(data: bytes, view: View | None, rules: Rules, tally: Tally) -> bytes:
    text = data if view is None else view.text
    searches = rules.finder.look(text)
    if not searches:
        return data
    edits, is_null = rules.edits(text, searches, b"", tally)
    if is_null:
        return b""
    if not edits:
        return data
    return apply_edits(data, edits if view is None else view.edits(edits, 0))
