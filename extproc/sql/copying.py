"""What a COPY statement says: where to, which rows, in which form."""

from __future__ import annotations

from typing import Any

import postgast

from extproc.domain.statement import CopyFacts
from extproc.sql.conditions import literal_text
from extproc.sql.names import relation_parts, strings

_OPEN, _CLOSE = "ASCII_40", "ASCII_41"


def copy_facts(node: Any, text: str) -> CopyFacts:
    """Of a CopyStmt and the text it was parsed from, without comments."""
    endpoint = "program" if node.is_program else "file" if node.filename else "client"
    is_table = node.HasField("relation")
    options: dict[str, str | tuple[str, ...] | None] = {}
    readable = True
    for option in node.options:
        element = option.def_elem
        name = element.defname.lower()
        readable = readable and name not in options
        kind = element.arg.WhichOneof("node") if element.HasField("arg") else None
        if kind == "list":
            options[name] = tuple(strings(element.arg.list.items))
        elif kind == "a_star":
            options[name] = "*"
        elif kind is None:
            options[name] = None
        else:
            value = literal_text(element.arg)
            readable = readable and value is not None
            options[name] = value
    source = ""
    if not node.is_from:
        source = _whole_table(node) if is_table else _query(text)
    return CopyFacts(
        direction="in" if node.is_from else "out",
        endpoint=endpoint,  # type: ignore[arg-type]
        is_table=is_table,
        source=source,
        options=tuple(options.items()),
        is_readable=readable,
    )


def _whole_table(node: Any) -> str:
    columns = ", ".join(_quoted(name) for name in strings(node.attlist)) or "*"
    return f"SELECT {columns} FROM {'.'.join(map(_quoted, relation_parts(node.relation)))}"  # noqa: S608


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _query(text: str) -> str:
    """What stands between the first parenthesis and the one that closes it: COPY has none before its query."""
    raw = text.encode()
    depth = start = 0
    for token in postgast.scan(text).tokens:
        name = _TOKEN.Name(token.token)
        if name == _OPEN:
            depth += 1
            if depth == 1:
                start = token.end
        elif name == _CLOSE:
            depth -= 1
            if depth == 0:
                return raw[start : token.start].decode()
    return ""


_TOKEN = postgast.pg_query_pb2.Token
