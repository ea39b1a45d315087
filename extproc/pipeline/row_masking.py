"""What is done to the rows of one result, and to what the server says beside rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from extproc.domain.errors import MaskingError
from extproc.masking.rows import RowMasks, ValueMask, hidden
from extproc.pipeline.coverage import Coverage


class ResultColumn(Protocol):
    """One column of a result, as the server describes it. `table_oid` 0: no plain column of a table."""

    @property
    def name(self) -> str: ...
    @property
    def table_oid(self) -> int: ...
    @property
    def attribute(self) -> int: ...
    @property
    def type_oid(self) -> int: ...
    @property
    def format(self) -> int: ...


class ResultMask:
    """Masks the rows of one result and counts what it found."""

    __slots__ = ("_masks", "counts")

    def __init__(self, masks: Sequence[ValueMask | None]) -> None:
        self._masks = [(number, mask) for number, mask in enumerate(masks) if mask is not None]
        self.counts: dict[str, int] = {}

    def row(self, values: Sequence[bytes | None]) -> Sequence[bytes | None] | None:
        """The row's new values, or None when it may pass as it is."""
        new: list[bytes | None] | None = None
        for number, mask in self._masks:
            value = values[number]
            if value is None:
                continue
            masked, found = mask(value)
            if found:
                for name in found.split(",") if "," in found else (found,):
                    self.counts[name] = self.counts.get(name, 0) + 1
                if new is None:
                    new = list(values)
                new[number] = masked
        return new


def result_mask(
    masks: RowMasks,
    coverage: Coverage,
    columns: Sequence[ResultColumn],
    codec: str,
    *,
    names_masked: bool,
    hides_computed: bool,
    hides_all: bool,
) -> ResultMask | None:
    """What is done to each column; None when nothing can be in any of them.

    A column of a table that is not known is hidden. Computed ones are hidden where `hides_computed` says so, or when
    the statement names a masked column that no result column turned out to be. `hides_all` hides every one.
    """
    made: list[ValueMask | None] = []
    computed: list[int] = []
    resolved = False
    for number, column in enumerate(columns):
        kind = (column.type_oid, column.format, codec)
        cover = coverage.of(column.table_oid, column.attribute) if column.table_oid else None
        if hides_all:
            made.append(hidden("masked-use", *kind))
        elif cover is None:
            if column.table_oid == 0:
                computed.append(number)
            made.append(masks.search(*kind))
        elif cover.operator is None:
            made.append(hidden(cover.label, *kind))
        else:
            resolved = True
            made.append(masks.whole(cover.operator, cover.label, *kind))
    if hides_computed or (names_masked and not resolved):
        for number in computed:
            column = columns[number]
            made[number] = hidden("unknown-column", column.type_oid, column.format, codec)
    return ResultMask(made) if any(mask is not None for mask in made) else None


WITHHELD = "the server's message is withheld: it may hold masked values"
VALUES_IN_TEXT = ("22", "23", "00", "01", "P0", "38", "39", "HV", "HY", "70", "45")
"""SQLSTATE classes whose texts quote values: data exceptions, constraints, notices, errors raised by functions, by
routines in other languages and by foreign tables; in MySQL, whatever has no class of its own, and SIGNAL's."""


def masked_message(masks: RowMasks, fields: Mapping[str, str], *, hides_all: bool = False) -> dict[str, str]:
    """An error, notice or notification of the server without what is masked.

    Details and contexts quote rows; main texts are withheld where a masked column may stand in them, and searched.
    `hides_all`: nothing that the statement gave may be shown, whatever its class.
    """
    kept = {name: text for name, text in fields.items() if not (masks.rules and name in ("D", "W"))}
    if masks.rules and "M" in kept and (hides_all or kept.get("C", "")[:2] in VALUES_IN_TEXT):
        kept["M"] = f"extproc: {WITHHELD}"
    for name, text in kept.items():
        if len(name) > 1 or name in "MDHWqp":
            try:
                kept[name] = masks.masker.text(text)[0]
            except MaskingError:
                kept[name] = WITHHELD
    return kept
