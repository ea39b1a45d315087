"""Masks on rows of a database: columns by name, entities by looking, types kept valid.

A value of a text type is masked as text, JSON stays JSON, and what has no masked form of its own type becomes NULL.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from extproc.domain.errors import MaskingError, PolicyError
from extproc.domain.mask import MaskSpec
from extproc.masking.arrays import ELEMENTS, map_binary, map_text
from extproc.masking.operators import MaskSecrets, Operator, build_operator, strictest
from extproc.masking.plan import REDACT, Masker

TEXT_TYPES = frozenset({19, 25, 142, 705, 1042, 1043})
"""name, text, xml, unknown, bpchar, varchar: the binary form is the text (pg_type.dat)."""
JSON, JSONB, INT8, NUMERIC, BYTEA = 114, 3802, 20, 1700, 17
FLOAT8 = 701
INT8_LITTLE, FLOAT8_LITTLE = -20, -701
"""Eight bytes, lowest first. No server's numbers for a type."""
TOO_SMALL = frozenset({16, 21, 23, 26, 700, 1082, 1083, 1114, 1184, 1186, 1266})
"""bool, int2, int4, oid, float4, dates and times: in binary they hold none of what recognizers look for."""

ValueMask = Callable[[bytes], tuple[bytes | None, str]]
"""A value to its masked form (None is NULL) and what was found in it (empty: nothing, it is as it was)."""


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """One `columns` entry. An empty part is any; so is `*`."""

    schema: str
    table: str
    column: str
    operator: Operator

    def covers(self, schema: str, table: str, column: str) -> bool:
        """Whether this real column is meant."""
        return (
            self.schema in ("", "*", schema)
            and self.table in ("", "*", table)
            and self.column in ("*", column)
        )

    def may_cover(self, name: str) -> bool:
        """Whether a name in a statement (`column`, `table.column`, `table.*`, `*`) could mean it."""
        parts = split_name(name)
        table = parts[-2] if len(parts) > 1 else "*"
        return (parts[-1] == "*" or self.column in ("*", parts[-1])) and (
            table == "*" or self.table in ("", "*", table)
        )


@dataclass(frozen=True, slots=True)
class RowMasks:
    """What is owed on the rows of a statement, compiled."""

    rules: tuple[ColumnRule, ...]
    masker: Masker
    looks: bool
    """Whether values are searched for entities as well."""

    def without_case(self) -> RowMasks:
        """For a server that compares names without case, and whose names are given here in small letters."""
        rules = (
            replace(rule, schema=rule.schema.lower(), table=rule.table.lower(), column=rule.column.lower())
            for rule in self.rules
        )
        return replace(self, rules=tuple(rules))

    @property
    def digest(self) -> str:
        """Names the plan that entities are searched with."""
        return self.masker.digest

    def operator(self, schema: str, table: str, column: str) -> Operator | None:
        """The strictest operator on a real column, or None."""
        found: Operator | None = None
        for rule in self.rules:
            if rule.covers(schema, table, column):
                found = strictest(found, rule.operator)
        return found if found is not None and found.rank else None

    def may_cover(self, name: str) -> bool:
        """Whether a name in a statement could mean a masked column."""
        return any(rule.may_cover(name) for rule in self.rules if rule.operator.rank)

    def whole(self, operator: Operator, label: str, type_oid: int, format: int, codec: str) -> ValueMask:
        """Mask every value of a column."""
        return whole_value(operator, label, type_oid, format, codec)

    def search(self, type_oid: int, format: int, codec: str) -> ValueMask | None:
        """Search values of a column; None where nothing can be in it."""
        if not self.looks or (format == 1 and type_oid in TOO_SMALL):
            return None
        return _Search(self.masker, type_oid, format, codec)


def compile_rows(specs: Sequence[MaskSpec], secrets: MaskSecrets, masker: Masker) -> RowMasks:
    """`masker` is compiled from the same specs. Raises PolicyError for a name that names no column."""
    rules: list[ColumnRule] = []
    for spec in specs:
        operator = build_operator(spec, secrets)
        for name in spec.columns:
            parts = split_name(name)
            if len(parts) > 3 or not all(parts):
                raise PolicyError(f'mask "{spec.name}": "{name}" is no column; write table.column')
            schema, table, column = ("", "", *parts)[-3:]
            rules.append(ColumnRule(schema, table, column, operator))
    looks = any(spec.entities or spec.paths for spec in specs)
    return RowMasks(tuple(rules), masker, looks)


def split_name(name: str) -> list[str]:
    """The parts of a dotted name; a part in double quotes may hold dots."""
    if '"' not in name:
        return name.split(".")
    parts, part, quoted, position = [], "", False, 0
    while position < len(name):
        letter = name[position]
        if letter == '"':
            if quoted and name[position + 1 : position + 2] == '"':
                part += '"'
                position += 1
            else:
                quoted = not quoted
        elif letter == "." and not quoted:
            parts.append(part)
            part = ""
        else:
            part += letter
        position += 1
    return [*parts, part]


def whole_value(operator: Operator, label: str, type_oid: int, format: int, codec: str) -> ValueMask:
    """Every value through `operator`; NULL where the type has no place for what it makes."""

    def mask(value: bytes) -> tuple[bytes | None, str]:
        if type_oid in TEXT_TYPES:
            try:
                made = operator.apply(label, value.decode(codec))
                return (None if made is None else made.encode(codec)), label
            except ValueError:
                return None, label
        if type_oid in (JSON, JSONB):
            inner = value[1:] if type_oid == JSONB and format == 1 else value
            made = operator.apply(label, inner.decode(codec, "replace"))
            text = json.dumps(made).encode()
            return (b"\x01" + text if type_oid == JSONB and format == 1 else text), label
        return None, label

    return mask


def hidden(label: str, type_oid: int, format: int, codec: str) -> ValueMask:
    """For a column whose origin is not known although it must be: nothing of it is shown."""
    return whole_value(REDACT, label, type_oid, format, codec)


@dataclass(frozen=True, slots=True)
class _Search:
    masker: Masker
    type_oid: int
    format: int
    codec: str

    def __call__(self, value: bytes) -> tuple[bytes | None, str]:
        try:
            return self._array(value) if self.type_oid in ELEMENTS else self._search(value)
        except (MaskingError, ValueError, struct.error):
            return None, "UNREADABLE"

    def _array(self, value: bytes) -> tuple[bytes | None, str]:
        """Each element as one of its own type, so that the rest of the array stays."""
        inner = _Search(self.masker, ELEMENTS[self.type_oid], self.format, self.codec)
        found: set[str] = set()

        def change(element: bytes) -> bytes | None:
            made, names = inner(element)
            found.update(names.split(",") if names else ())
            return made

        masked = map_binary(value, change) if self.format == 1 else map_text(value, change)
        return (masked, ",".join(sorted(found))) if found else (value, "")

    def _search(self, value: bytes) -> tuple[bytes | None, str]:
        kind, binary = self.type_oid, self.format == 1
        if kind in (JSON, JSONB):
            mark = value[:1] if kind == JSONB and binary else b""
            masked = self.masker.body(value[len(mark) :], "application/json")
            return (mark + masked.data, _names(masked.counts)) if masked.changed else (value, "")
        if kind in TEXT_TYPES:
            text, found = self.masker.text(value.decode(self.codec))
            return (text.encode(self.codec), _names(found)) if found else (value, "")
        # no place for a replacement in this type: a value with something in it becomes NULL
        if kind == BYTEA and not binary and value[:2] == b"\\x":  # bytea_output: hex
            text = bytes.fromhex(value[2:].decode("ascii")).decode("latin-1")
        elif not binary:
            text = value.decode(self.codec)
        elif kind in (INT8, INT8_LITTLE):
            text = str(struct.unpack("!q" if kind == INT8 else "<q", value)[0])
        elif kind in (FLOAT8, FLOAT8_LITTLE):
            text = f"{struct.unpack('!d' if kind == FLOAT8 else '<d', value)[0]:.0f}"
        elif kind == NUMERIC:
            text = _numeric(value)
        else:
            text = value.decode("latin-1")
        found = self.masker.text(text)[1]
        return (None, _names(found)) if found else (value, "")


def _names(found: dict[str, int]) -> str:
    return ",".join(sorted(found))


def _numeric(value: bytes) -> str:
    """The digits of a binary numeric: groups of four (numeric_send)."""
    groups, weight = struct.unpack("!hh", value[:4])
    digits = [f"{group:04d}" for (group,) in struct.iter_unpack("!h", value[8 : 8 + 2 * groups])]
    whole = digits[: weight + 1] + ["0000"] * max(0, weight + 1 - len(digits))
    return "".join(whole).lstrip("0") or "0"
