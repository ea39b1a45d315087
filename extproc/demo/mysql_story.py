"""The demo's chapter about MariaDB: rows masked, a DROP denied, an UPDATE held until finance agrees, all recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from extproc.demo import mariadb
from extproc.demo.database_story import Cli, show_session
from extproc.demo.mariadb import MariaDB
from extproc.demo.people import CUSTOMERS
from extproc.demo.scene import BILLING, Scene
from extproc.demo.stage import PATIENCE, DemoError, act, expect, indent, until
from extproc.demo.tree import escape

if TYPE_CHECKING:
    import pymysql  # type: ignore[import-untyped]

UPDATE = "UPDATE invoices SET paid = 1 WHERE id = %s"
NOT_HERE = "not played: the demo found {}"


class MysqlChapter:
    """One act with a real client: PyMySQL, the token as its password."""

    def __init__(self, scene: Scene, cli: Cli, pending: Callable[[str], str]) -> None:
        self.scene = scene
        self.analyst = scene.database_token("analyst-bot", "analysts", audience=BILLING)
        self.clerk = scene.database_token("clerk-bot", "clerks", audience=BILLING)
        self.approver = scene.approver_token("fiona", "finance")
        self._cli = cli
        self._pending = pending

    def play(self) -> None:
        """The act, where there is a MariaDB. Raises DemoError at the first that fails."""
        act(8, "The same in MariaDB: masked, denied, held until fiona of finance agrees, recorded")
        billing = self.scene.billing
        if billing is None:
            click.echo(f"   – {NOT_HERE.format(mariadb.MISSING)}")
            return
        self._masked_and_denied(billing)
        self._held(billing)
        self._recorded()

    def show_traces(self) -> None:
        """The sessions as the exporter made them from the ledger."""
        if self.scene.billing is not None:
            show_session(self.scene, BILLING, "analyst-bot", "DROP")
            show_session(self.scene, BILLING, "clerk-bot", "UPDATE")

    def by_hand(self) -> str:
        """What to try at the database once the story is over; empty where there is none."""
        if self.scene.billing is None:
            return ""
        where = f"mariadb -h 127.0.0.1 -P {self.scene.billing_port} -u agent {mariadb.DATABASE}"
        return f"""
MariaDB, with its own client (MySQL's wants --enable-cleartext-plugin); the token is the password:

  export BILLING_ANALYST={self.analyst}
  export BILLING_CLERK={self.clerk}
  {where} -p"$BILLING_ANALYST" -f -e "SELECT * FROM customers; DROP TABLE customers; SELECT 1"
  {where} -p"$BILLING_CLERK" -e "UPDATE invoices SET paid = 1 WHERE id = 9"
"""

    # ------------------------------------------------------------------ parts of the act

    def _masked_and_denied(self, billing: MariaDB) -> None:
        import pymysql

        with self._connect(self.analyst) as connection:
            rows = self._run(connection, "SELECT name, email, card, city FROM customers ORDER BY id LIMIT 2")
            shown = " ".join(str(cell) for row in rows for cell in row)
            expect("Ada Winter" in shown and "Bristol" in shown, "what is not personal is as it was")
            leaked = [k for person in CUSTOMERS for k in ("email", "card") if str(person[k]) in shown]
            expect(not leaked, "no e-mail or card number left MariaDB in clear")
            try:
                self._run(connection, "DROP TABLE customers")
            except pymysql.err.MySQLError as refused:
                click.echo(f"   ← {escape(str(refused), 400)}")
                expect("no-tables-dropped" in str(refused), "the DROP is denied, and the rule is named")
            else:
                raise DemoError("the DROP is denied")
            rows = self._run(connection, "SELECT count(*) FROM customers")
            expect(rows == ((len(CUSTOMERS),),), "the connection to MariaDB lives, and every row is there")
        expect("DROP TABLE" not in billing.log(), "MariaDB never saw the DROP")

    def _held(self, billing: MariaDB) -> None:
        def paid() -> list[list[str]]:
            return billing.run("SELECT id FROM invoices WHERE paid")

        with self._connect(self.clerk) as connection:
            ended: list[int] = []
            waiting = threading.Thread(target=lambda: ended.append(self._pay(connection, 7)), daemon=True)
            waiting.start()
            hold_id = until(lambda: self._pending(self.approver), "the hold to appear")
            expect(paid() == [], "the UPDATE waits; no invoice was changed")
            shown = self._cli("holds", "show", hold_id, token=self.approver)
            click.echo(indent(shown.stdout))
            approved = self._cli(
                "holds", "approve", hold_id, "--reason", "bank statement 11", token=self.approver
            )
            expect(approved.returncode == 0, "fiona of finance approved it")
            waiting.join(PATIENCE)
            expect(ended == [1] and paid() == [["7"]], "the waiting UPDATE ran in MariaDB, exactly once")

    def _recorded(self) -> None:
        config = str(self.scene.folder / "extproc.yaml")

        def listed() -> str:
            found = self._cli("sessions", "list", "--config", config, "--target", BILLING).stdout
            return found if "analyst-bot" in found and "clerk-bot" in found else ""

        found = until(listed, "the sessions in the ledger")
        click.echo(indent(found))
        expect("deny=1" in found, "both sessions at MariaDB are in the ledger, and what was denied")

    # ------------------------------------------------------------------ means

    def _connect(self, token: str) -> pymysql.Connection[Any]:
        import pymysql

        return pymysql.connect(
            host="127.0.0.1", port=self.scene.billing_port, user="agent", password=token,
            database=mariadb.DATABASE, autocommit=True, connect_timeout=20,
        )  # fmt: skip

    def _run(self, connection: pymysql.Connection[Any], text: str) -> Any:
        click.echo(f"   agent: {text}")
        with connection.cursor() as cursor:
            cursor.execute(text)
            rows = cursor.fetchall()
        for row in rows:
            click.echo(f"   ← {escape(', '.join(map(str, row)), 200)}")
        return rows

    def _pay(self, connection: pymysql.Connection[Any], invoice: int) -> int:
        click.echo(f"   agent: {UPDATE % invoice}")
        with connection.cursor() as cursor:
            return int(cursor.execute(UPDATE, (invoice,)))
