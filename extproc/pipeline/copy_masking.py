"""COPY towards a client, masked as the rows of a SELECT are: by where its columns come from and by what is in them."""

from __future__ import annotations

from collections.abc import Sequence

from extproc.domain.errors import ProtocolError
from extproc.domain.statement import CopyFacts, StatementFacts
from extproc.pipeline.catalogue import Catalogue
from extproc.pipeline.row_masking import ResultColumn, ResultMask
from extproc.protocols.postgres.copy_format import (
    CopyFields,
    CopyFormat,
    CopyFormatError,
    CopyRows,
    copy_format,
    is_binary,
)

LONGEST_ROW = 16 << 20
"""Bytes of a row that is read, as for rows of a SELECT."""


class CopyMask:
    """Masks the data of one COPY, however it is cut into pieces."""

    __slots__ = ("_fields", "_header", "_mask", "_rows", "columns", "rows")

    def __init__(self, format: CopyFormat, columns: Sequence[str], mask: ResultMask) -> None:
        self._fields = CopyFields(format, columns)
        self._rows = CopyRows(format, LONGEST_ROW)
        self._header = format.has_header
        """The next row names the columns; it is no data."""
        self._mask = mask
        self.columns = len(columns)
        self.rows = 0

    @property
    def counts(self) -> dict[str, int]:
        """What was masked, by name."""
        return self._mask.counts

    def pieces(self, pieces: Sequence[bytes], *, is_last: bool) -> list[bytes]:
        """What goes on in their place, one row each. Raises ProtocolError for data that is not what was said."""
        out: list[bytes] = []
        fields, mask = self._fields, self._mask
        for row in self._rows.rows(pieces):
            if self._header:
                self._header = False
                out.append(row + b"\n")
                continue
            self.rows += 1
            raw = fields.split(row)
            values = [fields.value(field) for field in raw]
            new = mask.row(values)
            if new is None:
                out.append(row + b"\n")
                continue
            for number, value in enumerate(new):
                if value is not values[number]:
                    raw[number] = fields.field(value, number)
            out.append(fields.joined(raw) + b"\n")
        if is_last and not self._rows.is_between:
            raise ProtocolError("malformed-copy", "COPY data ended in the middle of a row")
        return out


def copied(facts: Sequence[StatementFacts]) -> CopyFacts | None:
    """The COPY towards the caller, a file or a program among these statements; None where there is none."""
    return next((sql.copy for sql in facts if sql.copy is not None and sql.copy.direction == "out"), None)


def refusal(facts: Sequence[StatementFacts]) -> str:
    """Why the data of a COPY cannot be read at all; empty when it can, or when there is none."""
    copy = copied(facts)
    if copy is None:
        return ""
    if copy.endpoint != "client":
        return "COPY to a file or program writes what it reads past every mask"
    if len(facts) > 1:
        return "COPY must be a statement of its own"
    if not copy.is_readable or not copy.source:
        return "this COPY cannot be read"
    return ""


def copied_columns(
    copy: CopyFacts, described: Sequence[ResultColumn], catalogue: Catalogue
) -> tuple[ResultColumn, ...]:
    """The columns that are copied, of those that its source returns: a table's generated ones only if named."""
    if not copy.is_table or not copy.source.startswith("SELECT * "):
        return tuple(described)
    kept = []
    for column in described:
        relation = catalogue.relations.get(column.table_oid)
        if relation is None or column.attribute not in relation.generated:
            kept.append(column)
    return tuple(kept)


def copy_mask(
    copy: CopyFacts, columns: Sequence[ResultColumn], mask: ResultMask, codec: str
) -> CopyMask | str:
    """How its data is masked, or why it cannot be."""
    options = dict(copy.options)
    if is_binary(options):
        return "binary COPY cannot be masked"
    try:
        format = copy_format(options, codec)
    except CopyFormatError as error:
        return f"this COPY cannot be read: {error}"
    return CopyMask(format, [column.name for column in columns], mask)
