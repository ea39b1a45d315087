"""What a record keeps of the rows that a client was sent: the first ones, masked once more, and a digest of all.

It sees the messages as they leave, so what was masked on the way stays masked. Memory is bounded by the sample.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from extproc.domain.errors import MaskingError, ProtocolError
from extproc.masking import Masker
from extproc.pipeline.parameters import read_parameter
from extproc.pipeline.row_masking import ResultColumn
from extproc.protocols.postgres.messages import HEAD, HEAD_BYTES, parse_data_row

JSON_TYPES = (114, 3802)
OMITTED = "[not recorded: binary value]"


class RowSample:
    """One statement's rows. `tap` is given every byte of DataRow and CopyData messages, in order."""

    __slots__ = ("_columns", "_held", "_is_cut", "_limit", "_mac", "_masker", "_results", "_settled",
                 "_shown", "codec", "size")  # fmt: skip

    def __init__(self, key: bytes, masker: Masker, limit: int, codec: str) -> None:
        """`key` makes the digest one that nobody can test guesses against; `limit` is in bytes."""
        self._mac = hmac.new(key, digestmod="sha256")
        self._masker = masker
        self._limit = limit
        self.codec = codec
        self.size = 0
        self._held = bytearray()
        """Messages as they were sent, from the first on, until they are enough."""
        self._settled = 0
        self._shown = 0
        self._is_cut = False
        self._columns: tuple[ResultColumn, ...] | None = None
        self._results: list[dict[str, Any]] = []

    def described(self, columns: Sequence[ResultColumn]) -> None:
        """The rows that follow have these columns."""
        self._settle()
        self._columns = tuple(columns)

    def tap(self, data: bytes) -> None:
        """Bytes that go to the client."""
        self._mac.update(data)
        self.size += len(data)
        room = self._limit - len(self._held)
        if len(data) > room:
            self._is_cut = True
        if room > 0:
            self._held += data[:room]

    @property
    def digest(self) -> str:
        """Of every byte so far."""
        return "hmac-sha256:" + self._mac.hexdigest()

    def payload(self) -> bytes:
        """The sample as JSON: result sets, each with its columns and rows."""
        self._settle()
        kept: dict[str, Any] = {"results": self._results}
        if self._is_cut:
            kept["cut_at"] = self._limit
        return orjson.dumps(kept)

    def _settle(self) -> None:
        """Whole messages become rows; one that was not kept whole is left out, for half a value cannot be masked."""
        rows: list[list[str | None]] = []
        for kind, body in _messages(self._held, self._settled):
            self._settled += HEAD_BYTES + len(body)
            row: list[str | None]
            row = self._row(body) if kind == b"D" else [self._masked(self._text(body.rstrip(b"\n")))]
            self._shown += sum(len(value or "") for value in row)
            if self._shown > self._limit:  # what stands for a value may be longer than the value
                self._is_cut = True
                break
            rows.append(row)
        if rows:
            names = [self._masked(column.name) for column in self._columns or ()]
            self._results.append({"columns": names, "rows": rows} if names else {"rows": rows})

    def _row(self, body: bytes) -> list[str | None]:
        try:
            values = parse_data_row(body, int.from_bytes(body[:2], "big"))
        except ProtocolError:
            return [OMITTED]
        columns = self._columns or ()
        if len(columns) != len(values):
            return [None if value is None else self._masked(self._text(value)) for value in values]
        shown: list[str | None] = []
        for column, value in zip(columns, values, strict=True):
            text = read_parameter(column.type_oid, column.format, value, self.codec).text
            if value is None:
                shown.append(None)
            elif text is None:
                shown.append(OMITTED)
            else:
                shown.append(self._masked(text, is_json=column.type_oid in JSON_TYPES))
        return shown

    def _text(self, value: bytes) -> str:
        try:
            return value.decode(self.codec)
        except UnicodeDecodeError:
            return OMITTED

    def _masked(self, text: str, *, is_json: bool = False) -> str:
        try:
            if is_json:
                return self._masker.body(text.encode(), "application/json").data.decode()
            return self._masker.text(text)[0].encode("utf-8", "replace").decode()
        except (MaskingError, UnicodeError) as error:
            return f"[not recorded: {getattr(error, 'code', 'unreadable')}]"


def _messages(held: bytearray, at: int) -> Iterator[tuple[bytes, bytes]]:
    while len(held) - at >= HEAD_BYTES:
        kind, length = HEAD.unpack_from(held, at)
        end = at + 1 + length
        if end > len(held):
            return
        yield kind, bytes(held[at + HEAD_BYTES : end])
        at = end
