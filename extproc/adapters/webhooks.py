"""What happens to holds, told to other systems by signed webhooks (Standard Webhooks 1.0).

A message is a file in the spool before it is sent, so a restart loses none. It is tried again for about a day; what
never gets through is kept as a dead letter. A message says that something happened and where to look; the link leads
to the console, where somebody has to log in: following it decides nothing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import structlog

from extproc import __version__
from extproc.domain.display import escape_json
from extproc.domain.errors import ConfigError, StoreUnavailableError
from extproc.domain.record import Record
from extproc.domain.times import rfc3339

log = structlog.get_logger("extproc.webhooks")

RETRIES: Final = (5.0, 30.0, 120.0, 600.0, 3600.0, 4 * 3600.0, 8 * 3600.0, 12 * 3600.0)
"""Seconds until each further try."""
SECONDS: Final = 10.0
"""A receiver has to answer."""
LOOK: Final = 1.0
MAX_SPOOL: Final = 10_000
"""Messages that wait; beyond it a new one becomes a dead letter at once."""
SHORTEST_KEY: Final = 24
KEPT: Final = (
    "hold", "target", "rules", "expires_at", "from", "to", "vote", "by", "reason", "use_before", "break_glass",
    "review_by", "justified", "overdue",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\.[0-9]{1,9}")


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """One receiver. `key` is the secret's bytes; `kinds` are the record kinds it wants."""

    name: str
    url: str
    key: bytes
    kinds: frozenset[str]


def key_of(secret: str) -> bytes:
    """`whsec_` and base64, or base64 alone. Raises ConfigError for less than 24 bytes."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        raise ConfigError("a webhook's secret is whsec_ and base64") from None
    if len(key) < SHORTEST_KEY:
        raise ConfigError(f"a webhook's secret has at least {SHORTEST_KEY} bytes")
    return key


def message_of(record: Record, console: str) -> dict[str, Any]:
    """What is told of a move: who, what for, and where to look; nothing of the request itself."""
    data = {name: record.fields[name] for name in KEPT if record.fields.get(name) not in (None, "")}
    if isinstance(data.get("by"), Mapping):
        data["by"] = str(data["by"].get("person", ""))
    requester = record.fields.get("requester")
    if isinstance(requester, Mapping):
        data["requester"] = {name: requester.get(name) for name in ("subject", "kind", "person")}
    approver = record.fields.get("approver")
    if isinstance(approver, Mapping):
        data["approver"] = str(approver.get("person", ""))
    if console:
        data["link"] = f"{console}/holds/{record.fields.get('hold', '')}"
    shown = escape_json(data, multiline=False)
    return {"type": record.kind, "timestamp": rfc3339(record.at), "data": shown}


def headers_of(endpoint: Endpoint, message_id: str, at: int, body: bytes) -> dict[str, str]:
    """Standard Webhooks, "Signature scheme": HMAC-SHA256 over id, timestamp and body."""
    signed = f"{message_id}.{at}.".encode() + body
    signature = base64.b64encode(hmac.digest(endpoint.key, signed, hashlib.sha256)).decode()
    return {
        "content-type": "application/json",
        "user-agent": f"extproc/{__version__}",
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{signature}",
    }


class Webhooks:
    """The spool in `directory` and the one that empties it. Nobody else writes there.

    `dead` is told of each message that was given up: endpoint and message id. It may raise StoreUnavailableError.
    """

    def __init__(
        self,
        directory: Path,
        endpoints: Sequence[Endpoint],
        *,
        console: str,
        now: Callable[[], float],
        dead: Callable[[str, str], None],
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._directory = directory
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._console = console
        self._now = now
        self._dead = dead
        self._transport = transport
        self._due: dict[str, dict[str, float]] = {}
        """When each message that waits is tried next, by endpoint and id; 0 for one that was not read yet."""
        for endpoint in endpoints:
            folder = directory / endpoint.name
            (folder / "dead").mkdir(mode=0o700, parents=True, exist_ok=True)
            waiting = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
            self._due[endpoint.name] = dict.fromkeys((path.stem for path in waiting), 0.0)

    def spool(self, record: Record) -> None:
        """Keep a move's message for every endpoint that wants it. The same move again is the same message.

        One that cannot be kept is given up at once. Raises StoreUnavailableError when not even that can be told.
        """
        move = str(record.fields.get("move", ""))
        wanted = [each for each in self._endpoints.values() if record.kind in each.kinds]
        if not wanted or not _NAME.fullmatch(move):
            return
        message = json.dumps({"message": message_of(record, self._console), "tries": 0, "next": 0})
        for endpoint in wanted:
            due = self._due[endpoint.name]
            if move in due:
                continue
            folder = self._directory / endpoint.name
            is_full = len(due) >= MAX_SPOOL
            try:
                _write((folder / "dead" if is_full else folder) / f"{move}.json", message)
            except OSError as error:
                log.error(
                    "webhook_cannot_be_kept", endpoint=endpoint.name, message=move, error=error.strerror
                )
                self._dead(endpoint.name, move)
                continue
            if is_full:
                self._dead(endpoint.name, move)
            else:
                due[move] = 0.0

    async def run(self) -> None:
        """Send what is due, for ever; ends by being cancelled. One receiver that hangs holds no other back."""
        async with asyncio.TaskGroup() as group:
            for endpoint in self._endpoints.values():
                group.create_task(self._tend(endpoint))

    async def _tend(self, endpoint: Endpoint) -> None:
        while True:
            await self.send_due(endpoint)
            await asyncio.sleep(LOOK)

    async def send_due(self, endpoint: Endpoint) -> int:
        """Try every message that is due, oldest first; how many got through. Only those are read.

        A file that cannot be read or moved, or a death that cannot be told, waits and stops no other message.
        """
        due, sent = self._due[endpoint.name], 0
        for message_id in [each for each, at in due.items() if at <= self._now()]:
            try:
                sent += await self._try(endpoint, message_id)
            except (OSError, StoreUnavailableError) as error:
                log.error("webhook_waits", endpoint=endpoint.name, message=message_id, error=str(error))
                if message_id in due:
                    due[message_id] = self._now() + RETRIES[0]
        return sent

    async def _try(self, endpoint: Endpoint, message_id: str) -> bool:
        due = self._due[endpoint.name]
        path = self._directory / endpoint.name / f"{message_id}.json"
        try:
            kept = json.loads(await asyncio.to_thread(path.read_text, "utf-8"))
            message, tries, at = kept["message"], int(kept["tries"]), float(kept["next"])
        except FileNotFoundError:
            del due[message_id]  # somebody took it away
            return False
        except (ValueError, KeyError, TypeError):
            await self._give_up(endpoint, path)
            return False
        if at > self._now():
            due[message_id] = at
        elif await post(endpoint, message_id, message, self._now(), self._transport):
            del due[message_id]
            await asyncio.to_thread(path.unlink, missing_ok=True)
            return True
        elif tries >= len(RETRIES):
            await self._give_up(endpoint, path)
        else:
            at = self._now() + RETRIES[tries]
            again = {"message": message, "tries": tries + 1, "next": at}
            await asyncio.to_thread(_write, path, json.dumps(again))
            due[message_id] = at
        return False

    async def _give_up(self, endpoint: Endpoint, path: Path) -> None:
        self._dead(endpoint.name, path.stem)
        await asyncio.to_thread(path.replace, path.parent / "dead" / path.name)
        del self._due[endpoint.name][path.stem]
        log.error("webhook_is_dead", endpoint=endpoint.name, message=path.stem)


async def post(
    endpoint: Endpoint,
    message_id: str,
    message: Mapping[str, Any],
    at: float,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> bool:
    """Send one signed message at `at` (Unix seconds); did the receiver take it?"""
    body = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    headers = headers_of(endpoint, message_id, int(at), body)
    try:
        async with (
            asyncio.timeout(SECONDS),
            httpx2.AsyncClient(transport=transport, follow_redirects=False) as client,
            client.stream("POST", endpoint.url, content=body, headers=headers) as answer,
        ):
            return 200 <= answer.status_code < 300  # its body is not read
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError, TimeoutError):
        return False


def _write(path: Path, text: str) -> None:
    """Whole or not at all, even across a power cut."""
    partial = path.with_suffix(".part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
