"""Callers that wait, people that decide, and what the ledger says of both."""

from __future__ import annotations

import itertools
import json
import select
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpx2

from extproc.demo.processes import connect, wait_until
from tests.e2e.stack import Stack
from tests.support.raw_http import RawReply

JSON = ("content-type", "application/json")
PAYMENT = b'{"amount": 5000, "to": "ACME"}'

_numbers = itertools.count(1)


def somebody() -> str:
    """A subject nobody has used yet."""
    return f"agent-{next(_numbers)}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the approvals API said."""

    status: int
    body: dict[str, Any]

    @property
    def code(self) -> str:
        """The stable code of a refusal, empty for a success."""
        return str(self.body.get("code", ""))


class Approvals:
    """The API as one token sees it; a connection per call, so that restarts do not matter."""

    def __init__(self, stack: Stack, token: str = "") -> None:
        self._socket = str(stack.directory / "a.sock")
        self._token = token or stack.approver()
        self._stack = stack

    def call(self, method: str, path: str, **options: Any) -> Answer:
        """One call; transport errors are raised."""
        headers = {"authorization": f"Bearer {self._token}"}
        # no TLS on a socket: to load what this machine trusts would take longer than the call
        transport = httpx2.HTTPTransport(uds=self._socket, verify=False)
        with httpx2.Client(transport=transport, base_url="http://approvals", timeout=20) as client:
            reply = client.request(method, path, headers=headers, **options)
            return Answer(reply.status_code, reply.json())

    def act(self, hold_id: str, action: str, reason: str = "checked") -> Answer:
        """approve, deny, withdraw or revoke."""
        return self.call("POST", f"/v1/holds/{hold_id}/{action}", json={"reason": reason})

    def approve(self, hold_id: str, reason: str = "checked", **grant: Any) -> Answer:
        """Vote for it; with `uses`, `seconds`, `scope` and `pins` for more than this request."""
        if not grant:
            return self.act(hold_id, "approve", reason)
        grant["for"] = grant.pop("seconds", 600)
        return self.call("POST", f"/v1/holds/{hold_id}/approve", json={"reason": reason, "grant": grant})

    def grants(self, who: str = "") -> list[dict[str, Any]]:
        """The grants of a subject (empty: of everybody) in any state, newest first."""
        answer = self.call("GET", "/v1/grants", params={"limit": "500"})
        assert answer.status == 200, answer
        return [grant for grant in answer.body["grants"] if not who or grant["requester"]["subject"] == who]

    def revoke_grant(self, grant_id: str, reason: str = "enough") -> Answer:
        """Nothing goes by it any more."""
        return self.call("POST", f"/v1/grants/{grant_id}/revoke", json={"reason": reason})

    def approve_by(self, channel: str, hold_id: str) -> None:
        """Vote for it over the JSON API or by the command line."""
        if channel == "api":
            assert self.approve(hold_id).status == 200
            return
        self._stack.cli(
            "holds", "approve", hold_id, "--reason", "checked",
            env={"EXTPROC_TOKEN": self._token, "EXTPROC_API": f"unix:{self._socket}"},
        )  # fmt: skip

    def review(self, hold_id: str, *, justified: bool = True, reason: str = "it was one") -> Answer:
        """Say what was found about an emergency."""
        body = {"justified": justified, "reason": reason}
        return self.call("POST", f"/v1/holds/{hold_id}/review", json=body)

    def deny(self, hold_id: str, reason: str = "no") -> Answer:
        """Reject it."""
        return self.act(hold_id, "deny", reason)

    def show(self, hold_id: str) -> dict[str, Any]:
        """One hold in full."""
        answer = self.call("GET", f"/v1/holds/{hold_id}")
        assert answer.status == 200, answer
        return answer.body

    def holds(self, who: str = "", *states: str) -> list[dict[str, Any]]:
        """The holds of a subject (empty: of everybody), newest first."""
        query = [("limit", "500"), *(("state", state) for state in states)]
        answer = self.call("GET", "/v1/holds", params=query)
        assert answer.status == 200, answer
        return [hold for hold in answer.body["holds"] if not who or hold["requester"]["subject"] == who]

    def hold_of(
        self, who: str, *, state: str = "pending", waiters: int = 1, but: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The one hold of `who` in `state` on which `waiters` requests wait, once it is there."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found[:] = [hold for hold in self.holds(who, state) if hold["id"] not in but]
            return len(found) == 1 and found[0]["waiters"] == waiters

        wait_until(
            there,
            what=f"a {state} hold of {who} with {waiters} waiters",
            within=15,
            process=self._stack.service,
        )
        return found[0]


class Asking:
    """A request under way: sent, and not answered yet."""

    def __init__(
        self,
        stack: Stack,
        who: str,
        path: str,
        *,
        method: str = "POST",
        body: bytes | None = PAYMENT,
        headers: Sequence[tuple[str, str]] = (JSON,),
        token: str = "",
    ) -> None:
        self.client = stack.client(timeout=15.0)
        token = token or stack.token(who, groups=["writers"])
        self.client.send(stack.raw(method, path, token=token, headers=headers, body=body))

    def __enter__(self) -> Asking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def answer(self) -> RawReply:
        """The answer, once it comes."""
        return self.client.read()

    def leave(self) -> None:
        """The client hangs up."""
        self.client.close()

    @property
    def is_waiting(self) -> bool:
        """Nothing has come back so far, nor has the connection ended."""
        return not select.select([self.client.socket], [], [], 0)[0]


def ask(stack: Stack, who: str, path: str, **options: Any) -> RawReply:
    """Send and read the answer."""
    with Asking(stack, who, path, **options) as asking:
        return asking.answer()


def first_answered(*askings: Asking) -> Asking:
    """The one that is answered first."""
    ready, _, _ = select.select([asking.client.socket for asking in askings], [], [], 30)
    assert ready, "nobody was answered"
    return next(asking for asking in askings if asking.client.socket is ready[0])


class Http2:
    """One HTTP/2 connection whose streams are sent, read and reset as a test wants."""

    def __init__(self, stack: Stack, token: str) -> None:
        self._socket = connect(stack.address, timeout=15.0)
        self._token = token
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._statuses: dict[int, int] = {}
        self._ended: set[int] = set()

    def __enter__(self) -> Http2:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, method: str, path: str, body: bytes = b"") -> int:
        """Send a whole request; the number of its stream."""
        stream = self._h2.get_next_available_stream_id()
        fields = [
            (":method", method), (":scheme", "http"), (":authority", "api.example"), (":path", path),
            ("authorization", f"Bearer {self._token}"), JSON,
        ]  # fmt: skip
        self._h2.send_headers(stream, fields, end_stream=not body)
        if body:
            self._h2.send_data(stream, body, end_stream=True)
        self._socket.sendall(self._h2.data_to_send())
        return stream

    def reset(self, stream: int) -> None:
        """The client gives this stream up and keeps the connection."""
        self._h2.reset_stream(stream)
        self._socket.sendall(self._h2.data_to_send())

    def is_answered(self, stream: int) -> bool:
        """Its answer was read already."""
        return stream in self._ended

    def status(self, stream: int) -> int:
        """The status of its answer, once all of it is here; 0 when the stream was reset."""
        while stream not in self._ended:
            data = self._socket.recv(65536)
            assert data, "the connection was closed"
            for event in self._h2.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    self._statuses[event.stream_id] = int(dict[Any, Any](event.headers)[":status"])
                elif isinstance(event, h2.events.StreamReset):
                    self._statuses[event.stream_id] = 0
                    self._ended.add(event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self._ended.add(event.stream_id)
            self._socket.sendall(self._h2.data_to_send())
        return self._statuses[stream]


# ---------------------------------------------------------------------- the ledger


def moves_of(stack: Stack, hold_id: str) -> list[dict[str, Any]]:
    """The `hold.*` records of one hold so far, in file order."""
    return [r for r in stack.records() if r["kind"].startswith("hold.") and r.get("hold") == hold_id]


def told(stack: Stack, hold_id: str, *kinds: str) -> list[dict[str, Any]]:
    """The records of a hold's moves, which are exactly `hold.` + `kinds`, each once and in order."""
    wait_until(
        lambda: len(moves_of(stack, hold_id)) >= len(kinds),
        what=f"the records of {hold_id}: {', '.join(kinds)}",
        within=15,
        process=stack.service,
    )
    moves = moves_of(stack, hold_id)
    assert [move["kind"] for move in moves] == [f"hold.{kind}" for kind in kinds]
    assert [move["move"] for move in moves] == [f"{hold_id}.{n}" for n in range(1, len(kinds) + 1)]
    return moves


def told_of_grant(stack: Stack, grant_id: str, *kinds: str) -> list[dict[str, Any]]:
    """The records of a grant's moves, which are exactly `grant.` + `kinds`, each once and in order."""

    def moves() -> list[dict[str, Any]]:
        return [r for r in stack.records() if r["kind"].startswith("grant.") and r.get("grant") == grant_id]

    wait_until(
        lambda: len(moves()) >= len(kinds),
        what=f"the records of {grant_id}: {', '.join(kinds)}",
        within=15,
        process=stack.service,
    )
    found = moves()
    assert [move["kind"] for move in found] == [f"grant.{kind}" for kind in kinds]
    assert [move["move"] for move in found] == [f"{grant_id}.{n}" for n in range(1, len(kinds) + 1)]
    return found


def decided(stack: Stack, decision_id: str) -> dict[str, dict[str, Any]]:
    """Intent and outcome of a decision, once both are there."""
    wait_until(
        lambda: {"intent", "outcome"} <= set(stack.decision(decision_id)),
        what=f"the outcome of {decision_id}",
        within=15,
        process=stack.service,
    )
    return stack.decision(decision_id)


def check_every_hold(stack: Stack) -> int:
    """Every hold's every move is in the ledger exactly once and follows the table; returns how many holds."""
    from extproc.domain.hold import MOVES, HoldState

    auditor = Approvals(stack, stack.approver("audrey", groups=["auditors"]))
    holds = {hold["id"]: hold for hold in auditor.holds()}

    def complete() -> bool:
        counts = Counter(r["hold"] for r in stack.records() if r["kind"].startswith("hold."))
        return all(counts[hold_id] >= hold["version"] for hold_id, hold in holds.items())

    wait_until(complete, what="every move to be in the ledger", within=15, process=stack.service)
    records = stack.records()
    moves = [record for record in records if record["kind"].startswith("hold.")]
    assert set(Counter(move["move"] for move in moves).values()) <= {1}
    intents = {r["decision_id"]: r for r in records if r["kind"] == "intent"}
    outcomes = {r["decision_id"]: r for r in records if r["kind"] == "outcome"}
    legal = {(before.value, after.value) for (before, _), after in MOVES.items()}
    for hold_id, hold in holds.items():
        own = [move for move in moves if move["hold"] == hold_id]
        assert [move["move"] for move in own] == [f"{hold_id}.{n}" for n in range(1, hold["version"] + 1)]
        assert own[0]["kind"] == "hold.opened"
        assert own[0]["decision_id"].startswith("dec_")
        state = HoldState.PENDING.value
        for move in own[1:]:
            if "from" not in move:  # a vote, say, which moves nothing
                continue
            assert move["from"] == state and (state, move["to"]) in legal
            state = move["to"]
            if state == "released":
                released = intents[move["decision_id"]]
                assert released["hold"]["id"] == hold_id
                # a client that left at that very moment: spent, and said not to have run
                assert released["verdict"] == "allow" or outcomes[move["decision_id"]]["executed"] is False
        assert state == hold["state"]
    return len(holds)


def verify(stack: Stack) -> None:
    """`extproc ledger verify` is content, where the command exists."""
    if stack.cli("ledger", "--help", check=False).returncode == 0:
        stack.cli("ledger", "verify", "--thorough", "--dir", str(stack.directory / "state" / "ledger"))


def problem(reply: RawReply) -> dict[str, Any]:
    """The refusal in a reply."""
    assert reply.header("content-type") == "application/problem+json", reply
    body: dict[str, Any] = json.loads(reply.body)
    return body
