"""What each column of a view is made of, read from the rule that the server keeps for it (pg_rewrite.ev_action).

The tree says of every plain column which column of which table it is; of the others we follow what they read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

Attribute = tuple[int, int]
"""A table's OID and an attribute number; 0 is the whole row."""

_TOKEN = re.compile(r"[(){}]|(?:\\.|[^\s(){}\\])+", re.DOTALL)
"""As the server's own reader cuts it (nodes/read.c, pg_strtok)."""
_RELATION, _SUBQUERY, _JOIN, _FUNCTION, _TABLE_FUNCTION, _VALUES, _CTE, _RESULT, _GROUP = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    8,
    9,
)
"""RTEKind (parsenodes.h)."""
_NOT_READ = frozenset({"joinaliasvars", "groupexprs", "rteperminfos"})
"""Lists of everything that could be read; what is read refers to them."""
MAX_TREE = 4 << 20
"""Characters of a rule that we read."""


@dataclass(frozen=True, slots=True)
class ViewColumn:
    """`origin` where it is a plain column of a table or view; else what it `reads`."""

    origin: Attribute | None
    reads: frozenset[Attribute] = frozenset()


def view_columns(tree: str) -> dict[int, ViewColumn]:
    """The columns by number. Raises ValueError for a tree that cannot be followed."""
    if len(tree) > MAX_TREE:
        raise ValueError("the rule of a view is too long to read")
    try:
        (query,) = _parse(tree)
        return {
            int(target.fields["resno"]): _column(query, target)
            for target in _list(query, "targetList")
            if target.fields["resjunk"] == "false"
        }
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("the rule of a view cannot be read") from error


@dataclass(slots=True, eq=False)
class _Node:
    kind: str
    fields: dict[str, Any] = field(default_factory=dict)


def _parse(tree: str) -> list[Any]:
    """The server's own format (nodes/outfuncs.c): {KIND :field value …}, (lists), <> for nothing, words."""
    tokens = _TOKEN.findall(tree)
    tokens.append("")
    value, at = _value(tokens, 0)
    if tokens[at] != "":
        raise ValueError("the rule of a view has more than one tree")
    return list(value)


def _value(tokens: list[str], at: int) -> tuple[Any, int]:
    word = tokens[at]
    if word == "{":
        node = _Node(tokens[at + 1])
        at += 2
        while tokens[at] != "}":
            name = tokens[at]
            if name[:1] != ":":
                raise ValueError("the rule of a view cannot be read")
            # exactly one value: a view's own column may be called ":expr"
            value, at = _value(tokens, at + 1)
            node.fields[name[1:]] = value
            if name == ":constvalue" and tokens[at] == "[":  # the bytes of a constant behind their number
                at = tokens.index("]", at) + 1
        return node, at + 1
    if word == "(":
        items = []
        at += 1
        while tokens[at] != ")":
            item, at = _value(tokens, at)
            items.append(item)
        return items, at + 1
    if word in ("", "}", ")"):
        raise ValueError("the rule of a view cannot be read")
    return word, at + 1


def _list(node: _Node, name: str) -> list[Any]:
    value = node.fields.get(name, "<>")
    if value == "<>":
        return []
    if not isinstance(value, list):
        raise ValueError("the rule of a view cannot be read")
    return value


def _column(query: _Node, target: _Node) -> ViewColumn:
    table, attribute = int(target.fields["resorigtbl"]), int(target.fields["resorigcol"])
    if table and attribute > 0:
        return ViewColumn((table, attribute))
    reading = _Reading()
    reading.output(int(target.fields["resno"]), [query])
    return ViewColumn(None, frozenset(reading.found))


class _Reading:
    """Follows what one column is computed from. `levels` are the queries around a place, the outermost first."""

    def __init__(self) -> None:
        self.found: set[Attribute] = set()
        self._seen: set[tuple[int, int, int]] = set()

    def output(self, number: int, levels: list[_Node]) -> None:
        """What the column `number` of the innermost query is computed from; 0 is each of them."""
        query = levels[-1]
        mark = (id(query), -1, number)
        if mark in self._seen:
            return
        self._seen.add(mark)
        if query.kind != "QUERY":
            raise ValueError("the rule of a view cannot be read")
        if query.fields.get("setOperations", "<>") != "<>":  # a column of every branch
            for entry in _list(query, "rtable"):
                if int(entry.fields["rtekind"]) == _SUBQUERY:
                    self.output(number, [*levels, entry.fields["subquery"]])
            return
        targets = [t for t in _list(query, "targetList") if number in (0, int(t.fields["resno"]))]
        if not targets:
            raise ValueError("the rule of a view refers to a column that is not there")
        for target in targets:
            self.walk(target.fields["expr"], levels)

    def walk(self, value: Any, levels: list[_Node]) -> None:
        if isinstance(value, list):
            for item in value:
                self.walk(item, levels)
        elif isinstance(value, _Node):
            if value.kind == "VAR":
                above = int(value.fields["varlevelsup"])
                inside = levels[: len(levels) - above]
                if not inside:
                    raise ValueError("the rule of a view refers to a query that is not there")
                self._variable(int(value.fields["varno"]), int(value.fields["varattno"]), inside)
                return
            if value.kind == "QUERY":
                levels = [*levels, value]
            for name, inner in value.fields.items():
                if name not in _NOT_READ and isinstance(inner, list | _Node):
                    self.walk(inner, levels)

    def _variable(self, number: int, attribute: int, levels: list[_Node]) -> None:
        mark = (id(levels[-1]), number, attribute)
        if mark in self._seen:
            return
        self._seen.add(mark)
        entry = _list(levels[-1], "rtable")[number - 1]
        kind = int(entry.fields["rtekind"])
        if kind == _RELATION:
            self.found.add((int(entry.fields["relid"]), attribute))
        elif kind == _SUBQUERY:
            self.output(attribute, [*levels, entry.fields["subquery"]])
        elif kind in (_JOIN, _GROUP):
            parts = _list(entry, "joinaliasvars" if kind == _JOIN else "groupexprs")
            self.walk(parts if attribute == 0 else parts[attribute - 1], levels)
        elif kind == _CTE:
            outer = levels[: len(levels) - int(entry.fields["ctelevelsup"])]
            body = next(
                cte.fields["ctequery"]
                for cte in _list(outer[-1], "cteList")
                if cte.fields["ctename"] == entry.fields["ctename"]
            )
            self.output(attribute, [*outer, body])
        elif kind in (_FUNCTION, _TABLE_FUNCTION, _VALUES):
            self.walk([entry.fields.get(name) for name in ("functions", "tablefunc", "values_lists")], levels)
        elif kind != _RESULT:
            raise ValueError("the rule of a view has a part that is not known here")
