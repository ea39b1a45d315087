"""The compiled form (ADR 18): what is compiled, and what the sources must not do because of it."""

from __future__ import annotations

import ast
import importlib
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest

from extproc.app.form import is_compiled
from extproc.domain.demand import HoldDemand
from extproc.domain.hold import HeldRequest, HoldAsk
from extproc.domain.terms import GrantTerms

ROOT = Path(__file__).parents[1]
MODULES: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
    "targets"
]["wheel"]["hooks"]["custom"]["modules"]


@pytest.mark.parametrize("module", MODULES)
def test_no_function_gives_one_name_to_exceptions_of_different_types(module: str):
    """mypyc takes the first type for both: the second `except` would end in a TypeError."""
    found = []
    for function in ast.walk(ast.parse((ROOT / module).read_text())):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        types: dict[str, set[str]] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and node.name is not None and node.type is not None:
                types.setdefault(node.name, set()).add(ast.unparse(node.type))
        found += [(function.name, name, kinds) for name, kinds in types.items() if len(kinds) > 1]
    assert found == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_waits_or_yields_while_an_exception_is_handled(module: str):
    """mypyc leaves the exception set for whoever runs meanwhile: it becomes the context of theirs."""
    found = []
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        handling: list[ast.AST] = []
        if isinstance(node, ast.ExceptHandler):
            handling = list(node.body)
        elif isinstance(node, ast.Try):
            handling = list(node.finalbody)
        elif isinstance(node, ast.AsyncWith):
            found.append(node.lineno)
        inner = [each for part in handling for each in ast.walk(part)]
        found += [each.lineno for each in inner if isinstance(each, ast.Await | ast.Yield | ast.YieldFrom)]
    assert found == []


def classes_within(kind: object) -> set[type]:
    """Every class of ours that a stored value of this type is read back into."""
    found: set[type] = set()
    waiting = [kind]
    while waiting:
        this = waiting.pop()
        waiting += get_args(this)
        if isinstance(this, type) and this.__module__.startswith("extproc.") and this not in found:
            found.add(this)
            if is_dataclass(this) or issubclass(this, msgspec.Struct):
                waiting += get_type_hints(this).values()
    return found


def read_back() -> Iterator[type]:
    """The classes that some module asks msgspec to make of what was stored."""
    for path in sorted((ROOT / "extproc").rglob("*.py")):
        text = path.read_text()
        if "msgspec" not in text or "alone" in path.parts:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "msgspec.convert",
                "msgspec.json.Decoder",
            ):
                kind = node.args[-1]
                if isinstance(kind, ast.Name):
                    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                    yield getattr(importlib.import_module(module), kind.id)


def test_what_stores_hold_is_read_back_into_classes_that_are_not_compiled():
    """A compiled class keeps `type` or a bare `tuple` for most annotations: fields would come back unread."""
    kinds = set(read_back())
    assert {HeldRequest, HoldAsk, GrantTerms} <= kinds
    made = {each for kind in kinds for each in classes_within(kind)}
    assert HoldDemand in made
    assert {each for each in made if f"{each.__module__.replace('.', '/')}.py" in MODULES} == set()


def test_all_of_them_are_compiled_or_none():
    files = {
        module: str(importlib.import_module(module.removesuffix(".py").replace("/", ".")).__file__)
        for module in MODULES
    }
    assert {
        module: file.endswith(tuple(EXTENSION_SUFFIXES)) for module, file in files.items()
    } == dict.fromkeys(MODULES, is_compiled())


def test_nothing_that_reads_nested_texts_is_compiled():
    """Compiled code does not look how deep it is: where the interpreter gives up in words, the process would die.

    JSON that is masked is read without recursion, but for a document inside a string, three times at most.
    """
    nested = (
        "extproc/sql/",
        "extproc/pipeline/view_trees",
        "extproc/pipeline/mysql_views",
    )
    assert [module for module in MODULES if module.startswith(nested)] == []


def classes_compiled() -> Iterator[tuple[str, ast.ClassDef]]:
    for module in MODULES:
        for node in ast.walk(ast.parse((ROOT / module).read_text())):
            if isinstance(node, ast.ClassDef):
                yield module, node


def names_in(nodes: Iterable[ast.expr]) -> set[str]:
    return {
        ast.unparse(node.func if isinstance(node, ast.Call) else node).rpartition(".")[2] for node in nodes
    }


def test_no_class_calls_an_init_that_is_generated():
    """`super().__init__()` of a compiled class would not run what `dataclass` made for its base: no field is set."""
    generated = {
        node.name
        for _, node in classes_compiled()
        if names_in(node.decorator_list) & {"dataclass", "noun"}
        and not any(isinstance(part, ast.FunctionDef) and part.name == "__init__" for part in node.body)
    }
    assert generated
    assert [
        (module, node.name)
        for module, node in classes_compiled()
        if names_in(node.bases) & generated and "super().__init__(" in ast.unparse(node)
    ] == []


def test_no_class_gives_its_objects_a_value_that_is_worked_out():
    """mypyc leaves such an attribute unset in every object. A constant of the class is a ClassVar."""
    found = []
    for module, node in classes_compiled():
        if names_in(node.decorator_list) & {"dataclass", "noun"} or names_in(node.bases) & {
            "Enum",
            "IntEnum",
        }:
            continue
        for part in node.body:
            if isinstance(part, ast.Assign) and ast.unparse(part.targets[0]) != "__slots__":
                found += [(module, node.name, ast.unparse(part))] * (not isinstance(part.value, ast.Constant))
            elif isinstance(part, ast.AnnAssign) and part.value is not None:
                is_plain = isinstance(part.value, ast.Constant) or "ClassVar" in ast.unparse(part.annotation)
                found += [(module, node.name, ast.unparse(part))] * (not is_plain)
    assert found == []
