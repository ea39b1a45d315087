"""What people do with holds and grants, whichever door they came through: may they, record, do.

What is done or read is recorded before it is done or shown; the moves of holds themselves reach the ledger through
the outbox (`hold_outbox.py`). Who the caller is, and how an answer looks, is the door's business: `approvals_api.py`
and `console/`.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from extproc.domain.comparison import kind_of
from extproc.domain.grant import ApprovalStore, Grant, GrantState
from extproc.domain.granting import terms_record
from extproc.domain.hold import HeldRequest, HoldError, HoldState, Review, ReviewState, Verdict, Vote
from extproc.domain.principal import Principal
from extproc.domain.quorum import may_see, objection, owns
from extproc.domain.record import Record
from extproc.domain.terms import GrantTerms
from extproc.servers.approvals_input import HOLD_ID
from extproc.servers.approvals_problems import NO_GRANT, NOT_FOUND, ProblemError

REMEMBERED_READS = 10_000
"""Readings that need no second record, 32 bytes each."""
LOOKED_AT = 200
"""How many of the newest approved holds are looked through for one of the same kind."""


class Deciding:
    """One door's way to the store and the ledger.

    `record` appends and commits, or raises LedgerUnavailableError: then nothing is done. `readers` are groups whose
    people may read every hold. `mask` takes out of what people type what may not be kept, before anything keeps it.
    `via` names the door in what is recorded; the API itself is not named.
    """

    def __init__(
        self,
        store: ApprovalStore,
        record: Callable[[Record], None],
        now: Callable[[], float],
        *,
        readers: Collection[str] = (),
        mask: Callable[[str], str] = str,
        via: str = "",
    ) -> None:
        self.store = store
        self.now = now
        self.mask = mask
        self._record = record
        self._readers = frozenset(readers)
        self._via = {"via": via} if via else {}
        self._read_before: OrderedDict[bytes, None] = OrderedDict()

    # -- reading ----------------------------------------------------------------------------------------------

    async def holds(
        self,
        caller: Principal,
        *,
        states: Sequence[HoldState] = (),
        reviews: Sequence[ReviewState] = (),
        mine: bool = False,
        limit: int = 100,
    ) -> tuple[list[HeldRequest], bool]:
        """What the caller may see, newest first, and whether there is more."""
        found = await self.store.find(
            states=states,
            requester=(caller.issuer, caller.subject) if mine else None,
            seen_by=None if self.reads_all(caller) else caller,
            reviews=reviews,
            limit=limit + 1,
            now=self.now(),
        )
        holds = found[:limit]
        seen = tuple((held.id, held.version) for held in holds)
        if holds and self._is_news((caller.issuer, caller.subject, seen)):
            self.write("evidence.holds_listed", caller, {"holds": [held.id for held in holds]})
        return holds, len(found) > limit

    async def visible(self, caller: Principal, hold_id: str) -> HeldRequest:
        """The hold; the same 404 whether it is not there or not the caller's to see."""
        held = await self.store.get(hold_id, self.now()) if HOLD_ID.fullmatch(hold_id) else None
        if held is None or not (may_see(held.ask, caller) or self.reads_all(caller)):
            raise ProblemError(*NOT_FOUND)
        return held

    def shown(self, caller: Principal, held: HeldRequest) -> None:
        """The caller is about to see all of it."""
        own = owns(held.ask, caller)
        # a requester who polls for an answer is no auditor: the same thing seen again needs no new record
        if not own or self._is_news((caller.issuer, caller.subject, held.id, held.version)):
            self.write("evidence.hold_read", caller, {"hold": held.id, "version": held.version, "own": own})

    async def grants(
        self, caller: Principal, *, states: Sequence[GrantState] = (), mine: bool = False, limit: int = 100
    ) -> tuple[list[Grant], bool]:
        """The grants of holds that the caller may see, newest first, and whether there is more."""
        found = await self.store.find_grants(
            states=states,
            requester=(caller.issuer, caller.subject) if mine else None,
            seen_by=None if self.reads_all(caller) else caller,
            limit=limit + 1,
            now=self.now(),
        )
        grants = found[:limit]
        seen = tuple((grant.id, grant.version) for grant in grants)
        if grants and self._is_news((caller.issuer, caller.subject, seen)):
            self.write("evidence.grants_listed", caller, {"grants": [grant.id for grant in grants]})
        return grants, len(found) > limit

    async def grant(self, caller: Principal, grant_id: str) -> Grant:
        """One grant, to be shown."""
        grant = await self._visible_grant(caller, grant_id)
        own = owns(grant.held.ask, caller)
        if not own or self._is_news((caller.issuer, caller.subject, grant.id, grant.version)):
            fields = {"grant": grant.id, "version": grant.version, "own": own}
            self.write("evidence.grant_read", caller, fields)
        return grant

    async def last_approved(self, caller: Principal, held: HeldRequest) -> HeldRequest | None:
        """The newest one of its kind and target, to be shown beside it.

        It is looked for among the last that people approved and the caller may see.
        """
        kind = kind_of(held.ask.view)
        if kind is None:
            return None
        found = await self.store.find(
            states=(HoldState.APPROVED, HoldState.RELEASED),
            seen_by=None if self.reads_all(caller) else caller,
            limit=LOOKED_AT,
            now=self.now(),
        )
        alike = [
            other
            for other in found
            if other.id != held.id
            and other.glass is None
            and other.ask.target == held.ask.target
            and kind_of(other.ask.view) == kind
        ]
        last = max(alike, key=lambda other: other.decided_at, default=None)
        if last is not None:
            self.shown(caller, last)
        return last

    def reads_all(self, caller: Principal) -> bool:
        """Operators and auditors who are people."""
        return caller.kind == "human" and not self._readers.isdisjoint(caller.groups)

    # -- doing ------------------------------------------------------------------------------------------------

    async def vote(
        self, caller: Principal, hold_id: str, *, approve: bool, reason: str, terms: GrantTerms | None = None
    ) -> HeldRequest:
        """The caller's word on it. Raises HoldError and ProblemError."""
        reason = self.mask(reason)
        held = await self.visible(caller, hold_id)
        action = "approve" if approve else "deny"
        fields: dict[str, Any] = {"hold": held.id, "reason": reason}
        if terms is not None:
            known = held.ask.shape.values if held.ask.shape is not None else {}
            pins = tuple(pin for pin in terms.pins if pin in known)  # others may be anything
            fields["terms"] = terms_record(replace(terms, pins=pins))
        self.write(f"admin.hold_{action}", caller, fields)
        at = self.now()
        with self.telling(caller, action, held.id):
            return await self.store.vote(held.id, Vote(caller.person, caller, approve, reason, at, terms), at)

    async def withdraw(self, caller: Principal, hold_id: str, reason: str) -> HeldRequest:
        """The requester does not want it any more."""

        def check(held: HeldRequest) -> None:
            if not owns(held.ask, caller):
                raise ProblemError(403, "not_requester", "Only who asked for it can withdraw it")

        return await self._close(caller, hold_id, reason, Verdict.WITHDRAW, HoldState.WITHDRAWN, check)

    async def revoke(self, caller: Principal, hold_id: str, reason: str) -> HeldRequest:
        """An approval that was not used yet is taken back, by who could have given it or by who got it."""

        def check(held: HeldRequest) -> None:
            if code := "" if owns(held.ask, caller) else objection(held.ask, caller):
                raise HoldError(code, "whoever cannot approve it cannot revoke its approval")

        return await self._close(caller, hold_id, reason, Verdict.REVOKE, HoldState.REVOKED, check)

    async def break_glass(self, caller: Principal, hold_id: str, reason: str) -> HeldRequest:
        """The requester lets their own request go in an emergency. Raises HoldError and ProblemError."""
        reason = self.mask(reason)
        held = await self.visible(caller, hold_id)
        self.write("admin.hold_break_glass", caller, {"hold": held.id, "reason": reason})
        with self.telling(caller, "break_glass", held.id):
            return await self.store.break_glass(held.id, caller, reason, self.now())

    async def review(self, caller: Principal, hold_id: str, *, justified: bool, reason: str) -> HeldRequest:
        """Somebody else looked at what was done in an emergency. Raises HoldError and ProblemError."""
        reason = self.mask(reason)
        held = await self.visible(caller, hold_id)
        self.write("admin.hold_review", caller, {"hold": held.id, "justified": justified, "reason": reason})
        at = self.now()
        with self.telling(caller, "review", held.id):
            return await self.store.review(held.id, Review(caller, justified, reason, at), at)

    async def owed(self, caller: Principal) -> list[HeldRequest]:
        """Emergencies that the caller may see and nobody reviewed yet, at most a hundred. For a number or a line."""
        return await self.store.find(
            reviews=(ReviewState.OPEN, ReviewState.OVERDUE),
            seen_by=None if self.reads_all(caller) else caller,
            now=self.now(),
        )

    async def revoke_grant(self, caller: Principal, grant_id: str, reason: str) -> Grant:
        """Nothing goes by it any more. A repeated call has done its work already."""
        reason = self.mask(reason)
        grant = await self._visible_grant(caller, grant_id)
        fields = {"grant": grant.id, "hold": grant.held.id, "reason": reason}
        self.write("admin.grant_revoke", caller, fields)
        with self.telling(caller, "grant_revoke", grant.held.id):
            ask = grant.held.ask
            if code := "" if owns(ask, caller) else objection(ask, caller):
                raise HoldError(code, "whoever cannot give it cannot revoke it")
            if grant.state is GrantState.REVOKED:
                return grant
            return await self.store.revoke_grant(grant.id, self.now(), by=caller.person, reason=reason)

    # -- recording --------------------------------------------------------------------------------------------

    def write(self, kind: str, caller: Principal, fields: Mapping[str, Any]) -> None:
        """One record of what the caller does. Raises LedgerUnavailableError."""
        self._record(Record(kind, self.now(), {"by": caller.to_record(), **self._via, **fields}))

    def telling(self, caller: Principal, action: str, hold_id: str) -> Refusals:
        """A block whose refusals are recorded."""

        def write(code: str) -> None:
            self.write("admin.refused", caller, {"action": action, "hold": hold_id, "code": code})

        return Refusals(write)

    async def _close(
        self,
        caller: Principal,
        hold_id: str,
        reason: str,
        verdict: Verdict,
        becomes: HoldState,
        check: Callable[[HeldRequest], None],
    ) -> HeldRequest:
        reason = self.mask(reason)
        held = await self.visible(caller, hold_id)
        action = verdict.value
        self.write(f"admin.hold_{action}", caller, {"hold": held.id, "reason": reason})
        with self.telling(caller, action, held.id):
            check(held)
            if held.state is becomes:  # a repeated call has done its work already
                return held
            return await self.store.close(held.id, verdict, self.now(), by=caller.person, reason=reason)

    async def _visible_grant(self, caller: Principal, grant_id: str) -> Grant:
        grant = await self.store.get_grant(grant_id, self.now()) if HOLD_ID.fullmatch(grant_id) else None
        if grant is None or not (may_see(grant.held.ask, caller) or self.reads_all(caller)):
            raise ProblemError(*NO_GRANT)
        return grant

    def _is_news(self, key: tuple[object, ...]) -> bool:
        digest = hashlib.sha256(json.dumps(key).encode()).digest()  # a key may name a hundred holds
        if digest in self._read_before:
            self._read_before.move_to_end(digest)
            return False
        self._read_before[digest] = None
        if len(self._read_before) > REMEMBERED_READS:
            self._read_before.popitem(last=False)
        return True


class Refusals:
    """A block whose refusals are recorded on their way out."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, HoldError | ProblemError):
            self._write(error.code)
