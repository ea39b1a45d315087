"""Nodes in, settings out, every mistake with its place: unknown names, wrong types, missing or odd values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as shapes

from extproc.config import document
from extproc.config.document import Mark, Place, Problem, dotted
from extproc.config.units import Address, StoreLocation, absolute, parse_duration, parse_size

_KINDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "null": "nothing",
    "str": "text",
}


class _Missing:
    """A value that could not be read; its problem is already noted."""


MISSING = _Missing()


class Reader:
    """Reads nodes as a type, collecting problems instead of stopping at the first.

    `base` is where relative paths start; `marks` remembers where each part of the tree stands.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.problems: list[Problem] = []
        self.marks: dict[Place, Mark] = {}

    def read(self, node: document.Node, shape: shapes.Type, place: Place) -> Any:
        """The value, or MISSING after noting why not."""
        self.marks.setdefault(place, node.mark)
        unit = ""
        like = ""
        while isinstance(shape, shapes.Metadata):
            unit = (shape.extra or {}).get("unit", unit)
            like = (shape.extra or {}).get("like", like)
            shape = shape.type
        if isinstance(shape, shapes.UnionType):
            return self._read_union(node, shape, place)
        if isinstance(shape, shapes.StructType):
            return self._read_struct(node, shape, place)
        if isinstance(shape, shapes.VarTupleType):
            return self._read_list(node, shape, place)
        if isinstance(shape, shapes.DictType):
            return self._read_dict(node, shape, place)
        if not isinstance(node, document.Scalar):
            return self._refuse(place, node.mark, f"expected {_expected(shape, unit)}, got {_got(node)}")
        return self._read_scalar(node, shape, place, unit, like)

    def mark_of(self, place: Place) -> Mark | None:
        """Where a part of the tree stands, or the nearest part above it that was written down."""
        while place and place not in self.marks:
            place = place[:-1]
        return self.marks.get(place)

    def _refuse(self, place: Place, mark: Mark, message: str) -> _Missing:
        self.problems.append(Problem(message, place, mark))
        return MISSING

    def _read_union(self, node: document.Node, shape: shapes.UnionType, place: Place) -> Any:
        if isinstance(node, document.Scalar) and node.kind == "null":
            if any(isinstance(kind, shapes.NoneType) for kind in shape.types):
                return None
            return self._refuse(place, node.mark, "is empty")
        kinds = [kind for kind in shape.types if not isinstance(kind, shapes.NoneType)]
        whole = [kind for kind in kinds if isinstance(_bare(kind), shapes.StructType | shapes.DictType)]
        plain = [kind for kind in kinds if kind not in whole]
        fitting = whole if isinstance(node, document.Mapping) else plain
        return self.read(node, (fitting or whole or plain)[0], place)

    def _read_struct(self, node: document.Node, shape: shapes.StructType, place: Place) -> Any:
        if not isinstance(node, document.Mapping):
            return self._refuse(place, node.mark, f"expected settings ({_names(shape)}), got {_got(node)}")
        fields = {field.encode_name: field for field in shape.fields}
        values: dict[str, Any] = {}
        good = True
        for name, (mark, child) in node.items.items():
            if name not in fields:
                self._refuse(place, mark, f'unknown setting "{name}"{did_you_mean(name, fields)}')
                good = False
                continue
            value = self.read(child, fields[name].type, (*place, name))
            good = good and value is not MISSING
            values[fields[name].name] = value
        for name, field in fields.items():
            if field.required and name not in node.items:
                self._refuse(place, node.mark, f'missing setting "{name}"')
                good = False
        return shape.cls(**values) if good else MISSING

    def _read_list(self, node: document.Node, shape: shapes.VarTupleType, place: Place) -> Any:
        if not isinstance(node, document.Sequence):
            return self._refuse(place, node.mark, f"expected a list, got {_got(node)}")
        if shape.min_length and len(node.items) < shape.min_length:
            return self._refuse(place, node.mark, f"needs at least {shape.min_length} entry")
        values = [self.read(item, shape.item_type, (*place, n)) for n, item in enumerate(node.items)]
        return MISSING if MISSING in values else tuple(values)

    def _read_dict(self, node: document.Node, shape: shapes.DictType, place: Place) -> Any:
        if not isinstance(node, document.Mapping):
            return self._refuse(place, node.mark, f"expected names with values, got {_got(node)}")
        values: dict[str, Any] = {}
        for name, (mark, child) in node.items.items():
            key = document.Scalar(name, "str", mark)
            if self.read(key, shape.key_type, (*place, name)) is MISSING:
                values[name] = MISSING
                continue
            values[name] = self.read(child, shape.value_type, (*place, name))
        return MISSING if MISSING in values.values() else values

    def _read_scalar(
        self, node: document.Scalar, shape: shapes.Type, place: Place, unit: str, like: str
    ) -> Any:
        if isinstance(shape, shapes.LiteralType):
            return self._read_choice(node, shape.values, place)
        if unit:
            return self._read_unit(node, shape, place, unit)
        try:
            if isinstance(shape, shapes.CustomType | shapes.DataclassType):
                return _read_custom(node, shape.cls, self.base)
            value = _read_plain(node, shape)
        except ValueError as error:
            return self._refuse(place, node.mark, str(error))
        trouble = _trouble(value, shape, like)
        return self._refuse(place, node.mark, trouble) if trouble else value

    def _read_unit(self, node: document.Scalar, shape: shapes.Type, place: Place, unit: str) -> Any:
        try:
            if unit == "duration":
                return parse_duration(node.text)
            size = int(node.text) if node.kind == "int" and node.text.isdigit() else parse_size(node.text)
        except ValueError as error:
            return self._refuse(place, node.mark, str(error))
        trouble = _trouble(size, shape, "")
        return self._refuse(place, node.mark, trouble) if trouble else size

    def _read_choice(self, node: document.Scalar, choices: tuple[Any, ...], place: Place) -> Any:
        # YAML 1.1 reads a bare `off` as false; where "off" is a choice, both spellings are that choice.
        text = node.text
        if node.kind == "bool" and "off" in choices and text.lower() in ("off", "false", "no"):
            return "off"
        if node.kind in ("str", "bool") and text in choices:
            return text
        known = " or ".join(str(choice) for choice in choices)
        return self._refuse(place, node.mark, f'"{text}" is not {known}{_closest(text, choices)}')


def read(node: document.Node, cls: type[msgspec.Struct], base: Path) -> tuple[Any, Reader]:
    """The settings, or MISSING when `reader.problems` says why not."""
    reader = Reader(base)
    return reader.read(node, shapes.type_info(cls), ()), reader


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean "address"?`, or what there is when nothing is close."""
    names = list(known)
    return _closest(name, names) or f"; known are {', '.join(sorted(names))}"


def _closest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.lower(), [str(one) for one in known], n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def _bare(shape: shapes.Type) -> shapes.Type:
    while isinstance(shape, shapes.Metadata):
        shape = shape.type
    return shape


def _names(shape: shapes.StructType) -> str:
    return ", ".join(field.encode_name for field in shape.fields)


def _read_custom(node: document.Scalar, cls: type, base: Path) -> Any:
    if node.kind != "str" or not node.text or "\0" in node.text:
        raise ValueError(f"expected text, got {_got(node)}")
    if cls is Path:
        return absolute(node.text, base)
    readers: Mapping[type, Any] = {Address: Address.parse, StoreLocation: StoreLocation.parse}
    return readers[cls](node.text, base)


def _read_plain(node: document.Scalar, shape: shapes.Type) -> Any:
    if isinstance(shape, shapes.StrType):
        if node.kind != "str":
            hint = "" if node.kind == "null" else f'; quote it: "{node.text}"'
            raise ValueError(f"expected text, got {_got(node)}{hint}")
        return node.text
    if isinstance(shape, shapes.BoolType):
        if node.kind != "bool":
            raise ValueError(f"expected true or false, got {_got(node)}")
        return node.text.lower() in ("true", "yes", "on")
    if isinstance(shape, shapes.IntType):
        if node.kind != "int" or not re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", node.text):
            raise ValueError(f"expected a whole number, got {_got(node)}")
        return int(node.text)
    raise AssertionError(f"no reader for {shape}")


def _trouble(value: Any, shape: shapes.Type, like: str) -> str:
    """Why a value of the right type is still wrong; empty when it is not."""
    if isinstance(shape, shapes.IntType):
        if shape.ge is not None and value < shape.ge:
            return f"must be at least {shape.ge}"
        if shape.le is not None and value > shape.le:
            return f"must be at most {shape.le}"
    if isinstance(shape, shapes.StrType):
        if shape.min_length and len(value) < shape.min_length:
            return "must not be empty"
        if shape.max_length and len(value) > shape.max_length:
            return f"must not be longer than {shape.max_length} characters"
        if shape.pattern and not re.fullmatch(shape.pattern, value):
            return f'"{value}" must look like {like}' if like else f'"{value}" must match {shape.pattern}'
    return ""


def _expected(shape: shapes.Type, unit: str) -> str:
    if unit:
        return f"a {unit}"
    names = {shapes.BoolType: "true or false", shapes.IntType: "a whole number"}
    return names.get(type(shape), "text")


def _got(node: document.Node) -> str:
    if isinstance(node, document.Mapping):
        return "settings"
    if isinstance(node, document.Sequence):
        return "a list"
    return _KINDS.get(node.kind, node.kind)


__all__ = ["MISSING", "Reader", "did_you_mean", "dotted", "read"]
