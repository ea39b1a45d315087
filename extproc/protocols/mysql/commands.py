"""Every command byte and what becomes of it. One row a byte; what has no row is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fate = Literal[
    "judge", "prepare", "execute", "fetch", "long-data", "close", "reset", "pass", "quit", "login", "refuse"
]
Answer = Literal["none", "result", "prepared", "rows", "columns", "one"]

SLEEP, QUIT, INIT_DB, QUERY, FIELD_LIST = 0x00, 0x01, 0x02, 0x03, 0x04
STATISTICS, PING, CHANGE_USER = 0x09, 0x0E, 0x11
STMT_PREPARE, STMT_EXECUTE, STMT_SEND_LONG_DATA, STMT_CLOSE, STMT_RESET = 0x16, 0x17, 0x18, 0x19, 0x1A
SET_OPTION, STMT_FETCH, RESET_CONNECTION = 0x1B, 0x1C, 0x1F


@dataclass(frozen=True, slots=True)
class Command:
    """`judge` is decided as a text; the others say what they are. `answer` is what the server says to it."""

    name: str
    fate: Fate
    answer: Answer = "one"


COMMANDS: dict[int, Command] = {
    0x00: Command("COM_SLEEP", "refuse"),
    0x01: Command("COM_QUIT", "quit", "none"),
    0x02: Command("COM_INIT_DB", "judge"),
    0x03: Command("COM_QUERY", "judge", "result"),
    0x04: Command("COM_FIELD_LIST", "judge", "columns"),
    0x05: Command("COM_CREATE_DB", "refuse"),
    0x06: Command("COM_DROP_DB", "refuse"),
    0x07: Command("COM_REFRESH", "refuse"),
    0x08: Command("COM_SHUTDOWN", "refuse"),
    0x09: Command("COM_STATISTICS", "judge"),
    0x0A: Command("COM_PROCESS_INFO", "refuse"),
    0x0B: Command("COM_CONNECT", "refuse"),
    0x0C: Command("COM_PROCESS_KILL", "refuse"),
    0x0D: Command("COM_DEBUG", "refuse"),
    0x0E: Command("COM_PING", "pass"),
    0x0F: Command("COM_TIME", "refuse"),
    0x10: Command("COM_DELAYED_INSERT", "refuse"),
    0x11: Command("COM_CHANGE_USER", "login"),
    0x12: Command("COM_BINLOG_DUMP", "refuse"),
    0x13: Command("COM_TABLE_DUMP", "refuse"),
    0x14: Command("COM_CONNECT_OUT", "refuse"),
    0x15: Command("COM_REGISTER_SLAVE", "refuse"),
    0x16: Command("COM_STMT_PREPARE", "prepare", "prepared"),
    0x17: Command("COM_STMT_EXECUTE", "execute", "result"),
    0x18: Command("COM_STMT_SEND_LONG_DATA", "long-data", "none"),
    0x19: Command("COM_STMT_CLOSE", "close", "none"),
    0x1A: Command("COM_STMT_RESET", "reset"),
    0x1B: Command("COM_SET_OPTION", "pass"),
    0x1C: Command("COM_STMT_FETCH", "fetch", "rows"),
    0x1D: Command("COM_DAEMON", "refuse"),
    0x1E: Command("COM_BINLOG_DUMP_GTID", "refuse"),
    0x1F: Command("COM_RESET_CONNECTION", "reset"),
    0x20: Command("COM_CLONE", "refuse"),
    0x21: Command("COM_SUBSCRIBE_GROUP_REPLICATION_STREAM", "refuse"),
    0xFA: Command("COM_STMT_BULK_EXECUTE", "refuse"),
    0xFB: Command("COM_SLAVE_WORKER", "refuse"),
    0xFC: Command("COM_SLAVE_IO", "refuse"),
    0xFD: Command("COM_SLAVE_SQL", "refuse"),
    0xFE: Command("COM_MULTI", "refuse"),
}
UNKNOWN = Command("an unknown command", "refuse")
