"""Expressions: what they read and call, and whether as a condition they restrict anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from extproc.sql.mysql.reader import Column, Level, Reader, fold
from extproc.sql.mysql.words import NULLARY, RESERVED, RESERVED_FUNCTIONS, TYPES, UNITS


@dataclass(frozen=True, slots=True)
class Value:
    """What an expression is."""

    reads: bool = False
    """It reads a column."""
    restricts: bool = False
    """As a condition it reads a column and has no arm that is always true."""
    column: Column | None = None
    """It is a column and nothing else."""


LITERAL = Value()
_ASSIGN, _OR, _XOR, _AND, _NOT, _COMPARE, _BITS, _UNARY, _CONCAT = 1, 2, 3, 4, 5, 7, 8, 14, 15
_SIGNS = {
    ":=": _ASSIGN,
    "||": _OR,
    "&&": _AND,
    "|": 8,
    "&": 9,
    "<<": 10,
    ">>": 10,
    "+": 11,
    "-": 11,
    "*": 12,
    "/": 12,
    "%": 12,
    "^": 13,
    "->": 16,
    "->>": 16,
    **dict.fromkeys(("=", "<=>", ">=", ">", "<=", "<", "<>", "!="), _COMPARE),
}
_WORDS = {
    "OR": _OR,
    "XOR": _XOR,
    "AND": _AND,
    "DIV": 12,
    "MOD": 12,
    "COLLATE": 16,
    **dict.fromkeys(("IS", "LIKE", "REGEXP", "RLIKE", "IN", "BETWEEN", "SOUNDS", "MEMBER", "NOT"), _COMPARE),
}
_LOWEST = 0


def expression(r: Reader, scope: Level, lowest: int = _LOWEST) -> Value:
    """One expression. Its columns count as used, until the caller says that a bare one is a mere result."""
    r.enter()
    left = _prefix(r, scope)
    while True:
        token = r.peek()
        strength = _WORDS.get(token.word, -1) if token.word else _SIGNS.get(token.value, -1)
        if token.kind not in ("word", "sign") or strength < 0:
            break
        if token.value == "||" and "PIPES_AS_CONCAT" in r.session.modes:
            strength = _CONCAT
        if strength <= lowest or (token.word == "NOT" and not _negates(r)):
            break
        r.next()
        left = _infix(r, scope, left, token.word or token.value, strength)
    r.leave()
    return left


def condition(r: Reader, scope: Level) -> bool:
    """A WHERE or a HAVING: whether it restricts."""
    return expression(r, scope).restricts


def expressions(r: Reader, scope: Level) -> Value:
    """One or more, with commas."""
    reads = expression(r, scope).reads
    while r.sign(","):
        reads |= expression(r, scope).reads
    return Value(reads, reads)


# ---------------------------------------------------------------------- between two operands


def _negates(r: Reader) -> bool:
    return r.peek(1).is_word("LIKE", "REGEXP", "RLIKE", "IN", "BETWEEN")


def _infix(r: Reader, scope: Level, left: Value, operator: str, strength: int) -> Value:
    if operator == "NOT":
        operator = r.next().word
    special = _SPECIAL.get(operator)
    if special is not None:
        return special(r, scope, left)
    if strength == _COMPARE and operator in _QUANTIFIED and r.word("ALL", "ANY", "SOME"):
        right = _brackets(r, scope)
    else:
        r.keeps = r.keeps or operator == ":="
        right = expression(r, scope, strength - 1 if operator == ":=" else strength)
    reads = left.reads or right.reads
    if operator in ("AND", "&&"):
        return Value(reads, left.restricts or right.restricts)
    if operator in ("OR", "XOR") or (operator == "||" and strength == _OR):
        return Value(reads, left.restricts and right.restricts)
    if strength == _COMPARE:
        return Value(reads, reads and not _same(left, right))
    return Value(reads, reads)


_QUANTIFIED = frozenset({"=", "<=>", ">=", ">", "<=", "<", "<>", "!="})


def _same(left: Value, right: Value) -> bool:
    """Both sides are one column, such as `id = id` or `t.id = id`."""
    if left.column is None or right.column is None:
        return False
    one, other = left.column.parts, right.column.parts
    return one[-1] == other[-1] and (len(one) == 1 or len(other) == 1 or one == other)


def _is(r: Reader, scope: Level, left: Value) -> Value:
    r.word("NOT")
    r.need_word("NULL", "TRUE", "FALSE", "UNKNOWN", "JSON")
    return Value(left.reads, left.reads)


def _like(r: Reader, scope: Level, left: Value) -> Value:
    right = expression(r, scope, _COMPARE)
    if r.word("ESCAPE"):
        expression(r, scope, _UNARY)
    reads = left.reads or right.reads
    return Value(reads, reads and not _same(left, right))


def _sounds(r: Reader, scope: Level, left: Value) -> Value:
    r.need_word("LIKE")
    return _like(r, scope, left)


def _in(r: Reader, scope: Level, left: Value) -> Value:
    """A list, a subquery, or the operand of POSITION(x IN y)."""
    right = _brackets(r, scope) if r.peek().is_sign("(") else expression(r, scope, _COMPARE)
    reads = left.reads or right.reads
    return Value(reads, reads and not _same(left, right))


def _between(r: Reader, scope: Level, left: Value) -> Value:
    low = expression(r, scope, _COMPARE)
    r.need_word("AND")
    high = expression(r, scope, _COMPARE)
    reads = left.reads or low.reads or high.reads
    return Value(reads, reads and not (_same(left, low) and _same(left, high)))


def _member(r: Reader, scope: Level, left: Value) -> Value:
    r.word("OF")
    right = _brackets(r, scope)
    return Value(left.reads or right.reads, left.reads or right.reads)


def _collate(r: Reader, scope: Level, left: Value) -> Value:
    if r.peek().kind == "string":
        r.string()
    elif not r.word("BINARY"):
        r.name()
    return Value(left.reads, left.reads)


_SPECIAL: dict[str, Callable[[Reader, Level, Value], Value]] = {
    "IS": _is,
    "LIKE": _like,
    "REGEXP": _like,
    "RLIKE": _like,
    "SOUNDS": _sounds,
    "IN": _in,
    "BETWEEN": _between,
    "MEMBER": _member,
    "COLLATE": _collate,
}

# ---------------------------------------------------------------------- one operand


def _prefix(r: Reader, scope: Level) -> Value:
    token = r.peek()
    if token.kind == "string":
        r.string()
        return LITERAL
    if token.kind in ("number", "bits", "param", "variable"):
        r.next()
        return LITERAL
    if token.kind == "sign":
        return _sign(r, scope, token.value)
    if token.word in RESERVED and token.word not in RESERVED_FUNCTIONS:
        return _reserved(r, scope, token.word)
    return _named(r, scope)


def _sign(r: Reader, scope: Level, sign: str) -> Value:
    if sign == "(":
        return _brackets(r, scope)
    r.next()
    if sign == "@@":
        return _system_variable(r)
    if sign not in ("-", "+", "~", "!"):
        r.fail()
    value = expression(r, scope, _UNARY)
    return Value(value.reads, value.reads)


def _system_variable(r: Reader) -> Value:
    parts = [r.next()]
    while len(parts) < 3 and r.sign("."):
        parts.append(r.next())
    if any(part.kind not in ("word", "name") for part in parts):
        r.fail()
    return LITERAL


def _reserved(r: Reader, scope: Level, word: str) -> Value:
    r.next()
    if word in ("NULL", "TRUE", "FALSE"):
        return LITERAL
    if word == "NOT":
        value = expression(r, scope, _NOT)
        return Value(value.reads, value.reads)
    if word == "CASE":
        return _case(r, scope)
    if word == "EXISTS":
        return _brackets(r, scope)
    if word == "BINARY":
        value = expression(r, scope, _UNARY)
        return Value(value.reads, value.reads)
    return _literal_or_fail(r)


def _literal_or_fail(r: Reader) -> Value:
    r.fail()
    return LITERAL


def _case(r: Reader, scope: Level) -> Value:
    reads = False
    if not r.peek().is_word("WHEN"):
        reads |= expression(r, scope).reads
    while r.word("WHEN"):
        reads |= expression(r, scope).reads
        r.need_word("THEN")
        reads |= expression(r, scope).reads
    if r.word("ELSE"):
        reads |= expression(r, scope).reads
    r.need_word("END")
    return Value(reads, reads)


def _brackets(r: Reader, scope: Level) -> Value:
    """A subquery, a row, or an expression in brackets."""
    from_column = len(r.pending)
    r.need_sign("(")
    r.enter()
    if starts_query(r):
        r.queries.subquery(r, scope)
        reads = len(r.pending) > from_column
        value = Value(reads, reads)
    else:
        value = expression(r, scope)
        if r.peek().is_sign(","):
            r.next()
            rest = expressions(r, scope)
            value = Value(value.reads or rest.reads, value.reads or rest.reads)
        elif r.peek().is_word("UNION", "EXCEPT", "INTERSECT", "ORDER", "LIMIT"):
            r.queries.tail(r, scope)  # ((SELECT …) UNION …)
    r.leave()
    r.need_sign(")")
    return value


def starts_query(r: Reader) -> bool:
    """Whether a query stands here. `VALUES (a)` may be a function as well, and then reads the same."""
    token, follows = r.peek(), r.peek(1)
    return token.is_word("SELECT", "WITH", "TABLE") or (
        token.is_word("VALUES") and (follows.is_word("ROW") or follows.is_sign("("))
    )


def _named(r: Reader, scope: Level) -> Value:
    """A column, a call, or a literal that begins with a word."""
    word = r.peek().word
    if word in ("DATE", "TIME", "TIMESTAMP") and r.peek(1).kind == "string":
        r.next()
        r.string()
        return LITERAL
    if word == "INTERVAL":
        return _interval(r, scope)
    if word == "DEFAULT" and not r.peek(1).is_sign("("):
        r.next()
        return LITERAL
    if r.words("NEXT VALUE FOR") or r.words("PREVIOUS VALUE FOR"):
        r.effects.add("write")
        r.tables_written.add(r.table_name())
        return LITERAL
    if word in RESERVED_FUNCTIONS:
        return _reserved_function(r, scope, word)
    parts = r.dotted(3)
    if not r.peek().is_sign("("):
        return Value(True, True, r.refer(scope, parts))
    if len(parts) > 1:
        r.stored(parts)
    else:
        r.call(parts[0], bracket=r.peek())
    return _call(r, scope, fold(parts[-1]))


def _interval(r: Reader, scope: Level) -> Value:
    """`INTERVAL 1 DAY`, `INTERVAL (a + b) DAY`, or the function of that name."""
    r.next()
    value = arguments(r, scope, "interval") if r.peek().is_sign("(") else Value()
    if value.reads or r.peek(-1).is_sign(")"):
        r.word(*UNITS)
        return Value(value.reads, value.reads)
    value = expression(r, scope)
    r.need_word(*UNITS)
    return Value(value.reads, value.reads)


def _reserved_function(r: Reader, scope: Level, word: str) -> Value:
    token = r.next()
    r.call(token.value)
    if not r.peek().is_sign("("):
        return LITERAL if word in NULLARY else _literal_or_fail(r)
    value = _call(r, scope, fold(word))
    if word != "MATCH":
        return value
    r.need_word("AGAINST")
    r.need_sign("(")
    against = expression(r, scope, _COMPARE)
    while r.word("IN", "NATURAL", "LANGUAGE", "MODE", "BOOLEAN", "WITH", "QUERY", "EXPANSION"):
        pass
    r.need_sign(")")
    return Value(value.reads or against.reads, value.reads or against.reads)


def _call(r: Reader, scope: Level, name: str) -> Value:
    """The arguments of a call, and the window it looks through."""
    reads = arguments(r, scope, name).reads
    if r.words("WITHIN GROUP"):
        r.need_sign("(")
        order_by(r, scope)
        r.need_sign(")")
    if r.word("RESPECT", "IGNORE"):
        r.need_word("NULLS")
    if r.word("OVER"):
        if r.peek().is_sign("("):
            window(r, scope)
        else:
            r.name()
    return Value(reads, reads)


_UNIT_FIRST = frozenset({"extract", "timestampadd", "timestampdiff", "get_format"})
_UNITS = UNITS | {"DATE", "TIME", "DATETIME", "TIMESTAMP"}


def arguments(r: Reader, scope: Level, name: str) -> Value:
    """What stands in the brackets of a call: any function's own words between its arguments are taken for commas."""
    r.need_sign("(")
    r.enter()
    reads = False
    if name in _UNIT_FIRST and r.word(*_UNITS):
        _between_arguments(r, scope, name)
    elif not r.sign("*"):
        r.word("DISTINCT", "ALL", "BOTH", "LEADING", "TRAILING")
    r.word("FROM")
    while not r.peek().is_sign(")"):
        reads |= expression(r, scope).reads
        if not _between_arguments(r, scope, name):
            break
    r.need_sign(")")
    r.leave()
    return Value(reads, reads)


def _between_arguments(r: Reader, scope: Level, name: str) -> bool:
    """Whether another argument follows."""
    if r.sign(","):
        if name == "convert":
            _type(r)
            return False
        return True
    if r.word("FROM", "FOR"):
        return True
    if r.word("AS"):
        _type(r)
    elif r.word("USING") and not r.word("BINARY"):
        r.name()
    if r.peek().is_word("ORDER"):
        order_by(r, scope)
    if r.word("SEPARATOR"):
        r.string()
    if r.word("LIMIT"):
        expressions(r, scope)
    return False


def _type(r: Reader) -> None:
    """The type that CAST and CONVERT make."""
    r.need_word(*TYPES)
    while not r.peek().is_sign(")"):
        if r.sign("("):
            while r.peek().kind == "number":
                r.next()
                r.sign(",")
            r.need_sign(")")
        elif r.word("COLLATE"):
            r.name()
        elif r.word("CHARSET") or r.words("CHARACTER SET"):
            if not r.word("BINARY"):
                r.name()
        else:
            r.need_word(*TYPES)


def order_by(r: Reader, scope: Level) -> bool:
    """`ORDER BY a, b DESC`, or GROUP BY; whether it names items of the result list by their place."""
    r.need_word("ORDER", "GROUP")
    r.need_word("BY")
    places = False
    while True:
        brackets = 0
        while r.peek(brackets).is_sign("("):
            brackets += 1
        places |= r.peek(brackets).kind in ("number", "param")
        expression(r, scope)
        r.word("ASC", "DESC")
        if not r.sign(","):
            return places


_FRAME = frozenset(
    {"ROWS", "RANGE", "GROUPS", "BETWEEN", "UNBOUNDED", "PRECEDING", "FOLLOWING", "CURRENT", "ROW", "AND"}
)


def window(r: Reader, scope: Level) -> None:
    """`(w PARTITION BY a ORDER BY b ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)`."""
    r.need_sign("(")
    if r.is_name() and r.peek().word not in _FRAME:
        r.name()
    if r.words("PARTITION BY"):
        expressions(r, scope)
    if r.peek().is_word("ORDER"):
        order_by(r, scope)
    while not r.sign(")"):
        if r.peek().kind in ("number", "param"):
            r.next()
        elif r.peek().is_word("INTERVAL"):
            _interval(r, scope)
        else:
            r.need_word(*_FRAME)
