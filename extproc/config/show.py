"""Settings as data again (secrets stay references), and their JSON Schema for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import msgspec.inspect as shapes

from extproc.config.settings import Settings
from extproc.config.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    Address,
    StoreLocation,
    format_duration,
    format_size,
)


def to_data(settings: Settings) -> dict[str, Any]:
    """The effective settings, defaults included, in the words of the file: it loads back to the same tree."""
    data = _plain(settings, shapes.type_info(Settings))
    assert isinstance(data, dict)  # noqa: S101
    return data


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the file."""
    found = msgspec.json.schema(Settings, schema_hook=_path_schema)
    # Both are written as text and parsed by `units`; msgspec would describe their fields.
    found["$defs"]["Address"] = {"type": "string", "pattern": r"^(unix:.+|.+:[0-9]{1,5})$"}
    found["$defs"]["StoreLocation"] = {"type": "string", "pattern": "^sqlite:.+"}
    found["$defs"]["SecretRef"]["oneOf"] = [{"required": ["env"]}, {"required": ["file"]}]
    for definition in found["$defs"].values():
        for property_ in definition.get("properties", {}).values():
            property_.pop("default", None)
            # msgspec keeps the Python type's name; in the file these are text.
            if property_.get("pattern") == DURATION_PATTERN:
                property_["type"] = "string"
            elif property_.get("pattern") == SIZE_PATTERN:
                property_["type"] = ["string", "integer"]
                property_.pop("minimum", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "extproc.yaml",
        **found,
    }


def reference() -> str:
    """Every setting as a Markdown table: name, value, default, what it is for."""
    lines = ["| Setting | Value | Default | What it is for |", "|---|---|---|---|"]
    for name, shape, field in _walk("", shapes.type_info(Settings)):
        default = _default(field)
        lines.append(f"| `{name}` | {_kind(shape)} | {default} | {_description(field.type)} |")
    return "\n".join(lines) + "\n"


def _plain(value: Any, shape: shapes.Type) -> Any:
    unit = ""
    while isinstance(shape, shapes.Metadata):
        unit = (shape.extra or {}).get("unit", unit)
        shape = shape.type
    if value is None:
        return None
    if unit:
        return format_duration(value) if unit == "duration" else format_size(value)
    if isinstance(shape, shapes.UnionType):
        return _plain(value, _matching(value, shape))
    if isinstance(shape, shapes.StructType):
        kept = {f.encode_name: _plain(getattr(value, f.name), f.type) for f in shape.fields}
        return {name: one for name, one in kept.items() if one is not None}
    if isinstance(shape, shapes.VarTupleType):
        return [_plain(one, shape.item_type) for one in value]
    if isinstance(shape, shapes.DictType):
        return {name: _plain(one, shape.value_type) for name, one in value.items()}
    return str(value) if isinstance(value, Path | Address | StoreLocation) else value


def _matching(value: Any, shape: shapes.UnionType) -> shapes.Type:
    structs = [one for one in shape.types if isinstance(_bare(one), shapes.StructType)]
    rest = [one for one in shape.types if one not in structs and not isinstance(one, shapes.NoneType)]
    return structs[0] if isinstance(value, msgspec.Struct) else rest[0]


def _bare(shape: shapes.Type) -> shapes.Type:
    while isinstance(shape, shapes.Metadata):
        shape = shape.type
    return shape


def _path_schema(cls: type) -> dict[str, Any]:
    assert cls is Path  # noqa: S101
    return {"type": "string", "minLength": 1}


def _walk(name: str, shape: shapes.Type) -> list[tuple[str, shapes.Type, shapes.Field]]:
    """Leaves with their dotted names; list entries as `[]`, free names as `<name>`."""
    shape = _bare(shape)
    assert isinstance(shape, shapes.StructType)  # noqa: S101
    rows: list[tuple[str, shapes.Type, shapes.Field]] = []
    for field in shape.fields:
        full = f"{name}.{field.encode_name}" if name else field.encode_name
        inner = _bare(field.type)
        if isinstance(inner, shapes.UnionType):
            parts = [_bare(one) for one in inner.types if not isinstance(one, shapes.NoneType)]
            structs = [one for one in parts if isinstance(one, shapes.StructType)]
            inner = structs[0] if structs else parts[0]
            if len(parts) > 1:
                rows.append((full, field.type, field))
        if isinstance(inner, shapes.VarTupleType) and isinstance(_bare(inner.item_type), shapes.StructType):
            rows += _walk(f"{full}[]", inner.item_type)
        elif isinstance(inner, shapes.DictType) and isinstance(_bare(inner.value_type), shapes.StructType):
            rows += _walk(f"{full}.<name>", inner.value_type)
        elif isinstance(inner, shapes.StructType) and inner.cls.__name__ != "SecretRef":
            rows += _walk(full, inner)
        else:
            rows.append((full, field.type, field))
    return rows


def _kind(shape: shapes.Type) -> str:
    unit = ""
    while isinstance(shape, shapes.Metadata):
        unit = (shape.extra or {}).get("unit", unit)
        shape = shape.type
    if unit:
        return unit
    if isinstance(shape, shapes.LiteralType):
        return ", ".join(f"`{value}`" for value in shape.values)
    if isinstance(shape, shapes.VarTupleType):
        return f"list of {_kind(shape.item_type)}"
    if isinstance(shape, shapes.DictType):
        return f"names with {_kind(shape.value_type)}"
    if isinstance(shape, shapes.UnionType):
        return " or ".join(_kind(one) for one in shape.types if not isinstance(one, shapes.NoneType))
    if isinstance(shape, shapes.StructType):
        return "secret" if shape.cls.__name__ == "SecretRef" else "settings"
    if isinstance(shape, shapes.CustomType | shapes.DataclassType):
        return {"Path": "path", "Address": "address", "StoreLocation": "store"}[shape.cls.__name__]
    names: dict[type, str] = {
        shapes.BoolType: "true or false",
        shapes.IntType: "whole number",
        shapes.StrType: "text",
    }
    return names[type(shape)]


def _description(shape: shapes.Type) -> str:
    while isinstance(shape, shapes.Metadata):
        text = (shape.extra_json_schema or {}).get("description")
        if text:
            return str(text)
        shape = shape.type
    return ""


def _default(field: shapes.Field) -> str:
    if field.required:
        return "**required**"
    value = None if field.default is msgspec.NODEFAULT else field.default
    if value is None or isinstance(value, msgspec.Struct):
        return ""
    plain = _plain(value, field.type)
    if plain in ([], {}, ""):
        return ""
    text = ", ".join(str(one) for one in plain) if isinstance(plain, list) else str(plain)
    return f"`{text.lower() if isinstance(plain, bool) else text}`"
