"""From the client to the server, once logged in. A statement waits here until it is answered."""

from __future__ import annotations

from collections.abc import Callable

from extproc.domain.errors import ProtocolError
from extproc.protocols.endings import ClientLeft
from extproc.protocols.postgres.buffer import Buffer
from extproc.protocols.postgres.events import BoundParameter, StatementReceived
from extproc.protocols.postgres.inquiry import INQUIRY, Inquiry
from extproc.protocols.postgres.limits import Refusal
from extproc.protocols.postgres.messages import (
    TERMINATE,
    build_parse,
    build_query,
    build_target,
    malformed,
    parse_bind,
    parse_execute,
    parse_parse,
    parse_query,
    parse_target,
)
from extproc.protocols.postgres.names import is_barrier, key_of
from extproc.protocols.postgres.running import COPY_END, STARTUP, Awaited, Prepared, Run, parameters_of
from extproc.protocols.postgres.session import Session, copy_violation

REFUSED_TEXT = b"/* refused by extproc */ !"
"""No statement in any version: the server says syntax error, in every state of a transaction."""
REFUSED_NAME = b"extproc refused"
"""Never defined: what has a syntax error is not stored. So the client's unnamed statement stays as it was."""

_SMALL = 64 * 1024
_KNOWN = frozenset(b"QPBDECSHXdcfF")

_TOO_LONG = Refusal("54000", "extproc: the message is longer than is allowed here")
_UNREADABLE = Refusal("0A000", "extproc: the text is in an encoding that cannot be judged")
_FUNCTION_CALL = Refusal("0A000", "extproc: function calls by OID are not allowed here")
_TOO_MANY = Refusal("53400", "extproc: too many prepared statements on this connection")


class ClientSide:
    """Reads what the client sends, in order, and stops where an answer is needed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._buffer = Buffer()
        self._rest = 0
        self._discard = False
        self._raw = b""
        self._target = b""
        """The name that the waiting Parse or Bind defines."""
        self._flushed = False
        self._withheld: tuple[bytes, Awaited] | None = None
        """A Parse that may go. It stays until the next message: if that is its Bind, both go or neither."""
        self.has_left = False

    def receive(self, data: bytes) -> None:
        if not self.has_left:
            self._buffer.append(data)

    def leave(self) -> None:
        """The client will send no more; what still waited is abandoned."""
        if not self.has_left:
            self.has_left = True
            self._buffer.clear()
            self._drop_withheld()
            self._session.stop_waiting("abandoned")
            self._session.events.append(ClientLeft())

    @property
    def is_between(self) -> bool:
        """The server was sent whole messages only."""
        return self._rest == 0 or self._discard

    @property
    def is_empty(self) -> bool:
        return self._rest == 0 and not self._buffer and self._withheld is None

    def pump(self) -> None:
        """Go on as far as possible. Raises ProtocolError."""
        session = self._session
        while not self.has_left:
            if self._rest:
                if not self._buffer:
                    return
                self._pass(self._rest)
                continue
            if session.waiting is not None:
                break
            if not self._next():
                break
        if len(self._buffer) > session.limits.waiting:
            raise ProtocolError("too-much-waiting", "the client sent more than may wait for an answer")

    def _next(self) -> bool:
        """Handles one message. False when it has to wait."""
        head = self._buffer.head()
        if head is None:
            return False
        kind, size = head
        if size < 5 or kind[0] not in _KNOWN:
            raise ProtocolError("unknown-message", "the client sent a message that does not exist")
        session = self._session
        if session.awaited and session.awaited[0].kind == STARTUP:
            return False
        if session.copying_in and (
            kind not in {b"d", b"c", b"f", b"S", b"H", b"X"} or self._withheld is not None
        ):
            raise copy_violation()
        if session.skipping:
            self._drop_withheld()
        elif kind not in {b"B", b"X"} or size > session.limits.statement:
            self._release()
        if session.skipping and kind not in {b"S", b"X"}:
            self._start(size, discard=True)
            return True
        if kind == b"d":
            self._copy_data(size)
            return True
        if not self._may_go_on(kind):
            return False
        if kind in {b"Q", b"P", b"B"} and size > session.limits.statement:
            self._start(size, discard=True)
            self._refuse(kind, _TOO_LONG)
            return True
        if kind == b"F":
            self._start(size, discard=True)
            self._refuse(b"Q", _FUNCTION_CALL)
            return True
        if kind not in {b"Q", b"P", b"B", b"f"} and size > _SMALL:
            raise ProtocolError("too-long", "the client sent a message longer than its kind can be")
        if kind == b"f" and size > session.limits.statement:
            raise ProtocolError("too-long", "the client sent a message longer than its kind can be")
        if len(self._buffer) < size:
            return False
        return self._whole(kind, size)

    def _may_go_on(self, kind: bytes) -> bool:
        session = self._session
        if kind in {b"c", b"f", b"X", b"H"}:
            return True
        if session.barrier and not session.copying_in:
            if session.head() is not None:
                return False
            session.barrier = False
        if len(session.awaited) < session.limits.outstanding:
            self._flushed = False
            return True
        if not self._flushed:
            self._flushed = True
            session.ask_for_answers()
        return False

    def _whole(self, kind: bytes, size: int) -> bool:
        raw = self._buffer.peek(size)
        body = raw[5:]
        if kind == b"Q":
            self._query(raw, body)
        elif kind == b"P":
            self._parse(raw, body)
        elif kind == b"B":
            if not self._bind(raw, body):
                return False
        elif kind == b"E":
            if not self._execute(raw, body):
                return False
        elif kind in {b"D", b"C"}:
            if not self._describe_or_close(kind, raw, body):
                return False
        else:
            self._control(kind, raw, body)
        self._buffer.take(size)
        if self.has_left:
            self._buffer.clear()
        return True

    # statements

    def _query(self, raw: bytes, body: bytes) -> None:
        text = self._decode(parse_query(body))
        if text is None:
            self._refuse(b"Q", _UNREADABLE)
            return
        self._ask(raw, Run(self._session.next_run(), "simple", text), b"")

    def _parse(self, raw: bytes, body: bytes) -> None:
        session = self._session
        message = parse_parse(body)
        text, name = self._decode(message.text), self._decode(message.name)
        if text is None or name is None:
            self._refuse(b"P", _UNREADABLE)
            return
        if (
            len(session.statements) >= session.limits.names
            or session.remembered + len(raw) > session.limits.remembered
        ):
            self._refuse(b"P", _TOO_MANY)
            return
        run = Run(session.next_run(), "parse", text)
        self._ask(raw, run, message.name, name=name, types=message.types)

    def _bind(self, raw: bytes, body: bytes) -> bool:
        session = self._session
        message = parse_bind(body)
        prepared = session.statements.find(key_of(message.statement), session.batch)
        if prepared == "later":
            return False
        if self._withheld is not None and self._withheld[1].name != key_of(message.statement):
            self._release()
        name, portal = self._decode(message.statement), self._decode(message.portal)
        if name is None or portal is None:
            self._refuse(b"B", _UNREADABLE)
        elif prepared is None:
            self._refuse(b"B", _unknown("26000", "prepared statement", name))
        elif len(session.portals) >= session.limits.names:
            self._refuse(b"B", _TOO_MANY)
        else:
            formats = tuple(message.format_of(number) for number in range(len(message.values)))
            run = Run(session.next_run(), "bound", prepared.text)
            parameters = parameters_of(message.values, formats, prepared)
            self._ask(
                raw,
                run,
                message.portal,
                name=name,
                portal=portal,
                parameters=parameters,
                types=prepared.types,
            )
        return True

    def _ask(
        self,
        raw: bytes,
        run: Run,
        target: bytes,
        *,
        name: str = "",
        portal: str = "",
        parameters: tuple[BoundParameter, ...] = (),
        types: tuple[int, ...] = (),
    ) -> None:
        session = self._session
        self._raw, self._target = raw, target
        session.waiting_run = run
        session.waiting = StatementReceived(
            run.id,
            run.kind,
            run.text,
            parameters,
            types,
            name,
            portal,
            session.transaction,
            len(session.awaited),
            session.settings,
        )
        session.events.append(session.waiting)

    def inquire(self, id: int, text: str, *, runs: bool) -> bool:
        """Ask the server something before the waiting statement is answered."""
        session = self._session
        asked = session.waiting
        if asked is None or asked.id != id or session.inquiring:
            return False
        if session.copying_in:
            raise copy_violation()
        codec = session.codec or "latin-1"
        inquiry = Inquiry(runs=runs, codec=codec)
        session.inquiring = True
        session.to_server.append(inquiry.messages(text.encode(codec)))
        session.awaited.append(Awaited(INQUIRY, session.waiting_run, inquiry=inquiry))
        return True

    def forward(self, id: int, *, rows: bool, copy: bool, tap: Callable[[bytes], None] | None) -> bool:
        """The waiting statement goes to the server as it came; a Parse together with what follows it."""
        session = self._session
        asked, run = session.waiting, session.waiting_run
        if asked is None or run is None or asked.id != id:
            return False
        if session.copying_in:
            raise copy_violation()
        session.waiting = session.waiting_run = None
        raw, self._raw = self._raw, b""
        run.wants_rows = rows and run.kind != "parse"
        run.wants_copy = copy and run.kind != "parse"
        run.tap = tap if run.kind != "parse" else None
        run.is_barrier = run.kind != "parse" and is_barrier(run.text)
        if run.kind != "parse":
            self._release()
            session.to_server.append(raw)
        if run.kind == "simple":
            session.forget_by_text(run.text)
            session.awaited.append(Awaited(b"Q", run))
            self._raise_barrier(run)
        elif run.kind == "parse":
            prepared = Prepared(run.text, asked.parameter_types, len(raw))
            session.remembered += prepared.size
            key = key_of(self._target)
            awaited = Awaited(b"P", run, name=key, prepared=prepared, batch=session.batch)
            session.statements.announce(key, awaited, prepared)
            self._withheld = raw, awaited
        else:
            session.forget_by_text(run.text)
            awaited = Awaited(b"B", run, name=key_of(self._target), batch=session.batch)
            session.portals.announce(awaited.name, awaited, run)
            session.awaited.append(awaited)
            if rows:  # clients may execute what they never described
                session.to_server.append(build_target(b"D", b"P", self._target))
                session.awaited.append(Awaited(b"D", run, swallow=True, which=b"P"))
        return True

    def deny(self, id: int, refusal: Refusal) -> bool:
        """The server is given something it must refuse in place of the waiting statement."""
        session = self._session
        asked, run = session.waiting, session.waiting_run
        if asked is None or run is None or asked.id != id:
            return False
        if session.copying_in:
            raise copy_violation()
        session.waiting = session.waiting_run = None
        self._raw = b""
        if run.kind == "parse" and not self._target:  # a Parse that fails leaves no unnamed statement behind
            session.statements.forget(b"")
        self._drop_withheld()
        self._substitute(b"Q" if run.kind == "simple" else b"P", refusal, run)
        return True

    def _release(self) -> None:
        if self._withheld is not None:
            raw, awaited = self._withheld
            self._withheld = None
            self._session.to_server.append(raw)
            self._session.awaited.append(awaited)

    def _drop_withheld(self) -> None:
        if self._withheld is not None:
            _, awaited = self._withheld
            self._withheld = None
            self._session.drop(awaited)

    def _refuse(self, kind: bytes, refusal: Refusal) -> None:
        self._release()
        self._session.refuse(refusal)
        self._substitute(b"Q" if kind == b"Q" else b"P", refusal, None)

    def _substitute(self, kind: bytes, refusal: Refusal, run: Run | None) -> None:
        session = self._session
        if kind == b"Q":
            session.to_server.append(build_query(REFUSED_TEXT))
        else:
            session.to_server.append(build_parse(REFUSED_NAME, REFUSED_TEXT))
            session.skipping = True
        session.awaited.append(Awaited(kind, run, refusal, name=REFUSED_NAME))

    def _raise_barrier(self, run: Run) -> None:
        if run.is_barrier:
            self._session.ask_for_answers()
            self._session.barrier = True

    # the rest of the extended protocol

    def _execute(self, raw: bytes, body: bytes) -> bool:
        session = self._session
        portal = parse_execute(body)
        run = session.portals.find(key_of(portal), session.batch)
        if run == "later":
            return False
        if run is None:
            self._refuse(b"E", _unknown("34000", "portal", self._decode(portal) or "?"))
            return True
        session.to_server.append(raw)
        session.awaited.append(Awaited(b"E", run))
        self._raise_barrier(run)
        return True

    def _describe_or_close(self, kind: bytes, raw: bytes, body: bytes) -> bool:
        session = self._session
        which, name = parse_target(body, "Describe" if kind == b"D" else "Close")
        key = key_of(name)
        found = session.statements.find(key, session.batch) if which == b"S" else None
        awaited = Awaited(kind, which=which, name=key, batch=session.batch)
        if kind == b"D":
            if found == "later":
                return False
            awaited.prepared = found
        elif which == b"S":
            session.statements.announce(key, awaited, None)
        else:
            session.portals.announce(key, awaited, None)
        session.to_server.append(raw)
        session.awaited.append(awaited)
        return True

    def _control(self, kind: bytes, raw: bytes, body: bytes) -> None:
        session = self._session
        if kind in {b"S", b"H", b"X", b"c"} and body:
            raise malformed({b"S": "Sync", b"H": "Flush", b"X": "Terminate", b"c": "CopyDone"}[kind])
        session.to_server.append(raw)
        if kind == b"S":
            session.skipping = False
            session.batch += 1
            if not session.copying_in:  # during COPY the server ignores Sync
                session.awaited.append(Awaited(b"S"))
        elif kind == b"X":
            self.leave()
        elif kind in {b"c", b"f"}:
            if session.copying_in:
                session.copying_in = False
            else:  # ahead of the server's CopyInResponse, or after its error
                session.awaited.append(Awaited(COPY_END))

    # bytes that nobody reads

    def _copy_data(self, size: int) -> None:
        for awaited in reversed(self._session.awaited):  # some clients do not wait for CopyInResponse
            if awaited.run is not None:
                awaited.run.copied_in += size - 5
            if awaited.kind != b"S":
                break
        self._start(size, discard=False)

    def _start(self, size: int, *, discard: bool) -> None:
        self._rest = size
        self._discard = discard

    def _pass(self, size: int) -> None:
        taken = self._buffer.take(size)
        self._rest -= len(taken)
        if not self._discard:
            self._session.to_server.append(taken)

    def _decode(self, data: bytes) -> str | None:
        codec = self._session.codec
        if codec is None:
            return None
        try:
            return data.decode(codec)
        except UnicodeDecodeError:
            return None

    def say_goodbye(self) -> None:
        """Terminate, where the server would understand it."""
        if self.is_between:
            self._session.to_server.append(TERMINATE)


def _unknown(sqlstate: str, what: str, name: str) -> Refusal:
    return Refusal(
        sqlstate,
        f'{what} "{name}" does not exist',
        "extproc knows only what was defined, and judged, by protocol messages on this connection.",
    )
