"""The approvals process: the API and the console that people decide through; it tends holds and their outbox."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from extproc.adapters.control import Control
from extproc.adapters.jwks import JwksKeys
from extproc.adapters.webhooks import Endpoint, Webhooks, key_of
from extproc.app.hold_stores import Holds, open_holds
from extproc.app.http_server import HttpServer, all_listen, bind_http, http_config
from extproc.app.identifying import open_keys, provider_rules
from extproc.app.ledgers import open_ledger, recorder
from extproc.config import Settings
from extproc.domain.errors import ConfigError, PolicyError, StoreUnavailableError
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.identity import NeedKeysFor, Verifier
from extproc.masking import typed_mask
from extproc.servers.approvals_api import create_app
from extproc.servers.hold_outbox import tend_holds

log = structlog.get_logger()

RELOAD_WAIT = 60.0
LOCK_WAIT = 10.0


class Question:
    """One kind of question to the supervisor, one at a time."""

    def __init__(self, control: Control, name: str, wait: float) -> None:
        self._control = control
        self._name = name
        self._wait = wait
        self._turn = asyncio.Lock()
        self._answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def answered(self, answer: dict[str, Any]) -> None:
        self._answers.put_nowait(answer)

    async def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Raises StoreUnavailableError when there is no answer."""
        async with self._turn:
            while not self._answers.empty():
                self._answers.get_nowait()  # the late answer to a call that gave up
            try:
                await self._control.send({self._name: dict(asked)})
                return await asyncio.wait_for(self._answers.get(), self._wait)
            except (TimeoutError, OSError):
                raise StoreUnavailableError("the supervisor did not answer") from None


class Supervisor:
    """The line to the supervisor, as the API needs it."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._reload = Question(control, "reload", RELOAD_WAIT)
        self._roll = Question(control, "roll", RELOAD_WAIT)
        self._lock = Question(control, "lock", LOCK_WAIT)
        self._by_answer = {"reloaded": self._reload, "rolling": self._roll, "locked": self._lock}

    async def listen(self) -> None:
        """Until the supervisor is gone."""
        while (message := await self._control.receive()) is not None:
            for name, question in self._by_answer.items():
                if name in message:
                    question.answered(message[name])

    async def lock(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add, remove or list locks; the answer has `error` when it was not done."""
        return await self._lock.ask(asked)

    async def reload(self, principal: Principal) -> Mapping[str, Any]:
        """Raises PolicyError when the files are no good: the last good set stays."""
        answer = await self._reload.ask(_by_api(principal))
        if "error" in answer:
            raise PolicyError(str(answer["error"]))
        return answer

    async def roll(self, principal: Principal) -> Mapping[str, Any]:
        """Begin a rolling reload. Raises ConfigError when the file is no good, or cannot come into force that way."""
        answer = await self._roll.ask(_by_api(principal))
        if "error" in answer:
            raise ConfigError(str(answer["error"]))
        return answer


def _by_api(principal: Principal) -> dict[str, Any]:
    return {"by": "api", "principal": principal.to_record()}


async def run_approvals(settings: Settings, control: Control, stopping: asyncio.Event) -> None:
    """Serve the API until `stopping`, or until a part of it ends: then the supervisor starts it anew."""
    keys = open_keys(settings)
    holds = open_holds(settings)
    ledger = open_ledger(settings, "approvals")
    supervisor = Supervisor(control)
    record = recorder(ledger)
    try:
        await holds.check()
        await keys.refresh_due(time.time())
        authenticate, mask = authenticator(settings, keys), typed_mask()

        def status() -> dict[str, bool]:
            return {"ledger": ledger.healthy}

        app = create_app(
            holds,
            authenticate,
            audience=settings.approvals.audience,
            clients=settings.approvals.clients,
            record=record,
            now=time.time,
            reload=supervisor.reload,
            roll=supervisor.roll,
            locks=supervisor.lock,
            status=status,
            operators=settings.approvals.operators,
            auditors=settings.approvals.auditors,
            mask=mask,
        )
        webhooks = open_webhooks(settings, record)
        servers = [HttpServer(http_config(app, settings.approvals.tls))]
        listeners = [(servers[0], bind_http(settings.approvals.listen), "api")]
        if settings.console is not None:
            from extproc.app.console import console_app  # templates and all: only where there is a console

            pages = console_app(settings, settings.console, holds, authenticate, keys, record, mask, status)
            servers.append(HttpServer(http_config(pages, settings.console.tls)))
            listeners.append((servers[1], bind_http(settings.console.listen), "console"))
        tasks = [
            *(
                asyncio.create_task(server.serve([listener]), name=name)
                for server, listener, name in listeners
            ),
            asyncio.create_task(keys.run(), name="keys"),
            asyncio.create_task(tend_holds(holds, telling(record, webhooks), time.time), name="holds"),
            *((asyncio.create_task(webhooks.run(), name="webhooks"),) if webhooks is not None else ()),
            asyncio.create_task(_forget(holds, settings.holds.keep), name="forget"),
            asyncio.create_task(supervisor.listen(), name="control"),
            asyncio.create_task(stopping.wait(), name="stop"),
        ]
        listening = asyncio.create_task(all_listen(servers))
        await asyncio.wait((*tasks, listening), return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        await control.send({"ready": True})
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        log.info("approvals.stopping", ended=[task.get_name() for task in done])
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks[: len(servers)], return_exceptions=True)
        for task in tasks[len(servers) :]:
            task.cancel()
        for task, ended in zip(tasks, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
            if isinstance(ended, Exception):
                log.error("approvals.part_failed", part=task.get_name(), exc_info=ended)
    finally:
        await keys.close()
        await holds.aclose()
        ledger.close()


def open_webhooks(settings: Settings, record: Callable[[Record], None]) -> Webhooks | None:
    """Those of the settings, None without any. Raises ConfigError for a secret that is none."""
    endpoints = [
        Endpoint(each.name, each.url, key_of(each.secret.resolve()), frozenset(each.events))
        for each in settings.approvals.webhooks
    ]

    def dead(endpoint: str, message: str) -> None:
        record(Record("admin.webhook_dead", time.time(), {"endpoint": endpoint, "message": message}))

    console = settings.console.url if settings.console is not None else ""
    place = settings.state / "webhooks"
    return Webhooks(place, endpoints, console=console, now=time.time, dead=dead) if endpoints else None


def telling(record: Callable[[Record], None], webhooks: Webhooks | None) -> Callable[[Record], None]:
    """Records a move and then spools its message; a crash in between does both again.

    A message that cannot be kept does not have its move recorded again: it is told as a dead one.
    """
    if webhooks is None:
        return record

    def record_and_tell(entry: Record) -> None:
        record(entry)
        webhooks.spool(entry)

    return record_and_tell


def authenticator(settings: Settings, keys: JwksKeys) -> Callable[[str], Awaitable[Principal]]:
    """Tokens of the approvals audience become principals. Raises TokenError and StoreUnavailableError."""
    verifier = Verifier(
        provider_rules(settings, settings.approvals.audience), max_token_bytes=settings.limits.token_bytes
    )

    async def authenticate(token: str) -> Principal:
        found = verifier.verify(token, keys, time.time())
        if isinstance(found, NeedKeysFor):
            await keys.refresh(found.provider, time.time())
            found = verifier.verify(token, keys, time.time())
        if isinstance(found, NeedKeysFor):
            raise StoreUnavailableError("the issuer's keys cannot be had now")
        return found

    return authenticate


async def _forget(holds: Holds, keep: float) -> None:
    """Drop holds that closed long ago; their moves stay in the ledger."""
    while True:
        try:
            await holds.forget(time.time() - keep)
        except StoreUnavailableError as error:
            log.warning("holds.not_forgotten", error=str(error))
        await asyncio.sleep(3600)
