"""A database connection under governance, whatever it speaks: records, holds, cancels, expiry, and its end.

Only a hold, a key fetch and the clock bring something outside of a call; they speak through `later`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import structlog

from extproc.domain.hold import HeldRequest
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.domain.request import Source
from extproc.domain.statement import Statement
from extproc.domain.steps import NeedKeys, Wait
from extproc.pipeline.copy_masking import CopyMask
from extproc.pipeline.database_session import DatabaseSession
from extproc.pipeline.database_steps import (
    ADMIN_SHUTDOWN,
    AcceptLogin,
    Asked,
    Inquire,
    Login,
    RefuseLogin,
    Run,
    Stop,
)
from extproc.pipeline.database_steps import Ended as StatementOutcome
from extproc.pipeline.database_words import OVER
from extproc.pipeline.governance import DatabasePlan
from extproc.pipeline.listeners import ListenerPlan
from extproc.pipeline.row_masking import ResultMask, masked_message
from extproc.pipeline.statements import GovernedStatement
from extproc.protocols.endings import Refused, StatementEnded
from extproc.protocols.postgres import BackendKey
from extproc.servers.envoy_proto import CallMetadata
from extproc.servers.network_ext_proc import Output
from extproc.servers.service import Service

log = structlog.get_logger()

RECORD_FAILURE = "58030"
INTERNAL_ERROR = "XX000"
LAST_LOOK = 0.2
"""Seconds between looks at a statement that still runs while this process wants to stop."""


def plans_of(service: Service, call: CallMetadata) -> tuple[DatabasePlan, ListenerPlan] | None:
    """What governs a new connection to a database target; `open_conversation` checked that it is one.

    None when it came by a listener that is none of ours.
    """
    governance = service.current()
    plan = governance.targets[call.target].database
    assert plan is not None  # noqa: S101  (targets of these kinds have one)
    listener = governance.listener(call.listener, call.target)
    return (plan, listener) if listener is not None else None


class Wire(Protocol):
    """What every database's wire has in common. Answers are each wire's own."""

    def next_event(self) -> Any: ...
    def bytes_to_client(self) -> bytes: ...
    def bytes_to_server(self) -> bytes: ...
    def receive_from_client(self, data: bytes, end: bool = False) -> None: ...
    def receive_from_server(self, data: bytes, end: bool = False) -> None: ...

    def replace_rows(self, id: int, rows: Sequence[Sequence[bytes | None] | None]) -> None: ...

    @property
    def peer_certificate(self) -> bytes | None: ...
    @property
    def peer_uris(self) -> tuple[str, ...]: ...
    @property
    def waiting_for(self) -> int | None: ...
    @property
    def is_idle(self) -> bool: ...
    @property
    def is_quiet(self) -> bool: ...
    @property
    def has_ended(self) -> bool: ...
    @property
    def end_to_server(self) -> bool: ...
    @property
    def end_to_client(self) -> bool: ...


class DatabaseConversation(ABC):
    """One connection. Not thread-safe; the event loop owns it. SQLSTATEs here are the pipeline's."""

    going_away: ClassVar[str] = ADMIN_SHUTDOWN
    """The SQLSTATE of an end because this process stops."""

    def __init__(
        self,
        service: Service,
        plan: DatabasePlan,
        listener: ListenerPlan,
        session: DatabaseSession,
        wire: Wire,
        later: Callable[[Output], None],
    ) -> None:
        self._service = service
        self._plan = plan
        self._listener = listener
        self._source = session.scribe.source
        self._session = session
        self._common = wire
        self._later = later
        self._running: dict[int, GovernedStatement] = {}
        self._results: dict[int, ResultMask | CopyMask] = {}
        self._counts: dict[int, dict[str, int]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._holds: dict[str, HeldRequest] = {}
        self._stopped: list[asyncio.Task[None]] = []
        """Waits that were ended and still have to leave their hold."""
        self._records: list[Record] = []
        self._expiry: asyncio.TimerHandle | None = None
        self._notice: asyncio.TimerHandle | None = None
        self._farewell: tuple[str, str, str] | None = None
        """SQLSTATE, message and hint of the end that is due as soon as nothing runs."""
        self._ended_server = False
        self._ended_client = False
        self._end = ("aborted", "")
        self.session_id = session.scribe.session_id

    # ------------------------------------------------------------------ what differs

    @abstractmethod
    def _handle(self, event: Any) -> None:
        """One event of the wire."""

    @abstractmethod
    def _answer(self, number: int, step: Run | Stop | Inquire) -> None:
        """Carry out what was decided of a statement."""

    @abstractmethod
    def _answer_login(self, step: AcceptLogin | RefuseLogin | NeedKeys) -> None:
        """Carry out what was decided of the login."""

    @abstractmethod
    def _terminate(self, sqlstate: str, message: str, hint: str = "") -> None:
        """End the connection with an error."""

    @property
    def _cancel_key(self) -> BackendKey | None:
        """What a CancelRequest for this session must carry, where the protocol has such a thing."""
        return None

    def _tell_it_waits(self, held: HeldRequest) -> bool:
        """Tell the client, where the protocol has words for it. True: tell it again and again."""
        return False

    # ------------------------------------------------------------------ Conversation

    def opened(self) -> Output:
        """The connection is there, and nobody has said anything yet."""
        return Output()

    def client_data(self, data: bytes, end: bool) -> Output:
        self._common.receive_from_client(data, end)
        return self._take()

    def server_data(self, data: bytes, end: bool) -> Output:
        self._common.receive_from_server(data, end)
        return self._take()

    def unrecorded(self) -> bytes:
        self._end = ("aborted", "ledger-unavailable")
        self._terminate(RECORD_FAILURE, "extproc: the audit ledger cannot be written", "Try again later.")
        return self._common.bytes_to_client()

    def gone(self, reason: str) -> tuple[Record, ...]:
        """Everything that waits ends, and what was begun is written down as far as it is known."""
        if not self._common.has_ended:
            self._common.receive_from_client(b"", True)
            self._common.receive_from_server(b"", True)
        self._drain()
        for number in list(self._tasks):
            self._stop_waiting(number)
        if self._expiry is not None:
            self._expiry.cancel()
        self._service.sessions.remove(self, self._session.target, self._cancel_key)
        now = self._service.now()
        for statement in self._running.values():
            self._records += statement.ended(StatementOutcome("aborted", None), now)
        self._running.clear()
        end, code = self._end
        self._records += self._session.closed(now, end, code or reason)
        if self._holds or self._stopped:
            self._service.spawn(self._abandon())
        return self._taken_records()

    def go_away(self, *, at_once: bool) -> None:
        """This process stops. What runs may end first, for as long as whoever stops us waits."""
        if self._common.has_ended:
            return
        if at_once or self._common.is_idle:
            self._terminate(self.going_away, "extproc: this process is going away", "Connect again.")
            self._later(self._take())
        else:
            asyncio.get_running_loop().call_later(LAST_LOOK, lambda: self.go_away(at_once=False))

    # ------------------------------------------------------------------ events

    def _take(self) -> Output:
        """Handle every event at hand, then hand over what there is to send."""
        self._drain()
        wire = self._common
        if self._farewell is not None and wire.is_quiet:
            self._terminate(*self._farewell)
            self._drain()
        end_server = wire.end_to_server and not self._ended_server
        end_client = wire.end_to_client and not self._ended_client
        self._ended_server = self._ended_server or end_server
        self._ended_client = self._ended_client or end_client
        return Output(
            to_server=wire.bytes_to_server(),
            to_client=wire.bytes_to_client(),
            end_server=end_server,
            end_client=end_client,
            close=wire.has_ended,
            records=self._taken_records(),
        )

    def _drain(self) -> None:
        while (event := self._common.next_event()) is not None:
            self._handle(event)

    def _taken_records(self) -> tuple[Record, ...]:
        records, self._records = tuple(self._records), []
        return records

    # ------------------------------------------------------------------ login and expiry

    def _caller(self) -> Principal | None:
        """Whom the client's certificate names, if it has one that somebody verified."""
        source = self._verified_source()
        uris = self._common.peer_uris if self._listener.tls is not None else (source.peer_uri_san,)
        return self._listener.caller(uris) if source.mtls else None

    def _verified_source(self) -> Source:
        wire = self._common
        return self._listener.verified(self._source, wire.peer_certificate is not None, wire.peer_uris)

    def _log_in(self, user: str, database: str, application: str, token: str, now: float) -> None:
        """The client said who it wants to be."""
        self._session.scribe.source = self._verified_source()
        login = Login(user, database, application, token, self._caller())
        self._answer_login(self._session.login(login, now))

    async def _fetch_keys(self, need: NeedKeys) -> None:
        await self._service.fetch_keys(need.provider)
        self._tasks.pop(0, None)
        self._answer_login(self._session.keys_ready(self._service.now()))
        self._later(self._take())

    def _open_to_others(self, now: float) -> None:
        """Logged in: cancels and locks may reach it, and its end is known."""
        self._service.sessions.add(self, self._session.target, self._cancel_key)
        if over := self._session.over(now):  # it was locked while the server let it in
            sqlstate, message, hint = OVER[over]
            self._farewell = (sqlstate, f"extproc: {message}", hint)
        self._watch_expiry(now)

    def _begin_anew(self, now: float) -> None:
        """Somebody logs in on a connection that has a session: that one ends, and another begins."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._service.sessions.remove(self, self._session.target, self._cancel_key)
        self._records += self._session.closed(now, "complete", "change-user")
        self._farewell = None
        self._session = self._session.successor(self._source, now)
        self.session_id = self._session.scribe.session_id

    def end_if_over(self) -> None:
        """The locks changed. Whoever they mean ends at once, whatever runs."""
        if self._common.has_ended or self._session.over(self._service.now()) != "locked":
            return
        sqlstate, message, hint = OVER["locked"]
        self._terminate(sqlstate, f"extproc: {message}", hint)
        output = self._take()
        self._end = ("aborted", "locked")
        self._later(output)

    def _watch_expiry(self, now: float) -> None:
        """The session ends with its token, or at its largest age."""
        if self._session.ends_at:
            wait = max(0.0, self._session.ends_at - now)
            self._expiry = asyncio.get_running_loop().call_later(wait, self._look_whether_over)

    def _look_whether_over(self) -> None:
        """The session's time should be up: then the connection ends as soon as nothing runs on it."""
        now = self._service.now()
        over = self._session.over(now)
        if over:
            sqlstate, message, hint = OVER[over]
            self._farewell = (sqlstate, f"extproc: {message}", hint)
            self._later(self._take())
        else:  # the timer's clock and ours differ
            self._watch_expiry(now - 0.05)

    def _end_when_idle(self, step: Stop) -> None:
        self._farewell = (step.sqlstate, f"extproc: {step.message}", step.hint)

    # ------------------------------------------------------------------ statements

    def _client_left(self) -> None:
        for number in list(self._tasks):
            self._stop_waiting(number)

    def _rows_received(self, number: int, rows: Sequence[Sequence[bytes | None]]) -> None:
        mask = self._results[number]
        assert isinstance(mask, ResultMask)  # noqa: S101  (set when the rows were described)
        self._common.replace_rows(number, [mask.row(row) for row in rows])

    def _masked_message(self, number: int | None, fields: Mapping[str, str]) -> dict[str, str] | None:
        """What the server says beside rows; what answers no statement of ours may come from any. None: as it is."""
        statement = self._running.get(number) if number is not None else None
        if statement is not None:
            return statement.message(fields)
        masks = self._session.all_masks()
        return masked_message(masks, fields) if masks is not None else None

    def _refused(self, event: Refused, now: float) -> None:
        """The wire turned it away before anybody could judge it: that is a denial, and recorded as one."""
        text = Statement(f"[not read: {event.message}]", ())
        statement = self._session.statement(Asked(text, "I"), now)
        self._records += statement.turned_away(now, event.sqlstate, event.message)

    def _count_masked(self, number: int) -> None:
        """Add up what an ended result set had."""
        mask = self._results.pop(number, None)
        if mask is not None:
            counts = self._counts.setdefault(number, {})
            for name, found in mask.counts.items():
                counts[name] = counts.get(name, 0) + found

    def _statement_ended(self, event: StatementEnded, now: float) -> None:
        self._stop_waiting(event.id)
        self._count_masked(event.id)
        masked = self._counts.pop(event.id, {})
        statement = self._running.pop(event.id, None)
        if statement is None:
            return  # a Parse that failed at the server: nothing was to run
        self._records += statement.ended(
            StatementOutcome(
                end=event.end,
                executed=event.executed,
                sqlstate=event.sqlstate,
                tags=event.tags,
                rows=event.rows,
                affected=event.affected,
                bytes_returned=event.bytes_returned,
                copied_in=event.copied_in,
                masked=masked,
            ),
            now,
        )

    # ------------------------------------------------------------------ holds

    async def _wait(self, number: int, statement: GovernedStatement, wait: Wait) -> None:
        def joined(held: HeldRequest) -> None:
            statement.joined(held)
            if number in self._tasks:
                self._quiet()
                self._say_it_waits(number, held)
            else:  # it was stopped while the hold was being opened
                self._keep(held)

        try:
            settled = await self._service.desk.settle(wait, statement.recheck, joined)
        finally:
            if number in self._tasks:  # else the notice is another's by now
                self._quiet()
        self._tasks.pop(number, None)
        held = settled.held
        if held is not None and held.is_open:
            self._keep(held)
        step = statement.hold_settled(settled, self._service.now())
        self._answer(number, step)
        self._later(self._take())

    def _say_it_waits(self, number: int, held: HeldRequest) -> None:
        """Say so, and go on saying it: a silent connection looks broken."""
        if number not in self._tasks or self._common.has_ended or not self._tell_it_waits(held):
            return
        self._later(self._take())
        loop = asyncio.get_running_loop()
        self._notice = loop.call_later(self._plan.notice_every, self._say_it_waits, number, held)

    def _quiet(self) -> None:
        if self._notice is not None:
            self._notice.cancel()
            self._notice = None

    def cancel_waiting(self) -> bool:
        """Somebody asks to cancel what runs here. True: a statement waited for a person and was stopped."""
        number = self._common.waiting_for
        statement = self._running.get(number) if number is not None else None
        if number is None or statement is None or number not in self._tasks:
            return False
        self._stop_waiting(number)
        self._answer(number, statement.canceled(self._service.now()))
        self._later(self._take())
        return True

    def _stop_waiting(self, number: int) -> None:
        task = self._tasks.pop(number, None)
        if task is None:
            return
        task.cancel()
        self._quiet()
        self._stopped = [task, *[other for other in self._stopped if not other.done()]]
        statement = self._running.get(number)
        if statement is not None and statement.held is not None:
            self._keep(statement.held)

    def _keep(self, held: HeldRequest) -> None:
        """To be closed with the connection, unless it may be resumed."""
        if not held.ask.demand.resumable:
            self._holds[held.id] = held

    async def _abandon(self) -> None:
        # a wait that was stopped may still learn of its hold, and nobody else's is closed
        await asyncio.gather(*self._stopped, return_exceptions=True)
        for held in list(self._holds.values()):
            await self._service.desk.abandon(held, "the connection that asked is gone")

    # ------------------------------------------------------------------ tasks

    def _spawn(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        """Let `work` bring the answer; when it breaks, so does the connection."""
        self._tasks[number] = self._service.spawn(self._guarded(number, work))

    async def _guarded(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("conversation.failed")
            self._tasks.pop(number, None)
            self._end = ("aborted", "internal-error")
            self._terminate(INTERNAL_ERROR, "extproc: internal error")
            self._later(self._take())
