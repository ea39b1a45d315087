"""From the server to the client, once logged in. Rows and messages that somebody must see wait here for an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, cast

from extproc.domain.errors import ProtocolError
from extproc.protocols.postgres.buffer import Buffer
from extproc.protocols.postgres.events import (
    BackendKey,
    CopyReceived,
    CopyStarted,
    InquiryAnswered,
    LoggedIn,
    MessageReceived,
    RowsDescribed,
    RowsReceived,
    TransactionStatus,
)
from extproc.protocols.postgres.inquiry import INQUIRY, Inquiry
from extproc.protocols.postgres.limits import Refusal
from extproc.protocols.postgres.messages import (
    HEAD,
    SYNC,
    UINT16,
    UINT32,
    build,
    build_data_row,
    build_error,
    build_fields,
    cstring,
    malformed,
    parse_data_row,
    parse_fields,
    parse_parameter_description,
    parse_row_description,
)
from extproc.protocols.postgres.running import STARTUP, Awaited, Run
from extproc.protocols.postgres.session import Session

_RUNNING: Final = frozenset((b"Q", b"E"))
"""What rows and the end of a statement answer: Query or Execute."""
_DESCRIBED: Final = frozenset((b"D",))
_QUERIED: Final = frozenset((b"Q", b"D"))
_EXECUTED: Final = frozenset((b"E",))
_PREPARED: Final = frozenset((b"P",))
_BOUND: Final = frozenset((b"B",))
_CLOSED: Final = frozenset((b"C",))
_ASKED: Final = frozenset((INQUIRY,))
_STARTED: Final = frozenset((STARTUP,))
_SYNCED: Final = frozenset((b"Q", b"S", STARTUP))
_ANSWERS = frozenset((b"1", b"2", b"3", b"C", b"D", b"T", b"n", b"s", b"t"))
_ROW = ord("D")
_COPY = ord("d")
_BATCH = 1024 * 1024
"""Rows are shown in batches of about this many bytes."""
_FATAL = frozenset({b"FATAL", b"PANIC"})
_TROUBLE = Refusal("58000", "extproc: the database refused the login")
_SHOWN_CLASSES = frozenset({"53", "57", "3D", "08"})
"""SQLSTATE classes of a failed upstream login that a client may know: full, starting or stopping, no such database."""


class LoginFailedError(Exception):
    """The server ended the login; `refusal` is what the client may know of it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def login_failure(body: bytes) -> LoginFailedError:
    """The server's own text names its user and host: the client sees the SQLSTATE at most."""
    sqlstate = parse_fields(body).get("C", b"").decode("ascii", "replace")
    if sqlstate[:2] in _SHOWN_CLASSES and len(sqlstate) == 5:
        return LoginFailedError(Refusal(sqlstate, _TROUBLE.message))
    return LoginFailedError(_TROUBLE)


class ServerSide:
    """Reads what the server sends, in order. What nobody needs to see goes on as it came."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._buffer = Buffer()
        self._rest = 0
        self._streamed: Run | None = None
        self._asking: Literal["", "columns", "rows", "copy", "message"] = ""
        self._run: Run | None = None
        self._event: RowsReceived | CopyReceived | MessageReceived | None = None
        self._raw: list[bytes] = []
        self._handlers: dict[bytes, Callable[[bytes, bytes], None]] = {
            b"T": self._described, b"n": self._described, b"t": self._parameters, b"C": self._completed,
            b"I": self._empty, b"s": self._suspended, b"1": self._parsed, b"2": self._bound, b"3": self._closed,
            b"Z": self._ready, b"E": self._error, b"N": self._notice, b"A": self._notification,
            b"S": self._parameter, b"K": self._key, b"G": self._copy, b"H": self._copy, b"c": self._copy_done,
        }  # fmt: skip

    def receive(self, data: bytes) -> None:
        self._buffer.append(data)

    @property
    def is_empty(self) -> bool:
        return self._rest == 0 and not self._buffer

    def pump(self) -> None:
        """Go on as far as possible. Raises ProtocolError, LoginFailedError."""
        session = self._session
        while not self._asking:
            if self._rest:
                if not self._buffer:
                    return
                taken = self._buffer.take(self._rest)
                self._rest -= len(taken)
                self._send_data(self._streamed, taken)
                if not self._rest:
                    session.at_boundary()
                continue
            head = self._buffer.head()
            if head is None:
                return
            kind, size = head
            if size < 5:
                raise malformed("server's")
            if session.inquiring and kind in _ANSWERS and self._inquiry() is not None:
                if size > session.limits.server_message:
                    raise ProtocolError("too-long", "the server sent a message that is too long to read")
                if len(self._buffer) < size:
                    return
                self._answer(kind, self._buffer.take(size)[5:])
            elif kind == b"D":
                if not self._rows(size):
                    return
            elif kind == b"d":
                if not self._copy_data(size):
                    return
            else:
                handler = self._handlers.get(kind)
                if handler is None:
                    raise _unexpected(kind)
                if size > session.limits.server_message:
                    raise ProtocolError("too-long", "the server sent a message that is too long to read")
                if len(self._buffer) < size:
                    return
                raw = self._buffer.take(size)
                handler(raw, raw[5:])
        if len(self._buffer) > session.limits.waiting:
            raise ProtocolError("too-much-waiting", "the server sent more than may wait for an answer")

    def _head(self, kinds: frozenset[bytes], kind: bytes) -> Awaited:
        """What the server answers: one of `kinds`, or it makes no sense to us."""
        head = self._session.head()
        if head is None or head.kind not in kinds:
            raise _unexpected(kind)
        if head.refusal is not None and kind != b"Z":
            raise ProtocolError("refusal-failed", "the server accepted what it had to refuse")
        return head

    def _pop(self) -> None:
        self._session.awaited.popleft()

    def _send(self, raw: bytes) -> None:
        self._session.to_client.append(raw)

    def _send_data(self, run: Run | None, data: bytes) -> None:
        """Rows or COPY data."""
        if run is not None and run.tap is not None:
            run.tap(data)
        self._session.to_client.append(data)

    # questions of ours

    def _inquiry(self) -> Inquiry | None:
        head = self._session.head()
        return head.inquiry if head is not None else None

    def _answer(self, kind: bytes, body: bytes) -> None:
        session = self._session
        head = self._head(_ASKED, kind)
        inquiry, run = head.inquiry, head.run
        assert inquiry is not None and run is not None  # noqa: S101 - an inquiry is only sent with both
        if not inquiry.receive(kind, body):
            return
        self._pop()
        session.inquiring = False
        if run.kind == "simple" and inquiry.runs:
            # what ran is over before a statement that may want no transaction around it (VACUUM) begins
            session.to_server.append(SYNC)
            session.awaited.append(Awaited(b"S", swallow=True))
        if session.waiting is not None and session.waiting.id == run.id:
            session.events.append(InquiryAnswered(run.id, inquiry.columns, inquiry.rows))

    def _inquiry_failed(self, run: Run, sqlstate: str) -> None:
        """The server's error is the answer to the statement that waited for ours."""
        session = self._session
        session.inquiring = False
        session.waiting = session.waiting_run = None
        session.end(run, "error", executed=False, sqlstate=sqlstate)
        if run.kind == "simple":  # what ends it is ReadyForQuery, which only Sync brings
            self._pop()
            session.to_server.append(SYNC)
            session.awaited.append(Awaited(b"Q", answered=True))
        else:
            session.drop_batch()

    # rows

    def _rows(self, first_size: int) -> bool:
        run = self._head(_RUNNING, b"D").run
        assert run is not None  # noqa: S101 - Q and E without a refusal always have one
        if run.wants_rows and run.columns is None:
            raise ProtocolError("undescribed-rows", "the server sent rows it had not described")
        if not run.reading:
            size, count, unfinished = self._buffer.run_of(_ROW, 1 << 62)
            if size:
                self._send_data(run, self._buffer.take(size))
            run.rows += count
            run.bytes_returned += size
            if unfinished:
                if unfinished < 5:
                    raise malformed("DataRow")
                run.rows += 1
                run.bytes_returned += unfinished
                self._stream(run, unfinished)
            return True
        if first_size > self._session.limits.row:
            raise ProtocolError("row-too-long", "a row that must be read is too long")
        if len(self._buffer) < first_size:
            return False
        size, _, _ = self._buffer.run_of(_ROW, _BATCH)
        self._show(run, self._buffer.take(size))
        return True

    def _show(self, run: Run, data: bytes) -> None:
        columns = run.columns or ()
        raws: list[bytes] = []
        rows = []
        at = 0
        while at < len(data):
            size = 1 + int(UINT32.unpack_from(data, at + 1)[0])
            raws.append(data[at : at + size])
            rows.append(parse_data_row(data[at + 5 : at + size], len(columns)))
            at += size
        self._asking, self._run, self._raw = "rows", run, raws
        self._event = RowsReceived(run.id, columns, tuple(rows))
        self._session.events.append(self._event)

    def replace_rows(self, id: int, rows: Sequence[Sequence[bytes | None] | None]) -> None:
        run, event = self._run, self._event
        if self._asking != "rows" or run is None or run.id != id or not isinstance(event, RowsReceived):
            raise ValueError("no rows wait for an answer")
        if len(rows) != len(event.rows):
            raise ValueError("an answer names every row")
        out = []
        for raw, old, new in zip(self._raw, event.rows, rows, strict=True):
            if new is None or new is old:
                out.append(raw)
            elif len(new) != len(old):
                raise ValueError("a row keeps its number of columns")
            else:
                out.append(build_data_row(new))
        data = b"".join(out)
        run.rows += len(rows)
        run.bytes_returned += len(data)
        self._send_data(run, data)
        self._answered()

    def decide_columns(self, id: int, *, read: bool) -> None:
        run = self._run
        if self._asking != "columns" or run is None or run.id != id:
            raise ValueError("no description waits for an answer")
        run.reading = read
        self._answered()

    def _answered(self) -> None:
        self._asking, self._run, self._event, self._raw = "", None, None, []

    def _described(self, raw: bytes, body: bytes) -> None:
        kind = raw[:1]
        head = self._head(_QUERIED if kind == b"T" else _DESCRIBED, kind)
        run = head.run
        if not head.swallow:
            self._send(raw)
        if head.kind == b"D":
            self._pop()
        if run is None or (head.kind == b"D" and not head.swallow):
            return
        run.reading = False
        run.columns = None
        if kind == b"T" and run.wants_rows:
            run.columns = parse_row_description(body, self._session.codec or "latin-1")
            self._asking, self._run = "columns", run
            self._session.events.append(RowsDescribed(run.id, run.results, run.columns))
        run.results += kind == b"T"

    def _parameters(self, raw: bytes, body: bytes) -> None:
        prepared = self._head(_DESCRIBED, b"t").prepared
        types = parse_parameter_description(body)
        if prepared is not None:
            prepared.types = types
        self._send(raw)

    # the ends of things

    def _completed(self, raw: bytes, body: bytes) -> None:
        head = self._head(_RUNNING, b"C")
        tag, at = cstring(body, 0, "CommandComplete")
        if at != len(body):
            raise malformed("CommandComplete")
        self._send(raw)
        if head.run is not None:
            head.run.count_tag(tag.decode("ascii", "replace"))
        self._finish(head)

    def _empty(self, raw: bytes, body: bytes) -> None:
        head = self._head(_RUNNING, b"I")
        self._send(raw)
        self._finish(head)

    def _finish(self, head: Awaited) -> None:
        self._session.copying_in = False
        if head.kind == b"E":
            self._pop()
            self._session.end(head.run, "complete", executed=True)
        elif head.run is not None:
            head.answered = True
            head.run.columns = None
            head.run.reading = False

    def _suspended(self, raw: bytes, body: bytes) -> None:
        run = self._head(_EXECUTED, b"s").run
        self._pop()
        if run is not None:
            run.suspended = True
        self._send(raw)

    def _parsed(self, raw: bytes, body: bytes) -> None:
        head = self._head(_PREPARED, b"1")
        self._pop()
        self._session.prepared(head)
        self._session.end(head.run, "complete", executed=False)
        self._send(raw)

    def _bound(self, raw: bytes, body: bytes) -> None:
        head = self._head(_BOUND, b"2")
        self._pop()
        run = head.run
        assert run is not None  # noqa: S101 - a Bind is only sent with one
        run.reached = True
        before = self._session.portals.confirm(head.name, head, run)
        if before is not run:
            self._session.end(before, "unexecuted", executed=True)
        self._send(raw)

    def _closed(self, raw: bytes, body: bytes) -> None:
        head = self._head(_CLOSED, b"3")
        self._pop()
        if head.which == b"S":
            self._session.prepared(head)
        else:
            self._session.end(
                self._session.portals.confirm(head.name, head, None), "unexecuted", executed=True
            )
        self._send(raw)

    def _ready(self, raw: bytes, body: bytes) -> None:
        session = self._session
        head = self._head(_SYNCED, b"Z")
        if body not in (b"I", b"T", b"E"):
            raise malformed("ReadyForQuery")
        if head.refusal is not None:
            raise ProtocolError("refusal-failed", "the server accepted what it had to refuse")
        if head.kind == b"Q" and not head.answered:
            # of a Sync that we believed ignored: from here on we would take answers for those of others
            raise _unexpected(b"Z")
        session.transaction = cast(TransactionStatus, body.decode())
        self._pop()
        session.copying_in = False
        if head.kind == STARTUP:
            session.events.append(LoggedIn(session.backend_key))
        session.end(head.run, "complete", executed=True)
        if body == b"I":
            session.transaction_over()
        if not head.swallow:
            self._send(raw)

    def _error(self, raw: bytes, body: bytes) -> None:
        session = self._session
        fields = parse_fields(body)
        head = session.head()
        if head is not None and head.kind == STARTUP:
            raise login_failure(body)
        sqlstate = fields.get("C", b"").decode("ascii", "replace")
        run = head.run if head is not None else None
        if fields.get("V", fields.get("S", b"")) in _FATAL:
            self._pass_message(raw, "error", fields, run)
            session.end(run, "error", True, sqlstate)
            return
        if head is None:
            raise _unexpected(b"E")
        if head.refusal is not None:
            self._send(build_error(head.refusal, codec=session.codec or "utf-8"))
            session.end(run, "denied", executed=False)
            head.refusal = None
        else:
            self._pass_message(raw, "error", fields, run)
            if head.inquiry is not None and run is not None:
                self._inquiry_failed(run, sqlstate)
                return
            session.end(run, "error", head.kind != b"P", sqlstate)
        session.copying_in = False
        head.answered = True
        if head.kind not in {b"Q", b"S"}:  # those are followed by ReadyForQuery
            session.drop_batch()

    # messages

    def _notice(self, raw: bytes, body: bytes) -> None:
        head = self._session.head()
        run = head.run if head is not None else None
        self._pass_message(raw, "notice", parse_fields(body, "NoticeResponse"), run)

    def _notification(self, raw: bytes, body: bytes) -> None:
        channel, at = cstring(body, 4, "NotificationResponse")
        payload, at = cstring(body, at, "NotificationResponse")
        if at != len(body):
            raise malformed("NotificationResponse")
        self._pass_message(raw, "notification", {"channel": channel, "payload": payload}, None)

    def _pass_message(
        self,
        raw: bytes,
        kind: Literal["error", "notice", "notification"],
        fields: dict[str, bytes],
        run: Run | None,
    ) -> None:
        session = self._session
        if not session.read_messages:
            self._send(raw)
            return
        codec = session.codec or "latin-1"
        text = {name: value.decode(codec, "replace") for name, value in fields.items()}
        self._asking, self._raw = "message", [raw]
        self._event = MessageReceived(kind, text, run.id if run is not None else None)
        session.events.append(self._event)

    def replace_message(self, fields: dict[str, str] | None) -> None:
        event = self._event
        if self._asking != "message" or not isinstance(event, MessageReceived):
            raise ValueError("no message waits for an answer")
        raw = self._raw[0]
        codec = self._session.codec or "latin-1"
        if fields is None or fields == event.fields:
            self._send(raw)
        elif event.kind == "notification":
            parts = [
                fields[name].encode(codec, "replace").replace(b"\x00", b"") for name in ("channel", "payload")
            ]
            self._send(build(b"A", raw[5:9] + b"\x00".join(parts) + b"\x00"))
        else:
            self._send(
                build_fields(raw[:1], {name: text.encode(codec, "replace") for name, text in fields.items()})
            )
        self._answered()

    def _parameter(self, raw: bytes, body: bytes) -> None:
        name, at = cstring(body, 0, "ParameterStatus")
        value, at = cstring(body, at, "ParameterStatus")
        if at != len(body):
            raise malformed("ParameterStatus")
        self._session.report(name, value)
        self._send(raw)

    def _key(self, raw: bytes, body: bytes) -> None:
        self._head(_STARTED, b"K")
        if not 8 <= len(body) <= 4 + 256:
            raise malformed("BackendKeyData")
        self._session.backend_key = BackendKey(UINT32.unpack_from(body)[0], body[4:])
        self._send(raw)

    # COPY

    def _copy(self, raw: bytes, body: bytes) -> None:
        session = self._session
        run = self._head(_RUNNING, raw[:1]).run
        if len(body) < 3 or len(body) != 3 + 2 * UINT16.unpack_from(body, 1)[0]:
            raise malformed("CopyResponse")
        assert run is not None  # noqa: S101 - Q and E without a refusal always have one
        if raw[:1] == b"H" and run.wants_rows and not run.wants_copy:
            raise ProtocolError("copy-unread", "COPY data cannot be read, and this statement's rows must be")
        session.events.append(
            CopyStarted(run.id, "in" if raw[:1] == b"G" else "out", body[0] != 0, (len(body) - 3) // 2)
        )
        self._send(raw)
        if raw[:1] == b"G":
            session.copy_begins()

    def _copy_data(self, first_size: int) -> bool:
        run = self._head(_RUNNING, b"d").run
        if run is not None and run.wants_copy:
            if first_size > self._session.limits.row:
                raise ProtocolError("row-too-long", "COPY data that must be read is too long")
            if len(self._buffer) < first_size:
                return False
            size, _, _ = self._buffer.run_of(_COPY, _BATCH)
            self._show_copy(run, self._buffer.take(size))
            return True
        size, _, unfinished = self._buffer.run_of(_COPY, 1 << 62)
        if size:
            self._send_data(run, self._buffer.take(size))
        if unfinished:
            if unfinished < 5:
                raise malformed("CopyData")
            self._stream(run, unfinished)
        if run is not None:
            run.bytes_returned += size + unfinished
        return True

    def _show_copy(self, run: Run, data: bytes, *, is_last: bool = False) -> None:
        pieces = []
        at = 0
        while at < len(data):
            end = at + 1 + int(UINT32.unpack_from(data, at + 1)[0])
            pieces.append(data[at + 5 : end])
            at = end
        self._asking, self._run = "copy", run
        self._event = CopyReceived(run.id, tuple(pieces), is_last)
        self._session.events.append(self._event)

    def replace_copy(self, id: int, pieces: Sequence[bytes]) -> None:
        run, event = self._run, self._event
        if self._asking != "copy" or run is None or run.id != id or not isinstance(event, CopyReceived):
            raise ValueError("no COPY data waits for an answer")
        data = b"".join([HEAD.pack(b"d", len(piece) + 4) + piece for piece in pieces])
        run.bytes_returned += len(data)
        if data:
            self._send_data(run, data)
        if event.is_last:
            self._send(build(b"c", b""))
        self._answered()

    def _copy_done(self, raw: bytes, body: bytes) -> None:
        run = self._head(_RUNNING, b"c").run
        if body:
            raise malformed("CopyDone")
        if run is not None and run.wants_copy:
            self._show_copy(run, b"", is_last=True)
        else:
            self._send(raw)

    def _stream(self, run: Run | None, size: int) -> None:
        """The message in front goes on piece by piece, as it comes."""
        self._rest = size
        self._streamed = run
        self._session.client_boundary = False


def _unexpected(kind: bytes) -> ProtocolError:
    name = kind.decode("ascii") if kind.isalnum() else "unknown"
    return ProtocolError("unexpected-message", f"the server sent a message ({name}) that answers nothing")
