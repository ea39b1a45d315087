"""Plain conditions: those that Python judges by itself, word for word as CEL would (ADR 15).

A comparison of texts, whole numbers and truth values, a look into a list or map, and what `&&`, `||`, `!` and `?:`
make of them mean the same in both languages as long as nothing goes wrong. So they become one Python function for
all conditions of a stage, and wherever that raises, the CEL engine judges everything anew: it alone knows which
errors another operand absorbs.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from extproc.policy.engine import Batch, Condition, Engine, Judgement
from extproc.policy.facts import FACTS
from extproc.policy.syntax import Build, Call, Const, Expr, Ident, Select, reads

STRING, INT, BOOL = "string", "int", "bool"
STRINGS: Final = "list<string>"
MAPS: Final = {"map<string,string>": STRING, "map<string,list<string>>": STRINGS, "map<string,int>": INT}
"""What a map holds, by its type."""

Typed = tuple[ast.expr, str]
"""A Python expression and the CEL type of its value."""


class PlainBatch:
    """Conditions of a stage: the plain ones as one Python function, the others as one call to the engine."""

    __slots__ = ("_engine", "_order", "_others", "_plain", "_read_by_others")

    def __init__(self, engine: Engine, conditions: Sequence[Condition]) -> None:
        made = [translate(condition.syntax) for condition in conditions]
        others = [condition for condition, plain in zip(conditions, made, strict=True) if plain is None]
        self._engine: Batch = engine.batch(conditions)
        """Judges everything when a plain condition cannot be judged."""
        self._others: Batch | None = engine.batch(others) if others else None
        self._read_by_others = tuple({name for other in others for name in reads(other.syntax, FACTS)})
        self._plain = _function([plain for plain in made if plain is not None])
        count = len(conditions) - len(others)
        at_plain, at_other = iter(range(count)), iter(range(count, len(conditions)))
        self._order = [next(at_other if plain is None else at_plain) for plain in made]

    def judge(self, data: dict[str, object]) -> Sequence[Judgement]:
        """One judgement per condition, in order."""
        try:
            found = self._plain(data)
        except Exception:
            return self._engine.judge(data)
        if self._others is None:
            return found
        read = {name: data[name] for name in self._read_by_others if name in data}
        both = [*found, *self._others.judge(read)]
        return [both[index] for index in self._order]


def translate(condition: Expr) -> ast.expr | None:
    """A checked condition as a Python expression over variables named like its facts; None if it is not plain."""
    try:
        found = _plain(condition)
    except RecursionError:
        return None
    return found[0] if found is not None and found[1] == BOOL else None


def _function(plain: Sequence[ast.expr]) -> Callable[[dict[str, object]], list[Judgement]]:
    """`lambda data: [condition, …]`, with every fact checked to be of its type before anything is judged."""
    names = {node.id for each in plain for node in ast.walk(each) if isinstance(node, ast.Name)}
    facts = sorted(name for name in names if name in FACTS)
    body: list[ast.stmt] = [
        ast.Assign(
            [ast.Name(fact, ast.Store())],
            ast.Call(
                ast.Name(GUARDS[FACTS[fact].type].__name__, ast.Load()),
                [ast.Subscript(ast.Name("data", ast.Load()), ast.Constant(fact), ast.Load())],
                [],
            ),
        )
        for fact in facts
    ]
    body.append(ast.Return(ast.List(list(plain), ast.Load())))
    arguments = ast.arguments([], [ast.arg("data")], None, [], [], None, [])
    module = ast.Module([ast.FunctionDef("judge", arguments, body, [])], [])
    scope: dict[str, Any] = {guard.__name__: guard for guard in GUARDS.values()}
    exec(compile(ast.fix_missing_locations(module), "<conditions>", "exec"), scope)  # noqa: S102  (a tree of ours)
    judge: Callable[[dict[str, object]], list[Judgement]] = scope["judge"]
    return judge


# ---------------------------------------------------------------------- facts are what their type says


def _text(value: Any) -> Any:
    """Raises unless CEL can hold this text (Unicode without lone surrogates)."""
    if type(value) is not str:
        raise TypeError
    text: str = value
    if not text.isascii():
        text.encode()
    return value


def _whole(value: Any) -> Any:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise TypeError
    return value


def _truth(value: Any) -> Any:
    if type(value) is not bool:
        raise TypeError
    return value


def _texts(value: Any) -> Any:
    if type(value) is not list:
        raise TypeError
    _text("".join(value))  # which raises where a part is no text
    return value


def _map_of_text(value: Any) -> Any:
    if type(value) is not dict:
        raise TypeError
    texts: dict[Any, Any] = value
    for name, text in texts.items():
        _text(name)
        _text(text)
    return value


def _map_of_texts(value: Any) -> Any:
    _texts([*value])
    for texts in value.values():
        _texts(texts)
    return value


def _map_of_whole(value: Any) -> Any:
    _texts([*value])
    for number in value.values():
        _whole(number)
    return value


GUARDS: Final[Mapping[str, Callable[[Any], Any]]] = {
    STRING: _text, INT: _whole, BOOL: _truth, STRINGS: _texts, "map<string,string>": _map_of_text,
    "map<string,list<string>>": _map_of_texts, "map<string,int>": _map_of_whole,
}  # fmt: skip
"""Gives the fact back if it is what its CEL type says, and raises otherwise. Facts of other types are not plain."""


# ---------------------------------------------------------------------- translation


def _plain(node: Expr) -> Typed | None:
    match node:
        case Const(value=bool() as value):
            return ast.Constant(value), BOOL
        case Const(value=int() as value, unsigned=False):
            return ast.Constant(value), INT
        case Const(value=str() as value):
            return ast.Constant(value), STRING
        case Ident(name=name) if name in FACTS and FACTS[name].type in GUARDS:
            return ast.Name(name, ast.Load()), FACTS[name].type
        case Build(kind="list", parts=parts):
            return _list(_all(parts))
        case Select(operand=operand, field=field, test=test):
            return (_contains if test else _item)(_plain(operand), (ast.Constant(field), STRING))
        case Call(function="_[_]", args=(operand, key), target=None):
            return _item(_plain(operand), _plain(key))
        case Call(function="@in", args=(part, whole), target=None):
            return _contains(_plain(whole), _plain(part))
        case Call(function=function, args=args, target=target):
            given = _all(args if target is None else (target, *args))
            make = OPERATIONS.get((function, target is not None, *(type_ for _, type_ in given or ())))
            return make(*(part for part, _ in given)) if make is not None and given is not None else None
    return None


def _all(nodes: Sequence[Expr]) -> list[Typed] | None:
    found = [_plain(node) for node in nodes]
    return None if None in found else [part for part in found if part is not None]


def _list(parts: list[Typed] | None) -> Typed | None:
    if parts is None or any(type_ != STRING for _, type_ in parts):
        return None
    return ast.List([part for part, _ in parts], ast.Load()), STRINGS


def _item(whole: Typed | None, key: Typed | None) -> Typed | None:
    if whole is None or key is None or key[1] != STRING or whole[1] not in MAPS:
        return None  # the index of a list means something else in Python where it is negative
    return ast.Subscript(whole[0], key[0], ast.Load()), MAPS[whole[1]]


def _contains(whole: Typed | None, part: Typed | None) -> Typed | None:
    if whole is None or part is None or part[1] != STRING or not (whole[1] == STRINGS or whole[1] in MAPS):
        return None
    return ast.Compare(part[0], [ast.In()], [whole[0]]), BOOL


def _compare(operator: type[ast.cmpop]) -> Callable[..., Typed]:
    return lambda left, right: (ast.Compare(left, [operator()], [right]), BOOL)


def _join(operator: type[ast.boolop]) -> Callable[..., Typed]:
    return lambda left, right: (ast.BoolOp(operator(), [left, right]), BOOL)


def _method(name: str) -> Callable[..., Typed]:
    return lambda text, part: (ast.Call(ast.Attribute(text, name, ast.Load()), [part], []), BOOL)


def _choose(type_: str) -> Callable[..., Typed]:
    return lambda asked, yes, no: (ast.IfExp(asked, yes, no), type_)


def _size(value: ast.expr) -> Typed:
    # a text's size counts code points in both languages
    return ast.Call(ast.Name("len", ast.Load()), [value], []), INT


OPERATIONS: Final[Mapping[tuple[object, ...], Callable[..., Typed]]] = {
    ("_&&_", False, BOOL, BOOL): _join(ast.And),
    ("_||_", False, BOOL, BOOL): _join(ast.Or),
    ("!_", False, BOOL): lambda value: (ast.UnaryOp(ast.Not(), value), BOOL),
    **{("_?_:_", False, BOOL, type_, type_): _choose(type_) for type_ in (STRING, INT, BOOL, STRINGS)},
    **{("_==_", False, type_, type_): _compare(ast.Eq) for type_ in (STRING, INT, BOOL, STRINGS)},
    **{("_!=_", False, type_, type_): _compare(ast.NotEq) for type_ in (STRING, INT, BOOL, STRINGS)},
    ("_<_", False, INT, INT): _compare(ast.Lt),
    ("_<=_", False, INT, INT): _compare(ast.LtE),
    ("_>_", False, INT, INT): _compare(ast.Gt),
    ("_>=_", False, INT, INT): _compare(ast.GtE),
    ("startsWith", True, STRING, STRING): _method("startswith"),
    ("endsWith", True, STRING, STRING): _method("endswith"),
    ("contains", True, STRING, STRING): lambda text, part: (ast.Compare(part, [ast.In()], [text]), BOOL),
    **{("size", bound, type_): _size for bound in (True, False) for type_ in (STRING, STRINGS, *MAPS)},
}
"""By CEL's name, whether it is called on its first operand, and the operands' types."""
