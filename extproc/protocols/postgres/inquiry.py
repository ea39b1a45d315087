"""A question of ours to the server while a statement of the client waits; the client hears nothing of it.

It is asked in the extended protocol and without Sync, so that inside the client's transaction (or its batch) it
changes nothing, and the locks that describing takes last until what was described has run.
"""

from __future__ import annotations

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres.events import Column
from extproc.protocols.postgres.messages import (
    FLUSH,
    build_bind,
    build_execute,
    build_parse,
    build_target,
    parse_data_row,
    parse_parameter_description,
    parse_row_description,
)

INQUIRY = b"?"
"""The kind of what is outstanding; no message has this type."""
NAME = b"extproc inquiry"
"""Ours for as long as the question lasts. A client that takes the name breaks its own statement."""
MAX_ROWS_BYTES = 256 << 20
"""What one answer may hold."""


class Inquiry:
    """What is asked, and what was answered so far."""

    __slots__ = ("_columns", "_rows", "_size", "_steps", "codec", "runs")

    def __init__(self, *, runs: bool, codec: str) -> None:
        """`runs` False only asks which columns the text would return."""
        self.runs = runs
        self.codec = codec
        self._columns: tuple[Column, ...] = ()
        self._rows: list[tuple[bytes | None, ...]] = []
        self._size = 0
        self._steps = list(_RUN if runs else _DESCRIBE)

    def messages(self, text: bytes) -> bytes:
        """Parse, then Bind, Describe and Execute or only Describe, then Close; and Flush, to be answered now."""
        asked = [build_parse(NAME, text)]
        if self.runs:
            asked += [build_bind(NAME, NAME), build_target(b"D", b"P", NAME), build_execute(NAME)]
            asked.append(build_target(b"C", b"P", NAME))
        else:
            asked.append(build_target(b"D", b"S", NAME))
        return b"".join([*asked, build_target(b"C", b"S", NAME), FLUSH])

    def receive(self, kind: bytes, body: bytes) -> bool:
        """One message of the answer; True when it was the last. Raises ProtocolError."""
        if kind == b"D" and self._steps[0] == b"C":
            self._size += len(body)
            if self._size > MAX_ROWS_BYTES:
                raise ProtocolError("too-long", "the server answered a question with more than can be read")
            self._rows.append(parse_data_row(body, len(self._columns)))
            return False
        if kind not in self._steps.pop(0):
            raise ProtocolError("unexpected-message", "the server did not answer what it was asked")
        if kind == b"T":
            self._columns = parse_row_description(body, self.codec)
        elif kind == b"t":
            parse_parameter_description(body)
        return not self._steps

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it returns; empty where it returns nothing."""
        return self._columns

    @property
    def rows(self) -> tuple[tuple[bytes | None, ...], ...]:
        """In text."""
        return tuple(self._rows)


_RUN = (b"1", b"2", b"Tn", b"C", b"3", b"3")
_DESCRIBE = (b"1", b"t", b"Tn", b"3")
