"""A real Postgres behind a rendered Envoy and `extproc serve`, reached by real clients with a token as the password."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import yaml

from extproc.demo.processes import wait_until
from tests.e2e.stack import Stack
from tests.support.postgres import Postgres

TARGET = "orders-db"
PASSWORD = "upstream-password-7f3a9c"
"""What extproc logs in with; no client may ever see it."""

FRONTS = ["ext_proc", "relay"]
"""Both ways from Envoy to us; what a client sees is the same."""

SCHEMA = f"""
CREATE USER app_reader PASSWORD '{PASSWORD}';
CREATE USER app_writer PASSWORD '{PASSWORD}';
CREATE TABLE customers (id int PRIMARY KEY, name text, email text, age int, note jsonb);
INSERT INTO customers VALUES
  (1, 'Ada', 'ada@example.com', 36, '{{"mail": "ada@example.com"}}'),
  (2, 'Grace', 'grace@example.com', 45, '{{"mail": "none"}}'),
  (3, 'Edsger', NULL, NULL, NULL);
CREATE TABLE orders (id int PRIMARY KEY, customer int, amount int);
INSERT INTO orders SELECT n, 1 + n % 3, n * 10 FROM generate_series(1, 100) n;
CREATE TABLE payments (id int);
CREATE TABLE refunds (id int);
CREATE VIEW mails AS SELECT id, email AS address FROM customers;
GRANT ALL ON ALL TABLES IN SCHEMA public TO app_reader, app_writer;
GRANT CREATE ON SCHEMA public TO app_writer;
"""

POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: orders}
target: orders-db
default: deny
rules:
  - name: analysts-see-masked
    when: '"analysts" in principal.groups && sql.effects.all(e, e == "read")'
    then: {allow: {}, mask: pii}
  - name: readers-read
    when: '"readers" in principal.groups && sql.effects.all(e, e == "read")'
    then: {allow: {}}
  - name: writers-write
    when: '"writers" in principal.groups && sql.effects.all(e, e in ["read", "write"])'
    then: {allow: {}}
  - name: builders-build
    when: '"builders" in principal.groups'
    then: {allow: {}}
  - name: no-delete
    when: sql.verb == "DELETE" && !("builders" in principal.groups)
    then: {deny: {message: "Nothing is deleted here."}}
  - name: payments-wait
    when: '"payments" in sql.tables_written'
    then:
      risk: 60
      hold:
        approvers: {all_of: [{group: finance, count: 1}]}
        wait: 30s
        expires: 1h
        use_within: 10m
        reason: "Payments need a second pair of eyes."
        break_glass: {groups: [oncall], review_within: 1h}
  - name: refunds-hardly-wait
    when: '"refunds" in sql.tables_written'
    then: {hold: {approvers: {all_of: [{group: finance, count: 1}]}, wait: 2s, expires: 1h, use_within: 10m}}
masks:
  pii: {columns: [customers.email, customers.age], entities: [EMAIL_ADDRESS], operator: replace}
"""


class GovernedDatabase(Stack):
    """`Stack` for one database target. `socket` is where its server is."""

    kind = "postgres"
    listener_name = "pg"

    def __init__(
        self,
        directory: Path,
        socket: Path,
        *,
        front: str = "ext_proc",
        database: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        more.setdefault("policy", POLICY)
        super().__init__(directory, target_name=TARGET, upstream_address="none", **more)
        self.socket = socket
        self.front = front
        self._database = dict(database or {})

    def _write(self) -> None:
        super()._write()
        secret = self.directory / "db.key"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        password = {"file": str(secret)}
        settings = yaml.safe_load(self.config_path.read_text())
        settings["processor"].setdefault("relay", f"unix:{self.directory}/r.sock")
        settings["listeners"] = [
            {
                "name": self.listener_name,
                "address": f"127.0.0.1:{self.port}",
                "protocol": self.kind,
                "target": TARGET,
                **self._listener,
                "front": self.front,
            }
        ]
        settings["targets"] = [
            {
                "name": TARGET,
                "kind": self.kind,
                "upstream": {"address": f"unix:{self.socket}"},
                "record": {"request": "masked"},
                "database": {
                    "roles": {
                        "reader": {"user": "app_reader", "password": password},
                        "writer": {
                            "user": "app_writer",
                            "password": password,
                            "groups": ["writers", "builders"],
                        },
                    },
                    **self._database,
                },
                **self._target,
            }
        ]
        self.config_path.write_text(yaml.safe_dump(settings))

    def _start_envoy(self) -> None:
        super()._start_envoy()
        if self.front == "relay":
            assert self.envoy is not None
            self.envoy.wait_for_stat(
                f"cluster.relay_{self.listener_name}.membership_healthy", lambda value: value >= 1
            )

    # ------------------------------------------------------------------ the ledger

    def statements(self, part: str) -> list[dict[str, dict[str, Any]]]:
        """Every decision about a statement whose recorded text contains `part`, oldest first: records by kind."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        records = self.records()
        for record in records:
            if record["kind"] == "intent" and part in record.get("statement", {}).get("text", ""):
                found[record["decision_id"]] = {}
        for record in records:
            if record.get("decision_id") in found:
                found[record["decision_id"]][record["kind"]] = record
        return list(found.values())

    def statement(self, part: str, count: int = 1) -> dict[str, dict[str, Any]]:
        """The last of exactly `count` decisions about it, once each has its outcome."""
        found: list[dict[str, dict[str, Any]]] = []

        def complete() -> bool:
            found[:] = self.statements(part)
            return len(found) >= count and all("outcome" in story for story in found)

        wait_until(complete, what=f"the outcome of {part!r}", within=10.0)
        assert len(found) == count, f"{len(found)} decisions about {part!r}"
        return found[-1]


class DatabaseStack(GovernedDatabase):
    """A governed Postgres."""

    def __init__(self, directory: Path, postgres: Postgres, **more: Any) -> None:
        super().__init__(directory, postgres.socket, **more)
        self.postgres = postgres

    def __enter__(self) -> DatabaseStack:
        super().__enter__()
        return self

    # ------------------------------------------------------------------ clients

    def dsn(
        self, user: str = "reader", token: str = "", groups: Sequence[str] = ("readers",)
    ) -> dict[str, Any]:
        """Connection parameters of libpq."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": user,
            "password": token or self.token(groups=groups),
            "dbname": "postgres",
            "sslmode": "disable",
            "connect_timeout": 20,
        }

    def connect(
        self, user: str = "reader", *groups: str, token: str = "", **more: Any
    ) -> psycopg.Connection[Any]:
        """psycopg through Envoy, autocommit unless asked otherwise."""
        more.setdefault("autocommit", True)
        return psycopg.connect(**self.dsn(user, token, groups or ("readers",)), **more)

    def psql(self, *commands: str, user: str = "reader", groups: Sequence[str] = ("readers",)) -> Any:
        """psql with one `-c` per command; the finished process."""
        asked = [part for command in commands for part in ("-c", command)]
        parameters = self.dsn(user, "", groups)
        environment = {
            **os.environ,
            "PGPASSWORD": parameters["password"],
            "PGSSLMODE": "disable",
            "PGGSSENCMODE": "disable",
        }
        return subprocess.run(
            ["psql", "-X", "-h", "127.0.0.1", "-p", str(self.port), "-U", user, "-d", "postgres", "-At", *asked],
            env=environment, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
