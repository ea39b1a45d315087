"""`cel-python`'s parse tree as our syntax, with `has(e.f)` rewritten in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import lark
from celpy.evaluation import celbytes, celstr

from extproc.policy.engine import Mistake
from extproc.policy.strict import HAS, ITEMS
from extproc.policy.syntax import Build, Call, Comprehension, Const, Expr, Ident, Select

_BINARY = {
    "relation_lt": "_<_",
    "relation_le": "_<=_",
    "relation_gt": "_>_",
    "relation_ge": "_>=_",
    "relation_eq": "_==_",
    "relation_ne": "_!=_",
    "relation_in": "@in",
    "addition_add": "_+_",
    "addition_sub": "_-_",
    "multiplication_mul": "_*_",
    "multiplication_div": "_/_",
    "multiplication_mod": "_%_",
}
_LOGIC = {"conditionalor": "_||_", "conditionaland": "_&&_"}
_MACROS = frozenset({"exists", "all", "exists_one", "filter", "map"})


class Converter:
    """Converts one tree; `places` keeps line and column by the identity of each node it made."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._nodes: list[Expr] = []
        self.places: dict[int, tuple[int, int]] = {}
        self.mistakes: list[Mistake] = []

    def expression(self, tree: lark.Tree[Any]) -> Expr:
        """Raises RecursionError for a tree that is nested too deeply."""
        parts = tree.children
        name = str(tree.data)
        if name == "expr" and len(parts) == 3:
            return self._made(tree, Call("_?_:_", tuple(self.expression(part) for part in parts)))
        if name in _LOGIC and len(parts) == 2:
            return self._made(tree, Call(_LOGIC[name], tuple(self.expression(part) for part in parts)))
        if name in ("relation", "addition", "multiplication") and len(parts) == 2:
            operator, right = parts
            left = operator.children[0]
            function = _BINARY[str(operator.data)]
            return self._made(tree, Call(function, (self.expression(left), self.expression(right))))
        if name == "unary" and len(parts) == 2:
            function = "!_" if parts[0].data == "unary_not" else "-_"
            return self._made(tree, Call(function, (self.expression(parts[1]),)))
        special = getattr(self, f"_{name}", None)
        if special is not None:
            found: Expr = special(tree)
            return found
        return self.expression(parts[0])

    def _made(self, tree: lark.Tree[Any], node: Expr) -> Expr:
        self._nodes.append(node)  # keeps the identity alive
        self.places[id(node)] = (tree.meta.line, tree.meta.column)
        return node

    def _ident(self, tree: lark.Tree[Any]) -> Expr:
        return self._made(tree, Ident(str(tree.children[0])))

    def _dot_ident(self, tree: lark.Tree[Any]) -> Expr:
        return self._refused(tree, "a leading dot")

    def _dot_ident_arg(self, tree: lark.Tree[Any]) -> Expr:
        return self._refused(tree, "a leading dot")

    def _member_object(self, tree: lark.Tree[Any]) -> Expr:
        return self._made(tree, Build("struct", ()))

    def _map_lit(self, tree: lark.Tree[Any]) -> Expr:
        return self._made(tree, Build("struct", ()))

    def _list_lit(self, tree: lark.Tree[Any]) -> Expr:
        return self._made(tree, Build("list", self._arguments(tree)))

    def _member_dot(self, tree: lark.Tree[Any]) -> Expr:
        operand = self.expression(tree.children[0])
        field = str(tree.children[1])
        if isinstance(operand, Ident) and f"{operand.name}.{field}" in self._variables:
            return self._made(tree, Ident(f"{operand.name}.{field}"))
        if isinstance(operand, Ident) and self._is_root(operand.name):
            return self._made(tree, Ident(f"{operand.name}.{field}"))
        return self._made(tree, Select(operand, field))

    def _is_root(self, name: str) -> bool:
        return any(variable.startswith(name + ".") for variable in self._variables)

    def _member_index(self, tree: lark.Tree[Any]) -> Expr:
        parts = tuple(self.expression(part) for part in tree.children)
        return self._made(tree, Call("_[_]", parts))

    def _member_dot_arg(self, tree: lark.Tree[Any]) -> Expr:
        function = str(tree.children[1])
        if function in _MACROS:
            return self._macro(tree, function)
        target = self.expression(tree.children[0])
        return self._made(tree, Call(function, self._arguments(tree), target))

    def _ident_arg(self, tree: lark.Tree[Any]) -> Expr:
        function = str(tree.children[0])
        if function == "has":
            return self._has(tree)
        return self._made(tree, Call(function, self._arguments(tree)))

    def _macro(self, tree: lark.Tree[Any], function: str) -> Expr:
        target = self.expression(tree.children[0])
        arguments = self._arguments(tree)
        tree.children[0] = _called(ITEMS, cast("lark.Tree[Any]", tree.children[0]))
        if len(arguments) != 2 or not isinstance(arguments[0], Ident):
            return self._refused(tree, f"{function} with other than a name and an expression")
        return self._made(tree, Comprehension((arguments[0].name,), target, (arguments[1],), function))

    def _has(self, tree: lark.Tree[Any]) -> Expr:
        """`has(e.f)`; the tree itself is changed to `extproc_has(e, "f")`."""
        given = _exprlist(tree)
        inner = given[0] if len(given) == 1 else None
        while isinstance(inner, lark.Tree) and inner.data != "member_dot" and len(inner.children) == 1:
            inner = inner.children[0]
        if not isinstance(inner, lark.Tree) or inner.data != "member_dot":
            return self._refused(tree, "has() of something that is no field")
        operand, field = inner.children
        within = self.expression(operand)
        if isinstance(within, Ident) and f"{within.name}.{field}" in self._variables:
            message = f"has({within.name}.{field}) asks about a whole fact; has() is for what lies inside one"
            self.mistakes.append(Mistake(tree.meta.line, tree.meta.column, message))
            return self._made(tree, Const(True))
        node = Select(within, str(field), test=True)
        text = lark.Token("STRING_LIT", f'"{field}"', line=tree.meta.line, column=tree.meta.column)
        literal = lark.Tree("literal", [text], tree.meta)
        tree.children[0] = lark.Token("IDENT", HAS, line=tree.meta.line, column=tree.meta.column)
        tree.children[1] = lark.Tree("exprlist", [_as_expr(operand), _as_expr(literal, "primary")], tree.meta)
        return self._made(tree, node)

    def _literal(self, tree: lark.Tree[Any]) -> Expr:
        return self._made(tree, _const(cast(lark.Token, tree.children[0])))

    def _arguments(self, tree: lark.Tree[Any]) -> tuple[Expr, ...]:
        return tuple(self.expression(part) for part in _exprlist(tree))

    def _refused(self, tree: lark.Tree[Any], what: str) -> Expr:
        self.mistakes.append(
            Mistake(tree.meta.line, tree.meta.column, f"{what} is not in the portable subset")
        )
        return self._made(tree, Const(None))


def _exprlist(tree: lark.Tree[Any]) -> list[lark.Tree[Any]]:
    last = tree.children[-1] if tree.children else None
    if isinstance(last, lark.Tree) and last.data == "exprlist":
        return list(last.children)
    return []


def _as_expr(tree: lark.Tree[Any], *outer: str) -> lark.Tree[Any]:
    """Wrapped in the rules that stand above a member, so that the evaluator meets what it expects."""
    for rule in (*outer, *(() if tree.data == "member" else ("member",)), *_ABOVE):
        tree = lark.Tree(rule, [tree], tree.meta)
    return tree


def _called(function: str, operand: lark.Tree[Any]) -> lark.Tree[Any]:
    """The member `function(operand)`."""
    name = lark.Token("IDENT", function, line=operand.meta.line, column=operand.meta.column)
    arguments = lark.Tree("exprlist", [_as_expr(operand)], operand.meta)
    call = lark.Tree("ident_arg", [name, arguments], operand.meta)
    return lark.Tree("member", [lark.Tree("primary", [call], operand.meta)], operand.meta)


_ABOVE = ("unary", "multiplication", "addition", "relation", "conditionaland", "conditionalor", "expr")


def _const(token: lark.Token) -> Const:
    text = str(token)
    match token.type:
        case "BOOL_LIT":
            return Const(text == "true")
        case "NULL_LIT":
            return Const(None)
        case "INT_LIT":
            return Const(int(text, 16) if "x" in text else int(text))
        case "UINT_LIT":
            return Const(int(text[:-1], 16) if "x" in text else int(text[:-1]), unsigned=True)
        case "FLOAT_LIT":
            return Const(float(text))
        case "BYTES_LIT":
            return Const(bytes(celbytes(token)))
        case _:
            return Const(str(celstr(token)))
