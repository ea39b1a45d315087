"""What is in an evidence packet, read without the code that made it: its files, tables, and the page's numbers."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from typing import Any


def files_of(data: bytes) -> dict[str, bytes]:
    """A zip's files by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def tables_of(data: bytes) -> dict[str, list[Any]]:
    """The tables of a zipped packet."""
    return tables_in(files_of(data))


def tables_in(files: Mapping[str, bytes]) -> dict[str, list[Any]]:
    """Rows by table, from the JSON lines."""
    found = {
        match[1]: data for name, data in files.items() if (match := re.fullmatch(r"tables/(.*)\.jsonl", name))
    }
    return {name: [json.loads(line) for line in data.split(b"\n") if line] for name, data in found.items()}


NOT_AS_IT_IS = r"\\u\{[0-9A-F]+\}|[0-9]+ …$"
"""A character that is named instead of shown, and a number at which a long text is cut."""


class Page(HTMLParser):
    """Numbers with their addresses, rows of tables, marks by section, and every text that is shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str, str]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.texts: list[str] = []
        self.marks: dict[str, list[str]] = {}
        self._number: list[str] | None = None
        self._cell: list[str] | None = None
        self._section = ""
        self._is_marking = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self._is_marking = "mark" in (found.get("class") or "").split()
        if tag == "data":
            self._number = [found["data-of"], found["value"], ""]
        elif tag == "h2":
            self._section = found["id"]
        elif tag == "tr":
            self.tables.setdefault(self._section, []).append([])
        elif tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag):
        if tag == "data" and self._number is not None:
            self.numbers.append(tuple(self._number))
            self._number = None
        elif tag in ("td", "th") and self._cell is not None:
            self.tables[self._section][-1].append("".join(self._cell))
            self._cell = None

    def handle_data(self, data):
        if self.tags[-1][0] != "style" and self._number is None:
            self.texts.append(re.sub(NOT_AS_IT_IS, "", data))
        if self._is_marking:
            self._is_marking = False
            self.marks.setdefault(self._section, []).append(data)
        if self._number is not None:
            self._number[2] += data
        if self._cell is not None:
            self._cell.append(data)


CONDITION = re.compile(r"([a-z_]+)(!=|\^=|=)(.*)", re.DOTALL)
TESTS: Mapping[str, Callable[[str, str], bool]] = {"=": str.__eq__, "!=": str.__ne__, "^=": str.startswith}


def recount(query: str, tables: Mapping[str, list[Any]]) -> int:
    """A number's value by its address, as docs/evidence.md tells it: not by the code that wrote the page."""
    address = re.fullmatch(r"([a-z]+)(?:\?([^#]*))?(?:#([a-z_]+))?", query)
    assert address is not None, query
    name, conditions, column = address.groups()
    asked = [CONDITION.fullmatch(one) for one in conditions.split("&")] if conditions else []
    rows = [
        row
        for row in tables[name]
        if all(one and TESTS[one[2]](cell_text(row[one[1]]), one[3]) for one in asked)
    ]
    return sum(row[column] for row in rows if type(row[column]) is int) if column else len(rows)


def cell_text(value: Any) -> str:
    """A cell as a condition sees it."""
    return "" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)


def check_numbers(files: Mapping[str, bytes]) -> int:
    """Recompute every number on the page from the tables: those with an address, those in cells, and no others.

    Gives how many have an address. Raises AssertionError.
    """
    tables = tables_in(files)
    page = Page(files["index.html"].decode())
    for query, value, shown in page.numbers:
        assert value == shown == str(recount(query, tables)), query
    for section, (titles, *rows) in page.tables.items():
        table = tables[section.removeprefix("t-")]
        assert len(rows) == min(len(table), 200)
        for row, cells in zip(table, rows, strict=False):
            for title, cell in zip(titles, cells, strict=True):
                value = row[title.replace(" ", "_")]
                if type(value) is int:
                    assert cell == str(value), (section, title)
    controls = json.loads(files["controls.json"])
    verdicts = ("not as expected", "as expected", "for review")
    for control, mark in zip(controls["controls"], page.marks["controls"], strict=True):
        met = all(recount(query, tables) == value for query, value in control["expect"])
        assert mark == verdicts[met if control["expect"] else 2], control["id"]
    # whatever else looks like a number was recorded as it stands, or is the name of a control
    manifest = json.loads(files["manifest.json"])
    del manifest["files"]
    known = set(digits(manifest, controls, tables, files["README.txt"].decode()))
    known |= {run[:3] for run in known if len(run) == 6}  # times are shown to the millisecond
    stray = set(digits(page.texts)) - known
    assert not stray, [text for text in page.texts if stray & set(digits(text))]
    return len(page.numbers)


def digits(*values: Any) -> Iterator[str]:
    """Every run of digits in the texts and numbers of a JSON value."""
    for value in values:
        if isinstance(value, dict):
            yield from digits(*value, *value.values())
        elif isinstance(value, list):
            yield from digits(*value)
        elif value is not None:
            yield from re.findall(r"[0-9]+", str(value))
