"""What both directions of a logged-in connection share: what is outstanding, what names mean, what is to be sent."""

from __future__ import annotations

from collections import deque

from extproc.domain.errors import ProtocolError
from extproc.protocols.endings import EndKind, Refused
from extproc.protocols.postgres.encodings import codec_for
from extproc.protocols.postgres.events import BackendKey, Event, StatementReceived, TransactionStatus
from extproc.protocols.postgres.limits import Limits, Refusal
from extproc.protocols.postgres.messages import FLUSH, build_error
from extproc.protocols.postgres.names import Names, forgets_portals, forgotten_statements
from extproc.protocols.postgres.running import COPY_END, STARTUP, Awaited, Prepared, Run


class Session:
    """Shared state, and the moves that touch both directions."""

    def __init__(self, limits: Limits, *, read_messages: bool) -> None:
        self.limits = limits
        self.read_messages = read_messages
        self.events: deque[Event] = deque()
        self.to_client: list[bytes] = []
        self.to_server: list[bytes] = []
        self.awaited: deque[Awaited] = deque((Awaited(STARTUP),))
        self.statements: Names[Prepared] = Names()
        self.portals: Names[Run] = Names()
        self.remembered = 0
        self.settings: dict[str, str] = {}
        self.codec: str | None = "utf-8"
        self.backend_key: BackendKey | None = None
        self.transaction: TransactionStatus = "I"
        self.batch = 0
        self.skipping = False
        """The server throws away everything up to Sync; so do we."""
        self.copying_in = False
        self.barrier = False
        self.inquiring = False
        """A question of ours is outstanding."""
        self.waiting: StatementReceived | None = None
        self.waiting_run: Run | None = None
        self._last_id = 0
        self._ready_notices: list[bytes] = []
        self.client_boundary = True
        """The client was sent whole messages only."""

    def next_run(self) -> int:
        self._last_id += 1
        return self._last_id

    def refuse(self, refusal: Refusal) -> None:
        self.events.append(Refused(refusal.sqlstate, refusal.message))

    def end(self, run: Run | None, end: EndKind, executed: bool, sqlstate: str = "") -> None:
        """A run ends once; a Parse that succeeded is no news."""
        if run is None or run.ended:
            return
        ended = run.end(end, executed, sqlstate)
        if run.kind != "parse" or end != "complete":
            self.events.append(ended)

    def stop_waiting(self, end: EndKind) -> None:
        """The statement that waits for an answer will not be forwarded any more."""
        if self.waiting is not None:
            self.waiting = None
            run, self.waiting_run = self.waiting_run, None
            self.end(run, end, executed=False)

    def report(self, name: bytes, value: bytes) -> None:
        """ParameterStatus."""
        key = name.decode("utf-8", "backslashreplace")
        if len(self.settings) > 1000 and key not in self.settings:
            raise ProtocolError("too-many-parameters", "the server reports too many parameters")
        # a new dict each time: events that carry the old one stay true
        self.settings = {**self.settings, key: value.decode("utf-8", "backslashreplace")}
        if key == "client_encoding":
            self.codec = codec_for(self.settings[key])

    # names

    def prepared(self, awaited: Awaited) -> None:
        """ParseComplete, or CloseComplete of a statement."""
        before = self.statements.confirm(awaited.name, awaited, awaited.prepared)
        self.remembered -= before.size if before else 0
        if awaited.prepared is not None and self.statements.known.get(awaited.name) is not awaited.prepared:
            self.remembered -= awaited.prepared.size  # forgotten before it was confirmed

    def forget_by_text(self, text: str) -> None:
        """SQL text on its way may give names a meaning that nobody judged."""
        lost = forgotten_statements(text, self.codec or "utf-8")
        if lost == "all":
            for prepared in self.statements.forget_all():
                self.remembered -= prepared.size
        elif lost is not None:
            known = self.statements.known.get(lost)
            self.remembered -= known.size if known else 0
            self.statements.forget(lost)
        if forgets_portals(text):
            for run in self.portals.forget_all():
                self.end(run, "unexecuted", executed=run.reached)

    def transaction_over(self) -> None:
        """No portal outlives its transaction."""
        for run in list(self.portals.known.values()):
            self.end(run, "unexecuted", executed=run.reached)
        self.portals.known.clear()

    # what is outstanding

    def head(self) -> Awaited | None:
        """What the server answers next."""
        awaited = self.awaited
        while awaited and awaited[0].kind == COPY_END:
            awaited.popleft()
        return awaited[0] if awaited else None

    def copy_begins(self) -> None:
        """The server ignores Sync until the COPY data ended: those on their way get no answer.

        Raises ProtocolError where the client sent something that the server takes for broken COPY data.
        """
        copying = self.awaited.popleft()
        while self.awaited and self.awaited[0].kind == b"S":
            self.awaited.popleft()
        self.copying_in = not self.awaited
        is_violation = bool(self.awaited) and self.awaited[0].kind != COPY_END
        if self.awaited and not is_violation:
            self.awaited.popleft()
        self.awaited.appendleft(copying)
        if is_violation:
            raise copy_violation()

    def drop_batch(self) -> None:
        """The server said ErrorResponse: it skips everything up to Sync."""
        while self.awaited and self.awaited[0].kind != b"S":
            self.drop(self.awaited.popleft())
        if not self.awaited:
            self.skipping = True
            self.stop_waiting("skipped")

    def drop(self, awaited: Awaited) -> None:
        """The server will not do it, or was never told."""
        if awaited.inquiry is not None:
            self.inquiring = False
            return
        if awaited.kind in (b"P", b"C") and awaited.which != b"P":
            self.statements.fail(awaited.name, awaited)
            self.remembered -= awaited.prepared.size if awaited.prepared else 0
        elif awaited.kind in (b"B", b"C"):
            self.portals.fail(awaited.name, awaited)
        run = awaited.run
        if run is not None and awaited.kind in (b"P", b"B", b"E", b"Q"):
            self.end(run, "denied" if awaited.refusal else "skipped", executed=run.reached)

    def ask_for_answers(self) -> None:
        """Without it the server may keep the answers that we wait for."""
        if self.awaited and self.awaited[-1].kind not in (b"S", b"Q"):
            self.to_server.append(FLUSH)

    # notices of ours

    def notice(self, refusal: Refusal) -> None:
        message = build_error(refusal, severity="NOTICE", kind=b"N", codec=self.codec or "utf-8")
        if self.client_boundary:
            self.to_client.append(message)
        elif len(self._ready_notices) < _MOST_NOTICES:
            self._ready_notices.append(message)

    def at_boundary(self) -> None:
        """A message for the client was sent to its end."""
        self.client_boundary = True
        if self._ready_notices:
            self.to_client.extend(self._ready_notices)
            self._ready_notices.clear()

    def end_everything(self, end: EndKind = "aborted") -> None:
        """The connection is over: every announced statement gets its end."""
        self.stop_waiting("abandoned")
        while self.awaited:
            awaited = self.awaited.popleft()
            if awaited.run is not None:
                self.end(awaited.run, "denied" if awaited.refusal else end, executed=not awaited.refusal)
        for run in self.portals.known.values():
            self.end(run, end if run.reached else "unexecuted", executed=run.reached)
        self.portals.known.clear()


def copy_violation() -> ProtocolError:
    """The server would stop in the middle of the message, and nobody could tell what answers what."""
    return ProtocolError("copy-violation", "the client sent another message where COPY data was expected")


_MOST_NOTICES = 16
