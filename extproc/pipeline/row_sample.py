"""What a record keeps of the rows that a client was sent: the first ones, masked once more, and a digest of all.

It sees the messages as they leave, so what was masked on the way stays masked. Memory is bounded by the sample.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import orjson

from extproc.domain.errors import MaskingError, ProtocolError
from extproc.masking import Masker
from extproc.pipeline.parameters import read_parameter
from extproc.pipeline.row_masking import ResultColumn
from extproc.protocols.postgres.messages import HEAD, HEAD_BYTES, parse_data_row

JSON_TYPES: tuple[int, ...] = (114, 3802)
OMITTED = "[not recorded: binary value]"
Shown = tuple[str | None, bool]
"""A value's text, None for NULL, and whether it is JSON."""
ReadRows = Callable[[bytearray, int, str], Iterator[tuple[int, Sequence[Shown]]]]
"""Whole rows of what is held, from a position on, in this codec; each with the position behind it."""


class RowSample:
    """One statement's rows. `tap` is given every byte of its rows as they are sent, in order."""

    __slots__ = ("_held", "_is_cut", "_limit", "_mac", "_masker", "_names", "_read", "_results", "_settled",
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
        self._names: list[str] = []
        self._read: ReadRows = partial(_postgres_rows, ())
        self._results: list[dict[str, Any]] = []

    def described(self, columns: Sequence[ResultColumn], read: ReadRows | None = None) -> None:
        """The rows that follow have these columns. Without `read` they are Postgres' messages."""
        self._settle()
        self._names = [self._masked(column.name) for column in columns]
        self._read = read or partial(_postgres_rows, tuple(columns))

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
        for end, values in self._read(self._held, self._settled, self.codec):
            self._settled = end
            row = [
                text if text is None or text == OMITTED else self._masked(text, is_json=is_json)
                for text, is_json in values
            ]
            self._shown += sum(len(value or "") for value in row)
            if self._shown > self._limit:  # what stands for a value may be longer than the value
                self._is_cut = True
                break
            rows.append(row)
        if rows:
            self._results.append({"columns": self._names, "rows": rows} if self._names else {"rows": rows})

    def _masked(self, text: str, *, is_json: bool = False) -> str:
        try:
            if is_json:
                return self._masker.body(text.encode(), "application/json").data.decode()
            return self._masker.text(text)[0].encode("utf-8", "replace").decode()
        except (MaskingError, UnicodeError) as error:
            return f"[not recorded: {getattr(error, 'code', 'unreadable')}]"


def _postgres_rows(
    columns: Sequence[ResultColumn], held: bytearray, at: int, codec: str
) -> Iterator[tuple[int, Sequence[Shown]]]:
    """DataRow and CopyData messages."""
    for kind, body in _messages(held, at):
        at += HEAD_BYTES + len(body)
        if kind == b"D":
            yield at, _postgres_row(columns, body, codec)
        else:
            yield at, [(text_of(body.rstrip(b"\n"), codec), False)]


def _postgres_row(columns: Sequence[ResultColumn], body: bytes, codec: str) -> Sequence[Shown]:
    try:
        values = parse_data_row(body, int.from_bytes(body[:2], "big"))
    except ProtocolError:
        return [(OMITTED, False)]
    if len(columns) != len(values):
        return [(None if value is None else text_of(value, codec), False) for value in values]
    shown: list[Shown] = []
    for column, value in zip(columns, values, strict=True):
        text = read_parameter(column.type_oid, column.format, value, codec).text
        is_json = column.type_oid in JSON_TYPES
        shown.append((OMITTED if text is None and value is not None else text, is_json))
    return shown


def text_of(value: bytes, codec: str) -> str:
    """The value as text, or what stands in its place."""
    try:
        return value.decode(codec)
    except UnicodeDecodeError:
        return OMITTED


def _messages(held: bytearray, at: int) -> Iterator[tuple[bytes, bytes]]:
    while len(held) - at >= HEAD_BYTES:
        kind, length = HEAD.unpack_from(held, at)
        end = at + 1 + length
        if end > len(held):
            return
        yield kind, bytes(held[at + HEAD_BYTES : end])
        at = end
