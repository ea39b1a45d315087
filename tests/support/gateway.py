"""A governed Postgres connection without Envoy: clients talk to a local port, `PostgresConversation` sits between.

For what does not depend on the way bytes travel; a test of it runs in milliseconds against a real server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

import psycopg

from extproc.domain.mask import MaskSpec
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.domain.request import Source
from extproc.masking import ENTITIES, compile_masker
from extproc.masking.rows import compile_rows
from extproc.pipeline import DatabasePlan, DatabaseRole, Governance, TargetPlan
from extproc.pipeline.listeners import ListenerPlan
from extproc.policy import PolicySource, TargetInfo, load_policies
from extproc.servers.network_ext_proc import Output
from extproc.servers.postgres_conversation import PostgresConversation
from extproc.servers.service import Service
from tests.support.governed import SECRETS, Believes
from tests.support.postgres import Postgres

TOKEN = "alice-is-believed"
MASK_ALL = """
default: deny
rules:
  - {name: all, when: "true", then: {allow: {}, mask: pii}}
"""


class Kept:
    """A ledger in memory."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, record: Record) -> None:
        self.records.append(record)

    def commit(self) -> None:
        pass


def database_governance(
    policy: str, user: str, target: dict[str, Any], database: dict[str, Any]
) -> Governance:
    """One target `db` whose every caller becomes `user`."""
    text = f"apiVersion: extproc/v1\nkind: Policy\nmetadata: {{name: t}}\ntarget: db\n{policy}"
    policies = load_policies([PolicySource("t.yaml", text)], {"db": TargetInfo("postgres", {})})
    made: dict[tuple[str, ...], Any] = {}

    def masker_for(names: tuple[str, ...]) -> Any:
        return compile_masker([policies.masks[name] for name in names], SECRETS)

    def row_masks(names: tuple[str, ...]) -> Any:
        if names not in made:
            specs = [policies.masks[name] for name in names]
            made[names] = compile_rows(specs, SECRETS, masker_for(names))
        return made[names]

    plan = TargetPlan(
        name="db",
        kind="postgres",
        labels={},
        rules=policies.for_target("db"),
        record_masker=compile_masker([MaskSpec("r", entities=tuple(ENTITIES), operator="replace")], SECRETS),
        masker_for=masker_for,
        database=DatabasePlan(roles={"*": DatabaseRole(user)}, protected=True, row_masks=row_masks),
    )
    assert plan.database is not None
    plan = replace(plan, database=replace(plan.database, **database), **target)
    alice = Principal("https://issuer", "alice", "agent", "alice@example.com", groups=("readers",))
    return Governance(
        targets={"db": plan},
        identifier=Believes(**{TOKEN: alice}),
        policy_digest=policies.digest,
        binding_key=b"b" * 32,
        record_key=b"r" * 32,
    )


class Gateway:
    """`with Gateway(postgres, policy) as gateway: gateway.connect()`. Every caller becomes the superuser."""

    def __init__(
        self, postgres: Postgres, policy: str, *, chunk: int = 1 << 20, target: dict[str, Any] | None = None,
        database: dict[str, Any] | None = None, user: str = "postgres", desk: Any = None,
    ) -> None:  # fmt: skip
        self._postgres = postgres
        self._chunk = chunk
        self._desk = desk
        self.ledger = Kept()
        self.governance = database_governance(policy, user, target or {}, database or {})
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._numbers = itertools.count(1)

    def __enter__(self) -> Gateway:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def connect(self, **more: Any) -> psycopg.Connection[Any]:
        more.setdefault("autocommit", True)
        return psycopg.connect(**self.parameters(), **more)

    def parameters(self) -> dict[str, Any]:
        """For libpq."""
        return {
            "host": "127.0.0.1", "port": self.port, "user": "anybody", "password": TOKEN, "dbname": "postgres",
            "sslmode": "disable", "gssencmode": "disable", "connect_timeout": 10,
        }  # fmt: skip

    def outcomes(self) -> list[dict[str, Any]]:
        """Of statements, in order."""
        return [
            dict(r.fields)
            for r in self.ledger.records
            if r.kind == "outcome" and r.fields["operation"] == "statement"
        ]

    async def _listen(self) -> None:
        def new_hex(size: int) -> str:
            return f"{next(self._numbers):0{2 * size}x}"

        self._service = Service(
            governance=self.governance, ledger=self.ledger, desk=self._desk,
            keys=None,  # type: ignore[arg-type]
            now=time.time, new_hex=new_hex,
        )  # fmt: skip
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 22)
        self._server = server
        self.port = server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plan = self._service.current().targets["db"].database
        assert plan is not None
        upstream_reader, upstream = await asyncio.open_unix_connection(
            str(self._postgres.socket), limit=1 << 22
        )

        def send(output: Output) -> None:
            for record in output.records:
                self.ledger.append(record)
            for data, end, to in (
                (output.to_server, output.end_server, upstream),
                (output.to_client, output.end_client, writer),
            ):
                if data and not to.is_closing():
                    to.write(data)
                if (end or output.close) and not to.is_closing():
                    to.close()

        talk = PostgresConversation(
            self._service, plan, ListenerPlan("pg", "db", takes_cleartext=True), Source(), send
        )

        async def pump(source: asyncio.StreamReader, receive: Callable[[bytes, bool], Output]) -> None:
            while True:
                try:
                    data = await source.read(self._chunk)
                except OSError:
                    data = b""
                send(receive(data, not data))
                for to in (writer, upstream):
                    with contextlib.suppress(OSError):
                        await to.drain()
                if not data:
                    return

        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(pump(reader, talk.client_data), pump(upstream_reader, talk.server_data))
        for record in talk.gone("closed"):
            self.ledger.append(record)
