"""The compiled form (ADR 18): what is compiled, and what the sources must not do because of it."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

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
