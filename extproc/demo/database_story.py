"""The demo's chapter about a database: rows masked, a DROP denied, a DELETE held, approved, and granted further."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from extproc.demo.otlp import ReceivedSpan
from extproc.demo.people import CUSTOMERS
from extproc.demo.scene import DATABASE, Scene
from extproc.demo.stage import PATIENCE, act, expect, indent, until
from extproc.demo.tree import draw_trace, escape

if TYPE_CHECKING:
    import psycopg

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
DELETE = "DELETE FROM orders WHERE id = %s"


class DatabaseChapter:
    """Three acts, each with a real client: psycopg, the token as its password."""

    def __init__(self, scene: Scene, cli: Cli, pending: Callable[[str], str]) -> None:
        self.scene = scene
        self.analyst = scene.database_token("analyst-bot", "analysts")
        self.clerk = scene.database_token("clerk-bot", "clerks")
        self.approver = scene.approver_token("olga", "operations")
        self._cli = cli
        self._pending = pending

    def play(self) -> None:
        """All acts. Raises DemoError at the first that fails."""
        self.masked_and_denied()
        self.held_and_granted()

    def masked_and_denied(self) -> None:
        import psycopg

        with self._connect("analyst", self.analyst) as connection:
            act(
                5,
                "An agent reads the same customers in Postgres: its token is the password, columns are masked",
            )
            rows = self._run(connection, "SELECT name, email, card, city FROM customers ORDER BY id LIMIT 2")
            shown = " ".join(str(cell) for row in rows for cell in row)
            expect("Ada Winter" in shown and "Bristol" in shown, "what is not personal is as it was")
            leaked = [k for person in CUSTOMERS for k in ("email", "card") if str(person[k]) in shown]
            expect(not leaked, "no e-mail or card number left the database in clear")
            (who,) = self._run(connection, "SELECT current_user")
            expect(who == ("app",), "it works as a database user whose password it never had")

            act(6, "The same agent drops the table: denied, and its connection lives")
            try:
                self._run(connection, "DROP TABLE customers")
            except psycopg.errors.InsufficientPrivilege as refused:
                click.echo(f"   ← {refused.sqlstate} {escape(str(refused), 400)}")
                expect("no-tables-dropped" in str(refused), "denied, and the rule is named")
            else:
                expect(False, "the DROP is denied")
            rows = self._run(connection, "SELECT count(*) FROM customers")
            expect(rows == [(len(CUSTOMERS),)], "the same connection still answers, and every row is there")
        expect("DROP TABLE" not in self.scene.database.log(), "the database never saw the DROP")

    def held_and_granted(self) -> None:
        act(7, "A clerk's agent deletes an order: held inside its connection until olga of operations agrees")
        before = self._orders()
        with self._connect("clerk", self.clerk) as connection:
            connection.add_notice_handler(lambda notice: click.echo(f"   ← NOTICE {notice.message_primary}"))
            ended: list[int] = []
            waiting = threading.Thread(target=lambda: ended.append(self._delete(connection, 7)), daemon=True)
            waiting.start()
            hold_id = until(lambda: self._pending(self.approver), "the hold to appear")
            expect(self._orders() == before, "the statement waits; nothing was deleted")
            shown = self._cli("holds", "show", hold_id, token=self.approver)
            click.echo(indent(shown.stdout))
            expect(
                "any values" in shown.stdout, "who approves is told what a wider approval would leave open"
            )
            approved = self._cli(
                "holds", "approve", hold_id, "--reason", "clean-up 77", "--uses", "3", "--for", "10m",
                "--scope", "shape", token=self.approver,
            )  # fmt: skip
            click.echo(indent(approved.stdout))
            expect(approved.returncode == 0, "olga approved it, for three statements of its shape at most")
            waiting.join(PATIENCE)
            expect(ended == [1] and self._orders() == before - 1, "the waiting statement ran, exactly once")
            expect(self._delete(connection, 8) == 1, "the next of the same shape passed by the grant")
        expect(self._orders() == before - 2, "two orders are gone, and no third")
        listed = self._cli("grants", "list", token=self.approver)
        click.echo(indent(listed.stdout))
        expect("2 of 3" in listed.stdout, "the grant counts: 2 of 3 are used")

    def show_traces(self) -> None:
        """The sessions as the exporter made them from the ledger."""
        for who, statement in (("analyst-bot", "DROP"), ("clerk-bot", "DELETE")):
            show_session(self.scene, DATABASE, who, statement)

    def by_hand(self) -> str:
        """What to try at the database once the story is over."""
        port = self.scene.database_port
        dsn = f"host=127.0.0.1 port={port} user=agent dbname=postgres sslmode=disable"
        return f"""
The database, with psql or any other client; the token is the password:

  export ANALYST={self.analyst}
  export CLERK={self.clerk}
  PGPASSWORD=$ANALYST psql "{dsn}" -c "SELECT * FROM customers" -c "DROP TABLE customers" -c "SELECT 1"
  PGPASSWORD=$CLERK psql "{dsn}" -c "DELETE FROM orders WHERE id = 9"
  PGPASSWORD=$CLERK {sys.executable} -c \\
    'import psycopg, sys; print(psycopg.connect(sys.argv[1], autocommit=True).execute(sys.argv[2]).rowcount)' \\
    "{dsn}" "UPDATE orders SET amount = 0 WHERE id = 10"
"""

    # ------------------------------------------------------------------ means

    def _connect(self, user: str, token: str) -> psycopg.Connection[Any]:
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=self.scene.database_port, user=user, password=token, dbname="postgres",
            sslmode="disable", autocommit=True, connect_timeout=20,
        )  # fmt: skip

    def _run(self, connection: psycopg.Connection[Any], text: str) -> list[Any]:
        click.echo(f"   {connection.info.user}: {text}")
        rows = connection.execute(text.encode()).fetchall()
        for row in rows:
            click.echo(f"   ← {escape(', '.join(map(str, row)), 200)}")
        return rows

    def _delete(self, connection: psycopg.Connection[Any], order: int) -> int:
        click.echo(f"   {connection.info.user}: {DELETE % order}")
        return connection.execute(DELETE, (order,)).rowcount

    def _orders(self) -> int:
        return int(self.scene.database.run("SELECT count(*) FROM orders")[0][0])


def show_session(scene: Scene, target: str, who: str, statement: str) -> None:
    """The trace of the session that has such a statement."""
    spans: list[ReceivedSpan] = until(
        lambda: _session(scene, target, statement), f"the trace of {who} at {target}"
    )
    click.echo(indent(draw_trace(spans)))
    told = [str(span.attributes.get("db.query.text", "")) for span in spans]
    expect(any(statement in text for text in told), f"{who}'s session has its statements as spans")


def _session(scene: Scene, target: str, statement: str) -> list[ReceivedSpan]:
    """The trace of such a session, once all of it is here: its root comes last."""
    for span in scene.otlp.spans:
        if span.attributes.get("extproc.target") == target and statement in str(
            span.attributes.get("db.query.text", "")
        ):
            trace = scene.otlp.trace(span.trace_id)
            if any(each.name == f"session {target}" for each in trace):
                return trace
    return []
