"""Whether a WHERE restricts anything, and what a literal says."""

from __future__ import annotations

from typing import Any

_FALSE = ("false", "off", "no", "0")


def restricts(node: Any) -> bool:
    """Whether a condition reads a column and no arm of it is always true.

    `true`, `1 = 1`, `id = id`, `x = 1 OR true` and `random() < 2` restrict nothing. What is true for other
    reasons (`id IS NULL OR id IS NOT NULL`) is not seen.
    """
    kind = node.WhichOneof("node")
    if kind == "bool_expr":
        args = node.bool_expr.args
        if node.bool_expr.boolop == 1:  # AND: one restricting arm is enough
            return any(restricts(arg) for arg in args)
        if node.bool_expr.boolop == 2:  # OR: every arm must restrict
            return all(restricts(arg) for arg in args)
        return any(_reads_column(arg) for arg in args)
    if kind == "a_expr" and _same_sides(node.a_expr):
        return False
    return kind == "current_of_expr" or (kind is not None and _reads_column(node))


def _same_sides(expression: Any) -> bool:
    if not (expression.HasField("lexpr") and expression.HasField("rexpr")):
        return False
    left, right = expression.lexpr, expression.rexpr
    if left.WhichOneof("node") != "column_ref" or right.WhichOneof("node") != "column_ref":
        return False
    names = [[field.string.sval for field in side.column_ref.fields] for side in (left, right)]
    return names[0][-1:] == names[1][-1:] and (
        len(names[0]) == 1 or len(names[1]) == 1 or names[0] == names[1]
    )


def _reads_column(node: Any) -> bool:
    if node.DESCRIPTOR.name == "ColumnRef":
        return True
    for field, value in node.ListFields():
        if field.message_type is None:
            continue
        parts = (value,) if hasattr(value, "ListFields") else value
        if any(_reads_column(part) for part in parts):
            return True
    return False


def literal_text(node: Any) -> str | None:
    """A constant as text; None for anything else. Casts of constants count, for `'x'::text` is one."""
    kind = node.WhichOneof("node")
    if kind == "type_cast":
        return literal_text(node.type_cast.arg)
    if kind == "string":
        return str(node.string.sval)
    if kind == "integer":
        return str(node.integer.ival)
    if kind == "boolean":
        return "true" if node.boolean.boolval else "false"
    if kind != "a_const":
        return None
    value = node.a_const.WhichOneof("val")
    if value == "sval":
        return str(node.a_const.sval.sval)
    if value == "ival":
        return str(node.a_const.ival.ival)
    if value == "boolval":
        return "true" if node.a_const.boolval.boolval else "false"
    return str(node.a_const.fval.fval) if value == "fval" else None


def may_be_on(options: Any, name: str) -> bool:
    """Whether an option such as EXPLAIN's ANALYZE may be on: it stands there and no literal turns it off."""
    for option in options:
        element = option.def_elem
        if element.defname.lower() != name:
            continue
        if not element.HasField("arg") or (literal_text(element.arg) or "").lower() not in _FALSE:
            return True
    return False
