"""What the server answers: results in all their forms, until the command's last packet."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from extproc.domain.errors import ProtocolError
from extproc.protocols.mysql.capabilities import CURSOR_EXISTS, DEPRECATE_EOF, LAST_ROW_SENT, MORE_RESULTS
from extproc.protocols.mysql.events import (
    Column,
    InquiryAnswered,
    MessageReceived,
    RowsDescribed,
    RowsReceived,
    SessionReset,
)
from extproc.protocols.mysql.limits import Refusal
from extproc.protocols.mysql.packets import HEAD_BYTES, LONGEST, PacketBuffer, build_packets, packet_count
from extproc.protocols.mysql.replies import (
    EOF,
    ERR,
    LOCAL_INFILE,
    OK,
    Okay,
    build_raw_error,
    is_end,
    parse_end,
    parse_error,
    parse_ok,
)
from extproc.protocols.mysql.results import (
    build_binary_row,
    build_text_row,
    parse_binary_row,
    parse_column,
    parse_text_row,
)
from extproc.protocols.mysql.running import Run, Session
from extproc.protocols.mysql.values import malformed, read_int, read_lenenc

UNANSWERED = Refusal(1105, "HY000", "extproc: the database refused a question about this statement")
_BATCH = 64 << 10
"""Bytes of rows that are shown at once."""


class _Expects(Enum):
    NOTHING = "nothing"
    FIRST = "first"
    COLUMNS = "columns"
    COLUMNS_END = "columns-end"
    ROWS = "rows"
    DESCRIPTIONS = "descriptions"
    """Of a prepared statement: of its parameters, then of its columns."""


class ServerSide:
    """One answer at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._buffer = PacketBuffer()
        self._expects = _Expects.NOTHING
        self._sequence = 0
        """Of the server's next packet."""
        self._sent = 0
        """Of our next packet to the client; another one than the server's where a row takes more or fewer packets."""
        self._rest = 0
        """Bytes of a packet in front that goes on as it comes."""
        self._goes_on = False
        self._left = 0
        self._blocks: list[int] = []
        self._columns: list[Column] = []
        self._asking = ""
        self._raws: list[tuple[bytes, int]] = []
        self._event: RowsReceived | MessageReceived | None = None
        self._inquired = 0

    @property
    def is_empty(self) -> bool:
        return not len(self._buffer) and not self._rest and not self._asking

    @property
    def place_for_error(self) -> int | None:
        """The sequence id that an ERR packet of ours would have in the running answer; None inside a packet.

        Clients take ERR in the place of an answer, and in the place of a row.
        """
        if self._rest or self._goes_on or self._expects not in (_Expects.FIRST, _Expects.ROWS):
            return None
        return self._sent

    def receive(self, data: bytes) -> None:
        self._buffer.append(data)

    def expect(self, run: Run, sequence: int) -> None:
        """A command went to the server; its answer begins with this sequence id."""
        self._session.running = run
        self._sequence = self._sent = sequence & 0xFF
        self._expects = _Expects.ROWS if run.answer == "rows" else _Expects.FIRST
        if run.answer == "columns":
            self._expects = _Expects.COLUMNS
            self._left = -1

    def pump(self) -> None:
        """Take packets while nobody is asked about one. Raises ProtocolError."""
        while not self._asking and self._step():
            pass
        if self._asking and len(self._buffer) > self._session.limits.waiting:
            raise ProtocolError("too-much-waiting", "the server sent more than may wait")

    def _step(self) -> bool:
        if not len(self._buffer):
            return False
        run = self._session.running
        if run is None:
            return self._unasked()
        if self._rest or self._goes_on:
            return self._stream(run)
        if self._expects is _Expects.ROWS and run.inquiry is None and self._rows(run):
            return True
        limit = self._session.limits.server_message
        if self._expects is _Expects.ROWS and run.reading:
            limit = self._session.limits.row
        found = self._buffer.payload(self._sequence, limit)
        if found is None:
            return False
        payload, self._sequence = found
        self._take(run, payload)
        return True

    def _unasked(self) -> bool:
        """A server that ends a session by itself says why."""
        session, head = self._session, self._buffer.head()
        found = self._buffer.payload(head[1], session.limits.server_message) if head is not None else None
        if found is None:
            return False
        if found[0][:1] != b"\xff":
            raise _unexpected()
        _, sqlstate, _ = parse_error(found[0])
        waiting, session.waiting = session.waiting, None
        session.to_client.append(build_packets(found[0], waiting.sequence if waiting is not None else 0))
        if waiting is not None:
            session.end(waiting.run, "error", executed=False, sqlstate=sqlstate)
        return True

    # ------------------------------------------------------------------ packets

    def _take(self, run: Run, payload: bytes) -> None:
        if not payload:
            raise malformed("answer")
        first = payload[0]
        expects = self._expects
        if first == ERR and expects is not _Expects.DESCRIPTIONS:
            self._error(run, payload)
        elif expects is _Expects.FIRST:
            self._first(run, payload, first)
        elif expects is _Expects.COLUMNS:
            self._column(run, payload)
        elif expects is _Expects.COLUMNS_END:
            self._columns_end(run, payload)
        elif expects is _Expects.ROWS:
            self._row_or_end(run, payload)
        else:
            self._description(run, payload)

    def _first(self, run: Run, payload: bytes, first: int) -> None:
        if run.answer == "prepared":
            self._prepared(run, payload)
        elif run.kind == "COM_STATISTICS":
            self._send(run, payload)
            self._finish(run)
        elif first == OK or (first == EOF and run.answer == "one"):
            okay = parse_ok(payload) if first == OK else parse_end(payload, self._session.capabilities)
            run.affected += okay.affected
            self._send(run, payload)
            self._ended(run, okay)
        elif first == LOCAL_INFILE:
            raise ProtocolError("local-infile", "the server asks for a file of the client")
        elif run.answer == "result":
            count, at = read_lenenc(payload, 0, "answer")
            if at != len(payload) or not 0 < count <= self._session.limits.columns:
                raise malformed("answer")
            self._send(run, payload)
            self._columns, self._left, self._expects = [], count, _Expects.COLUMNS
        else:
            raise _unexpected()

    def _column(self, run: Run, payload: bytes) -> None:
        if self._left < 0:  # COM_FIELD_LIST: as many as there are
            self._send(run, payload)
            if is_end(payload, self._session.capabilities):
                self._ended(run, parse_end(payload, self._session.capabilities))
            return
        if run.wants_rows or run.inquiry is not None:
            is_binary = run.prepared is not None
            self._columns.append(parse_column(payload, self._session.codec, is_binary=is_binary))
        self._send(run, payload)
        self._left -= 1
        if not self._left:
            if self._session.capabilities & DEPRECATE_EOF:
                self._described(run)
            else:
                self._expects = _Expects.COLUMNS_END

    def _columns_end(self, run: Run, payload: bytes) -> None:
        if not is_end(payload, self._session.capabilities):
            raise _unexpected()
        okay = parse_end(payload, self._session.capabilities)
        if okay.status & CURSOR_EXISTS and run.prepared is None:
            raise _unexpected()
        self._send(run, payload)
        self._described(run)
        if okay.status & CURSOR_EXISTS:
            self._opened(run, okay)

    def _described(self, run: Run) -> None:
        self._expects = _Expects.ROWS
        run.reading = False
        run.columns = tuple(self._columns)
        if run.wants_rows:
            self._asking = "columns"
            self._session.events.append(RowsDescribed(run.id, run.results, run.columns))
        self._columns = []
        run.results += 1

    def _row_or_end(self, run: Run, payload: bytes) -> None:
        if not is_end(payload, self._session.capabilities):
            if run.inquiry is not None:
                self._inquired += len(payload)
                if self._inquired > self._session.limits.server_message:
                    raise ProtocolError("too-long", "the answer to an inquiry is too long")
                run.inquiry.append(parse_text_row(payload, len(run.columns)))
                return
            self._show(run, [(payload, packet_count(len(payload)))])
            return
        okay = parse_end(payload, self._session.capabilities)
        self._send(run, payload)
        if okay.status & CURSOR_EXISTS and run.answer == "result":
            self._opened(run, okay)
        elif run.answer == "rows":
            self._fetched(run, okay)
        else:
            self._ended(run, okay)

    def _opened(self, run: Run, okay: Okay) -> None:
        """Rows come by COM_STMT_FETCH; the statement goes on until the last was sent."""
        made = run.prepared
        if made is None:
            raise _unexpected()
        made.cursor = run
        self._session.status = okay.status
        self._is_over()

    def _fetched(self, run: Run, okay: Okay) -> None:
        self._session.status = okay.status
        made = run.prepared
        if made is not None and okay.status & LAST_ROW_SENT:
            self._session.close_cursor(made)
        self._is_over()

    def _ended(self, run: Run, okay: Okay) -> None:
        """A result is over; another one may follow."""
        self._session.status = okay.status
        if okay.status & MORE_RESULTS and run.answer == "result":
            self._expects = _Expects.FIRST
            return
        self._finish(run)

    def _finish(self, run: Run) -> None:
        self._is_over()
        if run.is_reset:
            self._session.drop_all()
            self._session.events.append(SessionReset())
        if run.inquiry is not None:
            self._session.events.append(InquiryAnswered(run.id, tuple(run.inquiry)))
            return
        self._session.end(run, "complete", executed=True)

    def _is_over(self) -> None:
        self._session.running = None
        self._expects = _Expects.NOTHING

    # ------------------------------------------------------------------ prepared statements

    def _prepared(self, run: Run, payload: bytes) -> None:
        """COM_STMT_PREPARE_OK."""
        what = "prepared statement"
        made = run.prepared
        if payload[0] != OK or made is None:
            raise _unexpected()
        made.id, at = read_int(payload, 1, 4, what)
        columns, at = read_int(payload, at, 2, what)
        made.count, at = read_int(payload, at, 2, what)
        self._send(run, payload)
        self._session.keep(made)
        self._blocks = [count for count in (made.count, columns) if count]
        self._next_block(run)

    def _next_block(self, run: Run) -> None:
        if not self._blocks:
            run.id = 0  # nothing ran, so nothing ended
            self._finish(run)
            return
        ends = 0 if self._session.capabilities & DEPRECATE_EOF else 1
        self._left = self._blocks.pop(0) + ends
        self._expects = _Expects.DESCRIPTIONS

    def _description(self, run: Run, payload: bytes) -> None:
        self._left -= 1
        if not self._left and not self._session.capabilities & DEPRECATE_EOF:
            parse_end(payload, self._session.capabilities)
        self._send(run, payload)
        if not self._left:
            self._next_block(run)

    # ------------------------------------------------------------------ rows

    def _rows(self, run: Run) -> bool:
        """Rows in front, all at once. False: what is in front needs a closer look, or more bytes."""
        end_below = LONGEST if self._session.capabilities & DEPRECATE_EOF else 9
        size, count = self._buffer.run_of_rows(self._sequence, end_below, _BATCH if run.reading else 1 << 62)
        if run.reading:
            if not count:
                return False
            data = self._buffer.take(size)
            raws: list[tuple[bytes, int]] = []
            at = 0
            while at < size:
                end = at + HEAD_BYTES + int.from_bytes(data[at : at + 3], "little")
                raws.append((data[at + HEAD_BYTES : end], 1))
                at = end
            self._sequence = (self._sequence + count) & 0xFF
            self._show(run, raws)
            return True
        if count:
            self._pass(run, self._buffer.take(size), count)
            run.rows += count
            run.bytes_returned += size
            return True
        head = self._buffer.head()
        if head is None or len(self._buffer) == HEAD_BYTES:
            return False
        part, number = head
        mark = self._buffer.peek(HEAD_BYTES + 1)[HEAD_BYTES]
        if mark == ERR or (mark == EOF and part < end_below) or not part:
            return False
        if number != self._sequence:
            raise ProtocolError("sequence", "packets came out of order")
        run.rows += 1
        self._begin_packet(run)
        return True

    def _begin_packet(self, run: Run) -> None:
        """One packet of a row goes on piece by piece."""
        head = self._buffer.head()
        assert head is not None  # noqa: S101  (looked at before)
        self._rest, number = head
        if number != self._sequence:
            raise ProtocolError("sequence", "packets came out of order")
        self._goes_on = self._rest == LONGEST
        run.bytes_returned += HEAD_BYTES + self._rest
        self._pass(run, self._buffer.take(HEAD_BYTES), 1)

    def _stream(self, run: Run) -> bool:
        if self._rest:
            data = self._buffer.take(self._rest)
            self._rest -= len(data)
            self._emit(run, data)
            return bool(data)
        if self._buffer.head() is None:
            return False
        self._begin_packet(run)
        return True

    def _pass(self, run: Run, data: bytes, count: int) -> None:
        """Whole packets, or the header of one, on their way as they are but for the sequence id."""
        if self._sent != self._sequence:
            data = _renumbered(data, self._sent)
        self._emit(run, data)
        self._sequence = (self._sequence + count) & 0xFF
        self._sent = (self._sent + count) & 0xFF

    def _emit(self, run: Run, data: bytes) -> None:
        """Bytes of rows go to the client."""
        self._session.to_client.append(data)
        if run.tap is not None:
            run.tap(data)

    def _show(self, run: Run, raws: list[tuple[bytes, int]]) -> None:
        columns = run.columns
        if columns and columns[0].is_binary:
            rows = tuple(parse_binary_row(raw, columns) for raw, _ in raws)
        else:
            rows = tuple(parse_text_row(raw, len(columns)) for raw, _ in raws)
        self._asking, self._raws = "rows", raws
        self._event = RowsReceived(run.id, columns, rows)
        self._session.events.append(self._event)

    def replace_rows(self, id: int, rows: Sequence[Sequence[bytes | None] | None]) -> None:
        run, event = self._session.running, self._event
        if self._asking != "rows" or run is None or run.id != id or not isinstance(event, RowsReceived):
            raise ValueError("no rows wait for an answer")
        if len(rows) != len(event.rows):
            raise ValueError("an answer names every row")
        out = []
        columns = event.columns
        is_binary = bool(columns) and columns[0].is_binary
        for (raw, _), old, new in zip(self._raws, event.rows, rows, strict=True):
            payload = raw
            if new is not None and new is not old:
                if len(new) != len(old):
                    raise ValueError("a row keeps its number of columns")
                payload = build_binary_row(new, columns) if is_binary else build_text_row(new)
            out.append(build_packets(payload, self._sent))
            self._sent = (self._sent + packet_count(len(payload))) & 0xFF
        data = b"".join(out)
        run.rows += len(rows)
        run.bytes_returned += len(data)
        self._emit(run, data)
        self._answered()

    def decide_columns(self, id: int, *, read: bool) -> None:
        run = self._session.running
        if run is None:  # a cursor was opened: its rows come later
            run = next(
                (p.cursor for p in self._session.prepared.values() if p.cursor and p.cursor.id == id), None
            )
        if self._asking != "columns" or run is None or run.id != id:
            raise ValueError("no description waits for an answer")
        run.reading = read
        self._answered()

    def _answered(self) -> None:
        self._asking, self._event, self._raws = "", None, []

    # ------------------------------------------------------------------ errors

    def _error(self, run: Run, payload: bytes) -> None:
        code, sqlstate, text = parse_error(payload)
        session = self._session
        if session.read_messages and run.inquiry is None:
            self._asking, self._raws = "message", [(payload, 1)]
            self._event = MessageReceived(sqlstate, text.decode(session.codec, "replace"), run.id or None)
            session.events.append(self._event)
            return
        self._fail(run, payload, sqlstate if sqlstate != "HY000" else str(code))

    def replace_message(self, text: str | None) -> None:
        run, event = self._session.running, self._event
        if self._asking != "message" or run is None or not isinstance(event, MessageReceived):
            raise ValueError("no message waits for an answer")
        payload = self._raws[0][0]
        code, sqlstate, _ = parse_error(payload)
        if text is not None and text != event.text:
            payload = build_raw_error(code, sqlstate, text.encode(self._session.codec, "replace"))
        self._answered()
        self._fail(run, payload, sqlstate if sqlstate != "HY000" else str(code))

    def _fail(self, run: Run, payload: bytes, sqlstate: str) -> None:
        session = self._session
        self._is_over()
        if run.inquiry is None:
            self._send(run, payload)
            session.end(run, "error", executed=True, sqlstate=sqlstate)
            return
        waiting, session.waiting = session.waiting, None
        if waiting is not None:  # our question failed, and so does the statement that it was asked for
            session.refuse(UNANSWERED, waiting.sequence)
            session.end(waiting.run, "error", executed=False, sqlstate=sqlstate)

    def _send(self, run: Run, payload: bytes) -> None:
        if run.inquiry is not None:
            return
        self._session.to_client.append(build_packets(payload, self._sent))
        self._sent = (self._sent + packet_count(len(payload))) & 0xFF


def _renumbered(data: bytes, sequence: int) -> bytes:
    changed = bytearray(data)
    at = 0
    while at < len(changed):
        changed[at + 3] = sequence & 0xFF
        sequence += 1
        at += HEAD_BYTES + int.from_bytes(changed[at : at + 3], "little")
    return bytes(changed)


def _unexpected() -> ProtocolError:
    return ProtocolError("unexpected-message", "the server sent a packet that answers nothing")
