"""Prepared statements for PyMySQL, which has none: the binary protocol, over its connection."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from extproc.protocols.mysql.events import Column
from extproc.protocols.mysql.results import parse_binary_row
from extproc.protocols.mysql.values import lenenc_bytes

PREPARE, EXECUTE, LONG_DATA, CLOSE, RESET, FETCH = 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1C
LONGLONG, STRING = 8, 253
CURSOR_EXISTS, LAST_ROW_SENT = 1 << 6, 1 << 7
Value = int | str | bytes | None


class Prepared:
    """One statement. Integers come back as integers, everything else as text."""

    def __init__(self, connection: Any, text: str) -> None:
        self._connection = connection
        connection._execute_command(PREPARE, text)
        head = connection._read_packet()._data
        _, self.id, columns, self.count = struct.unpack("<BIHH", head[:9])
        for number in (self.count, columns):
            for _ in range(number + (1 if number else 0)):
                connection._read_packet()
        self._columns: list[Column] = []
        self.is_open = False

    def execute(
        self, *values: Value, cursor: bool = False, sent: Sequence[int] = ()
    ) -> list[tuple[Any, ...]]:
        """The rows; none under a cursor. Parameters in `sent` came before as long data."""
        bits = bytearray((self.count + 7) // 8)
        types, data = b"", b""
        for number, value in enumerate(values):
            types += struct.pack("<H", LONGLONG if isinstance(value, int) else STRING)
            if value is None:
                bits[number >> 3] |= 1 << (number & 7)
            elif number in sent:
                pass
            elif isinstance(value, int):
                data += struct.pack("<q", value)
            else:
                data += lenenc_bytes(value.encode() if isinstance(value, str) else value)
        body = struct.pack("<IBI", self.id, 1 if cursor else 0, 1)
        if self.count:
            body += bytes(bits) + b"\x01" + types + data
        self._connection._execute_command(EXECUTE, body)
        first = self._connection._read_packet()
        if first.is_ok_packet():
            return []
        self._columns = []
        for _ in range(first.read_length_encoded_integer()):
            field = self._connection._read_packet(_field_packet())
            self._columns.append(
                Column(
                    field.name, "", field.org_table, field.org_name, field.type_code, field.charsetnr, 0, True
                )
            )
        status = self._end(self._connection._read_packet())
        self.is_open = bool(status & CURSOR_EXISTS)
        return [] if self.is_open else self._rows()

    def fetch(self, number: int) -> list[tuple[Any, ...]]:
        """The next rows of the cursor."""
        self._connection._execute_command(FETCH, struct.pack("<II", self.id, number))
        return self._rows()

    def send(self, parameter: int, data: bytes) -> None:
        """Long data, which is not answered."""
        self._connection._execute_command(LONG_DATA, struct.pack("<IH", self.id, parameter) + data)

    def close(self) -> None:
        self._connection._execute_command(CLOSE, struct.pack("<I", self.id))

    def _rows(self) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        while True:
            packet = self._connection._read_packet()
            if packet.is_eof_packet():
                self.is_open = self.is_open and not self._end(packet) & LAST_ROW_SENT
                return rows
            values = parse_binary_row(packet._data, self._columns)
            rows.append(tuple(map(_shown, values, self._columns)))

    @staticmethod
    def _end(packet: Any) -> int:
        assert packet.is_eof_packet()
        return int(struct.unpack("<H", packet._data[3:5])[0])


def _shown(value: bytes | None, column: Column) -> Any:
    if value is None:
        return None
    return (
        int.from_bytes(value, "little", signed=True)
        if column.type in (1, 2, 3, 8, 9)
        else value.decode(errors="backslashreplace")
    )


def _field_packet() -> Any:
    from pymysql.protocol import FieldDescriptorPacket  # type: ignore[import-untyped]

    return FieldDescriptorPacket
