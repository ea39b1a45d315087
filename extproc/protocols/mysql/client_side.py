"""What the client says once it is logged in: one command at a time, judged before it goes on."""

from __future__ import annotations

from collections.abc import Callable

from extproc.domain.errors import ProtocolError
from extproc.protocols.endings import Refused
from extproc.protocols.mysql.commands import (
    COMMANDS,
    FIELD_LIST,
    INIT_DB,
    QUERY,
    RESET_CONNECTION,
    STATISTICS,
    STMT_RESET,
    UNKNOWN,
    Command,
)
from extproc.protocols.mysql.events import BoundParameter, StatementKind, StatementReceived
from extproc.protocols.mysql.limits import Refusal
from extproc.protocols.mysql.packets import HEAD_BYTES, LONGEST, PacketBuffer, build_packets, out_of_order
from extproc.protocols.mysql.parameters import read_parameters
from extproc.protocols.mysql.running import Prepared, Run, Session, Waiting
from extproc.protocols.mysql.values import malformed, read_cstring, read_int

TOO_LONG = Refusal(1153, "08S01", "extproc: this statement is longer than this target allows")
NOT_TEXT = Refusal(1300, "HY000", "extproc: this statement is not text in the connection's character set")
NO_SUCH = Refusal(1243, "HY000", "extproc: no such prepared statement")
LONG_DATA_TOO_LONG = Refusal(1153, "08S01", "extproc: these parameters are longer than this target allows")


class ClientSide:
    """Commands in, events out. `expect` is told what went to the server."""

    def __init__(self, session: Session, expect: Callable[[Run, int], None]) -> None:
        self._session = session
        self._expect = expect
        self._buffer = PacketBuffer()
        self._skipping = False
        """The command in front is too long: its bytes are thrown away."""
        self._rest = 0
        self._goes_on = True
        self._sequence = 0
        self.has_quit = False
        self.login: tuple[bytes, int] | None = None
        """COM_CHANGE_USER came, and the sequence id of what answers it: nothing is heard here until that is through."""

    @property
    def is_empty(self) -> bool:
        return not len(self._buffer) and not self._skipping

    def receive(self, data: bytes) -> None:
        self._buffer.append(data)

    def pump(self) -> None:
        """Take commands until one waits. Raises ProtocolError."""
        session = self._session
        while (
            session.waiting is None
            and session.running is None
            and not self.has_quit
            and self.login is None
            and self._step()
        ):
            pass
        if (session.waiting is not None or session.running is not None) and len(
            self._buffer
        ) > session.limits.waiting:
            raise ProtocolError("too-much-waiting", "the client sent more than may wait")

    def _step(self) -> bool:
        if self._skipping:
            return self._skip()
        limit = self._session.limits.statement + 1
        if self._buffer.size_in_front()[0] > limit:
            self._skipping, self._rest, self._goes_on, self._sequence = True, 0, True, 0
            return True
        found = self._buffer.payload(0, limit)
        if found is None:
            return False
        payload, sequence = found
        if not payload:
            raise malformed("command")
        self._command(payload, sequence)
        return True

    def _skip(self) -> bool:
        buffer = self._buffer
        while self._rest or self._goes_on:
            if self._rest:
                dropped = len(buffer.take(self._rest))
                self._rest -= dropped
                if not dropped:
                    return False
                continue
            head = buffer.head()
            if head is None:
                return False
            buffer.take(HEAD_BYTES)
            self._rest, number = head
            if number != self._sequence & 0xFF:
                raise out_of_order()
            self._sequence += 1
            self._goes_on = self._rest == LONGEST
        self._skipping = False
        self._refuse(TOO_LONG, self._sequence)
        return True

    # ------------------------------------------------------------------ commands

    def _command(self, payload: bytes, sequence: int) -> None:
        code = payload[0]
        command = COMMANDS.get(code, UNKNOWN)
        match command.fate:
            case "judge":
                self._judge(code, command, payload, sequence)
            case "prepare":
                text = self._decoded(payload[1:])
                if text is None:
                    self._refuse(NOT_TEXT, sequence)
                    return
                self._ask(
                    "parse", text, (), Run(answer=command.answer, prepared=Prepared(text)), payload, sequence
                )
            case "execute":
                self._execute(command, payload, sequence)
            case "fetch":
                self._fetch(command, payload, sequence)
            case "long-data":
                self._long_data(payload)
            case "close":
                number, at = read_int(payload, 1, 4, command.name)
                if at != len(payload):
                    raise malformed(command.name)
                self._session.drop(number)
                self._session.to_server.append(build_packets(payload, 0))
            case "reset":
                self._reset(code, command, payload, sequence)
            case "pass":
                self._send(Run(answer=command.answer), payload, sequence)
            case "login":
                self.login = payload, sequence
            case "quit":
                self.has_quit = True
                self._session.to_server.append(build_packets(payload, 0))
            case "refuse":
                self._ask("command", command.name, (), Run(answer=command.answer), payload, sequence)

    def _judge(self, code: int, command: Command, payload: bytes, sequence: int) -> None:
        """Commands that are not text are judged as the text that does the same."""
        body = payload[1:]
        if code == FIELD_LIST:
            table, at = read_cstring(body, 0, command.name)
            shown, body = self._decoded(table), body[at:]
            text = f"SHOW COLUMNS FROM {_quoted(shown)}" if shown else None
            if self._decoded(body) is None:
                text = None
        elif code == INIT_DB:
            shown = self._decoded(body)
            text = f"USE {_quoted(shown)}" if shown else None
        elif code == STATISTICS:
            text = "SHOW STATUS"
        else:
            text = self._decoded(body)
        if text is None:
            self._refuse(NOT_TEXT, sequence)
            return
        kind = "simple" if code == QUERY else command.name
        self._ask("simple", text, (), Run(answer=command.answer, kind=kind), payload, sequence)

    def _execute(self, command: Command, payload: bytes, sequence: int) -> None:
        number, at = read_int(payload, 1, 4, command.name)
        flags, at = read_int(payload, at, 1, command.name)
        repeated, at = read_int(payload, at, 4, command.name)
        made = self._session.find(number)
        if made is None:
            self._refuse(NO_SUCH, sequence)
            return
        if flags & ~7 or repeated != 1:
            raise malformed(command.name)
        if made.is_too_long:
            made.forget_long_data()
            self._refuse(LONG_DATA_TOO_LONG, sequence)
            return
        parameters: tuple[BoundParameter, ...] = ()
        types: tuple[int, ...] = ()
        if made.count:
            long_data = {which: bytes(data) for which, data in made.long_data.items()}
            parameters, types = read_parameters(
                payload, at, made.count, made.types, long_data, self._session.codec
            )
        self._session.close_cursor(made)
        run = Run(answer=command.answer, prepared=made)
        self._ask("bound", made.text, parameters, run, payload, sequence, types)

    def _fetch(self, command: Command, payload: bytes, sequence: int) -> None:
        number, _ = read_int(payload, 1, 4, command.name)
        made = self._session.find(number)
        cursor = made.cursor if made is not None else None
        if made is None or cursor is None:
            self._refuse(NO_SUCH, sequence)
            return
        cursor.answer = command.answer
        self._send(cursor, payload, sequence)

    def _long_data(self, payload: bytes) -> None:
        """Kept until the statement runs: what the server was given could not be taken back. Nothing is answered."""
        number, at = read_int(payload, 1, 4, "COM_STMT_SEND_LONG_DATA")
        which, at = read_int(payload, at, 2, "COM_STMT_SEND_LONG_DATA")
        made = self._session.find(number)
        if made is None or which >= made.count or made.is_too_long:
            return
        made.long_data.setdefault(which, bytearray()).extend(payload[at:])
        if sum(len(data) for data in made.long_data.values()) > self._session.limits.statement:
            made.long_data.clear()
            made.is_too_long = True

    def _reset(self, code: int, command: Command, payload: bytes, sequence: int) -> None:
        if code == STMT_RESET:
            number, _ = read_int(payload, 1, 4, command.name)
            made = self._session.find(number)
            if made is None:
                self._refuse(NO_SUCH, sequence)
                return
            made.forget_long_data()
            self._session.close_cursor(made)
        self._send(Run(answer=command.answer, is_reset=code == RESET_CONNECTION), payload, sequence)

    def take_rest(self) -> bytes:
        """What came behind the last command."""
        return self._buffer.take(len(self._buffer))

    # ------------------------------------------------------------------ asking and sending

    def _ask(
        self,
        kind: StatementKind,
        text: str,
        parameters: tuple[BoundParameter, ...],
        run: Run,
        payload: bytes,
        sequence: int,
        types: tuple[int, ...] = (),
    ) -> None:
        session = self._session
        run.id = session.new_id()
        run.kind = run.kind or kind
        session.waiting = Waiting(run.id, run, payload, sequence, types)
        session.events.append(
            StatementReceived(
                run.id,
                kind,
                text,
                parameters,
                session.in_transaction,
                run.prepared.note if run.prepared is not None else None,
            )
        )

    def _send(self, run: Run, payload: bytes, sequence: int) -> None:
        self._session.to_server.append(build_packets(payload, 0))
        self._expect(run, sequence)

    def forward(self, id: int, *, rows: bool, note: object, tap: Callable[[bytes], None] | None) -> bool:
        session, waiting = self._session, self._take(id)
        if waiting is None:
            return False
        run, made = waiting.run, waiting.run.prepared
        run.wants_rows, run.tap = rows, tap
        if run.kind == "parse" and made is not None:
            made.note = note
        if run.kind == "bound" and made is not None:
            for which, data in made.long_data.items():
                head = b"\x18" + made.id.to_bytes(4, "little") + which.to_bytes(2, "little")
                session.to_server.append(build_packets(head + data, 0))
            made.forget_long_data()
            made.types = waiting.types
        packets = build_packets(waiting.payload, 0)
        session.to_server.append(_without_cursor(packets) if rows and run.kind == "bound" else packets)
        self._expect(run, waiting.sequence)
        return True

    def read_again(self, id: int) -> bool:
        """The waiting command as it came, in the character set that is known by now: it is asked about anew."""
        waiting = self._take(id)
        if waiting is None:
            return False
        self._command(waiting.payload, waiting.sequence)
        return True

    def deny(self, id: int, refusal: Refusal) -> bool:
        waiting = self._take(id)
        if waiting is None:
            return False
        if waiting.run.prepared is not None:
            waiting.run.prepared.forget_long_data()
        self._session.refuse(refusal, waiting.sequence)
        self._session.end(waiting.run, "denied", executed=False)
        return True

    def complete(self, id: int, payload: bytes) -> bool:
        """Answer it here, as if the server had."""
        waiting = self._take(id)
        if waiting is None:
            return False
        self._session.to_client.append(build_packets(payload, waiting.sequence))
        self._session.end(waiting.run, "complete", executed=True)
        return True

    def abandon(self) -> None:
        """The client is gone: what waits never runs."""
        waiting, self._session.waiting = self._session.waiting, None
        if waiting is not None:
            self._session.end(waiting.run, "abandoned", executed=False)

    def _take(self, id: int) -> Waiting | None:
        session = self._session
        waiting = session.waiting
        if waiting is None or waiting.id != id or session.running is not None:
            return None
        session.waiting = None
        return waiting

    def _refuse(self, refusal: Refusal, sequence: int) -> None:
        self._session.refuse(refusal, sequence)
        self._session.events.append(Refused(refusal.sqlstate, refusal.message))

    def _decoded(self, raw: bytes) -> str | None:
        """The text; None where it is none. While the character set is in doubt everything is one, until it is read
        again."""
        try:
            return raw.decode(self._session.codec)
        except UnicodeDecodeError:
            return raw.decode("latin-1") if self._session.codec_is_doubted else None


def _without_cursor(packets: bytes) -> bytes:
    """COM_STMT_EXECUTE with its rows at once: of a cursor's MariaDB tells aliases in the place of real names."""
    at = HEAD_BYTES + 5
    return packets[:at] + b"\x00" + packets[at + 1 :]


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
