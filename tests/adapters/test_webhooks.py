"""Signed webhooks: what is told, how it is signed, tried again and given up."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import httpx2
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from extproc.adapters.webhooks import RETRIES, Endpoint, Webhooks, key_of, message_of
from extproc.app.approvals import telling
from extproc.domain.errors import ConfigError, LedgerUnavailableError
from extproc.domain.record import Record

pytestmark = pytest.mark.anyio
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
CONSOLE = "https://console.test"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def move(kind: str = "hold.opened", number: int = 1, **fields: Any) -> Record:
    told = {
        "hold": "h-1", "move": f"h-1.{number}", "target": "api", "rules": ["p/wait"], "binding": "b" * 64,
        "requester": {"issuer": "https://i", "subject": "bot", "kind": "agent", "person": "bot", "groups": ["x"]},
        **fields,
    }  # fmt: skip
    return Record(kind, 1_900_000_000.0, told, {"view": b"what is not told"})


class Receiver:
    """Answers with `statuses` in turn, then 200; an exception is raised instead."""

    def __init__(self, *statuses: Any) -> None:
        self.statuses = list(statuses)
        self.got: list[httpx2.Request] = []

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.got.append(request)
        status = self.statuses.pop(0) if self.statuses else 200
        if isinstance(status, Exception):
            raise status
        return httpx2.Response(status, headers={"location": "https://elsewhere.test/"})


class Post:
    def __init__(self, folder: Path, receiver: Receiver, *kinds: str) -> None:
        self.now = 1_900_000_000.0
        self.dead: list[tuple[str, str]] = []
        self.ledger_down = False
        self.folder = folder
        self.endpoint = Endpoint(
            "ops", "https://ops.test/hook", key_of(SECRET), frozenset(kinds or ("hold.opened",))
        )
        self.webhooks = Webhooks(
            folder, [self.endpoint], console=CONSOLE, now=lambda: self.now,
            dead=self.die, transport=httpx2.MockTransport(receiver),
        )  # fmt: skip

    def die(self, endpoint: str, message: str) -> None:
        if self.ledger_down:
            raise LedgerUnavailableError("disk full")
        self.dead.append((endpoint, message))

    async def send(self) -> int:
        return await self.webhooks.send_due(self.endpoint)

    def waiting(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "ops").glob("*.json"))


async def test_a_foreign_library_finds_the_signature_good_and_any_change_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    receiver = Receiver()
    post = Post(tmp_path, receiver)
    import time

    post.now = time.time()
    post.webhooks.spool(move())
    assert await post.send() == 1
    (request,) = receiver.got
    headers = dict(request.headers)
    assert headers["webhook-id"] == "h-1.1"
    told = Webhook(SECRET).verify(request.content, headers)
    assert told["type"] == "hold.opened" and told["data"]["link"] == f"{CONSOLE}/holds/h-1"
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.content.replace(b"api", b"apj"), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.content, {**headers, "webhook-id": "h-1.2"})


def test_nothing_of_the_request_is_told_and_what_hides_is_spelled_out():
    message = message_of(move(reason="a\u202eb\n"), CONSOLE)
    text = json.dumps(message)
    assert "not told" not in text and "bbbb" not in text and "groups" not in text
    assert message["data"]["reason"] == "a\\u{202E}b\\u{A}"
    assert "link" not in message_of(move(), "")["data"]


def test_an_emergency_is_told_with_who_and_why_and_by_when_somebody_must_look():
    by = {"issuer": "https://i", "subject": "olga", "person": "olga@x", "groups": ["oncall"]}
    record = move("hold.break_glass", by=by, reason="down", review_by="2030-01-01T00:00:00Z")
    data = message_of(record, CONSOLE)["data"]
    assert (data["by"], data["reason"], data["review_by"]) == ("olga@x", "down", "2030-01-01T00:00:00Z")
    assert "oncall" not in json.dumps(data)


async def test_only_what_was_asked_for_is_told_once_per_move(tmp_path: Path):
    receiver = Receiver()
    post = Post(tmp_path, receiver, "hold.opened", "hold.approved")
    for record in (move(), move(), move("hold.vote", 2), move("hold.approved", 3), move("grant.made", 4)):
        post.webhooks.spool(record)
    post.webhooks.spool(move(move="../../etc/passwd"))
    assert await post.send() == 2
    assert [request.headers["webhook-id"] for request in receiver.got] == ["h-1.1", "h-1.3"]
    assert post.waiting() == []


@pytest.mark.parametrize("trouble", [500, 302, 404, httpx2.ConnectError("no"), TimeoutError()])
async def test_what_does_not_get_through_is_tried_again_later(tmp_path: Path, trouble: Any):
    receiver = Receiver(trouble)
    post = Post(tmp_path, receiver)
    post.webhooks.spool(move())
    assert await post.send() == 0
    assert await post.send() == 0  # not due yet
    assert len(receiver.got) == 1
    post.now += RETRIES[0]
    assert await post.send() == 1
    assert receiver.got[0].headers["webhook-id"] == receiver.got[1].headers["webhook-id"]
    assert receiver.got[0].headers["webhook-timestamp"] != receiver.got[1].headers["webhook-timestamp"]


async def test_a_restart_loses_nothing(tmp_path: Path):
    first = Post(tmp_path, Receiver(500))
    first.webhooks.spool(move())
    await first.send()
    receiver = Receiver()
    second = Post(tmp_path, receiver)
    second.now += RETRIES[0]
    assert await second.send() == 1


async def test_what_never_gets_through_is_a_dead_letter(tmp_path: Path):
    post = Post(tmp_path, Receiver(*[500] * 20))
    post.webhooks.spool(move())
    for _ in range(len(RETRIES) + 1):
        await post.send()
        post.now += max(RETRIES)
    assert post.waiting() == []
    assert post.dead == [("ops", "h-1.1")]
    (letter,) = (tmp_path / "ops" / "dead").iterdir()
    assert json.loads(letter.read_text())["message"]["data"]["hold"] == "h-1"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"message": 1}', "\ufeff"])
async def test_a_spoiled_file_is_a_dead_letter_and_stops_no_other(tmp_path: Path, text: str):
    Post(tmp_path, Receiver())
    (tmp_path / "ops" / "h-0.1.json").write_text(text)
    post = Post(tmp_path, Receiver())
    post.webhooks.spool(move())
    assert await post.send() == 1
    assert post.dead == [("ops", "h-0.1")]


async def test_a_death_that_cannot_be_recorded_waits_and_stops_no_other(tmp_path: Path):
    Post(tmp_path, Receiver())
    (tmp_path / "ops" / "h-0.1.json").write_text("spoiled")
    post = Post(tmp_path, Receiver())
    post.ledger_down = True
    post.webhooks.spool(move())
    assert await post.send() == 1
    assert post.waiting() == ["h-0.1.json"]
    post.ledger_down = False
    post.now += RETRIES[0]
    await post.send()
    assert (post.waiting(), post.dead) == ([], [("ops", "h-0.1")])


async def test_a_file_that_cannot_be_read_stops_no_other(tmp_path: Path):
    Post(tmp_path, Receiver())
    (tmp_path / "ops" / "h-0.1.json").mkdir()
    post = Post(tmp_path, Receiver())
    post.webhooks.spool(move())
    assert await post.send() == 1


def test_a_move_whose_message_cannot_be_kept_is_recorded_once_and_its_message_as_dead(tmp_path: Path):
    post = Post(tmp_path, Receiver())
    shutil.rmtree(tmp_path / "ops")
    records = list[Record]()
    telling(records.append, post.webhooks)(move())
    assert [record.kind for record in records] == ["hold.opened"]
    assert post.dead == [("ops", "h-1.1")]


async def test_beyond_the_spools_bound_a_new_message_is_a_dead_letter_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("extproc.adapters.webhooks.MAX_SPOOL", 2)
    receiver = Receiver()
    post = Post(tmp_path, receiver)
    for number in (1, 2, 1, 3):
        post.webhooks.spool(move(number=number))
    assert (len(post.waiting()), post.dead) == (2, [("ops", "h-1.3")])
    assert [path.name for path in (tmp_path / "ops" / "dead").iterdir()] == ["h-1.3.json"]
    assert await post.send() == 2


async def test_only_what_is_due_is_read(tmp_path: Path):
    receiver = Receiver(500)
    post = Post(tmp_path, receiver)
    post.webhooks.spool(move())
    await post.send()
    (tmp_path / "ops" / "h-1.1.json").write_text("spoiled meanwhile")
    await post.send()
    assert post.dead == []
    post.now += RETRIES[0]
    await post.send()
    assert post.dead == [("ops", "h-1.1")]


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_!!!", "whsec_" + base64.b64encode(b"short").decode()]
)
def test_a_secret_that_can_be_guessed_is_refused(secret: str):
    with pytest.raises(ConfigError):
        key_of(secret)


def test_the_spool_is_for_its_owner_alone(tmp_path: Path):
    post = Post(tmp_path, Receiver())
    post.webhooks.spool(move())
    assert (tmp_path / "ops" / "h-1.1.json").stat().st_mode & 0o077 == 0
