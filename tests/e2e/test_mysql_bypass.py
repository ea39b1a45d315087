"""The corpus of MySQL statements that must not have their effect: each has it on the bare server, none behind us."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]
import pytest
import yaml

from extproc.demo.processes import wait_until
from tests.e2e.databases import PASSWORD
from tests.e2e.mysql import MysqlStack
from tests.support.mariadb import MISSING, MariaDB, is_here
from tests.support.mysql_wire import Wire
from tests.support.sql_corpus import Case, Heard, has_effect, load, stop_as_declared

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not is_here(), reason=MISSING)]

CORPUS = Path(__file__).parent / "corpus" / "mysql"
DOCS = Path(__file__).parents[2] / "docs"
CASES = load(CORPUS)
WORLD = (CORPUS / "world" / "world.sql").read_text()
STATE = (CORPUS / "world" / "state.sql").read_text().strip().splitlines()
POLICY = (CORPUS / "world" / "policy.yaml").read_text()
HARMLESS = (
    *("SELECT id, note FROM ledger", "SELECT 1 /*!50000 + 1 */", "USE shop", "SET @a = 1", "BEGIN", "COMMIT"),
    *("SELECT COUNT(*) FROM orders o JOIN customers c ON c.id = o.customer", "SHOW TABLES", "DO 1"),
    *("PREPARE p FROM 'SELECT 1'", "EXECUTE p", "SET sql_mode = 'ANSI_QUOTES'", 'SELECT "id" FROM "orders"'),
)  # fmt: skip
FILES = {"rows": "77\tin\n", "secret": "durian-file\n", "rows.xml": "<row id='77' note='in'/>"}
NOBODY = """
DELETE FROM mysql.global_priv WHERE user NOT IN ('root', 'app', 'mariadb.sys', '', 'PUBLIC');
DELETE FROM mysql.db; DELETE FROM mysql.roles_mapping; DELETE FROM mysql.servers; DELETE FROM mysql.column_stats;
FLUSH PRIVILEGES
"""
PEOPLE = """
CREATE USER somebody IDENTIFIED BY 'y'; GRANT SELECT ON shop.* TO somebody;
CREATE USER victim; GRANT ALL ON shop.* TO victim
"""
SETTINGS = {
    "secure-file-priv": "",
    "local-infile": "1",
    "sync-frm": "0",
    "innodb-doublewrite": "0",
    "innodb-flush-method": "nosync",
}
GLOBALS = (
    "max_connections",
    "sql_mode",
    "init_connect",
    "tx_isolation",
    "event_scheduler",
    "general_log_file",
)


class MariaWorld:
    """A server with the corpus's tables, its administrator reached by us and by nobody else."""

    secrets: Sequence[bytes] = (b"kumquat", b"KUMQUAT", b"7431901")

    def __init__(self, server: MariaDB) -> None:
        self.server = server
        self.stack: AdministratorStack | None = None
        self._admin = self._connect()
        self._globals = {name: self._rows(f"SELECT @@global.{name}")[0][0] for name in GLOBALS}
        self.scratch = server.directory / "scratch"
        self.scratch.mkdir()
        self.scratch.chmod(0o777)
        self._victim: Wire | None = None
        self._execute("DROP DATABASE sys")  # its views make every look at the catalogue slow
        self._execute(
            f"CREATE USER app IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO app WITH GRANT OPTION"
        )
        self._rebuild()
        self.base = self.state()
        assert self.base == self.state(), "the state is not steady"

    def _connect(self) -> Any:
        return pymysql.connect(
            unix_socket=str(self.server.socket), user="root", autocommit=True, charset="utf8mb4",
            client_flag=pymysql.constants.CLIENT.MULTI_STATEMENTS, init_command="SET lock_wait_timeout = 1",
        )  # fmt: skip

    def close(self) -> None:
        self._admin._force_close()
        if self._victim is not None:
            self._victim.__exit__()

    def _rows(self, text: str) -> Any:
        with self._admin.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall()

    def _execute(self, text: str) -> None:
        with self._admin.cursor() as cursor:
            cursor.execute(text)
            while cursor.nextset():
                pass

    def state(self) -> str:
        found = []
        for text in STATE:
            try:
                found.append(repr(self._rows(text)))
            except pymysql.err.MySQLError as error:  # a table that it looks at is gone, or locked
                found.append(str(error.args[0]))
        return "\n".join([*found, str(sorted(path.name for path in self.scratch.iterdir()))])

    def run(self, case: Case, *, governed: bool, prepared: bool = False) -> tuple[Heard, str]:
        if governed:
            assert self.stack is not None
            token = self.stack.token("mallory", groups=[case.caller])
            try:
                wire = Wire(self.stack.port, "reader", token, parameters=case.startup)
            except pymysql.err.MySQLError as error:
                told = str(error.args[-1])
                return Heard(told.encode(), "extproc" in told, closed=True), self.state()
        else:
            wire = Wire(self.server.socket, "app", PASSWORD, parameters=case.startup)
        with wire:
            wire.data = case.data
            for step in case.do:
                if wire.closed:
                    break
                text = self._filled(step).encode() if isinstance(step, str) else step["raw"].encode("latin-1")
                wire.prepared(text) if prepared else wire.query(text)
            after = self.state()
        self._until_gone(wire.id)
        refused = any("extproc" in error for error in wire.errors)
        return Heard(bytes(wire.said), refused, wire.answered, wire.closed), after

    def _filled(self, text: str) -> str:
        victim = self._victim.id if self._victim is not None else 0
        return text.replace("{scratch}", str(self.scratch)).replace("{victim}", str(victim))

    def prepare(self, case: Case) -> str:
        """What a case needs to be there; the state then."""
        for text in case.given:
            self._execute(self._filled(text))
        return self.state() if case.given else self.base

    def restore(self, case: Case, after: str) -> None:
        if after == self.base:
            return  # what only the end of the connection changed, the next case shows
        if self.state() == self.base:
            return
        for text in case.undo:
            with contextlib.suppress(pymysql.err.MySQLError):
                self._execute(self._filled(text))
        if case.undo and self.state() == self.base:
            return
        self._rebuild()
        self.base = self.state()

    def _until_gone(self, thread: int) -> None:
        """A connection that was closed keeps its locks a moment longer."""
        there = f"SELECT 1 FROM information_schema.PROCESSLIST WHERE ID = {thread}"
        wait_until(lambda: not self._rows(there), what="the connection's end", within=5.0, interval=0.002)

    def _rebuild(self) -> None:
        for path in self.scratch.iterdir():
            path.unlink()
        for name, text in FILES.items():
            (self.scratch / name).write_text(text)
            (self.scratch / name).chmod(0o644)
        for (name,) in self._rows("SELECT schema_name FROM information_schema.schemata"):
            if name not in ("information_schema", "performance_schema", "mysql", "sys"):
                self._execute(f"DROP DATABASE `{name}`")
        self._execute(NOBODY)
        for name, value in self._globals.items():
            with self._admin.cursor() as cursor:
                cursor.execute(f"SET GLOBAL {name} = %s", (value,))
        self._execute("SET GLOBAL general_log = 1")
        self._execute(WORLD)
        self._execute(PEOPLE)
        if self._victim is not None:
            self._victim.__exit__()
        self._victim = Wire(self.server.socket, "victim")


class AdministratorStack(MysqlStack):
    """Whoever logs in may do everything: nothing but us is in the way."""

    def _write(self) -> None:
        super()._write()
        settings = yaml.safe_load(self.config_path.read_text())
        for role in settings["targets"][0]["database"]["roles"].values():
            role.update(user="app", groups=[])
        self.config_path.write_text(yaml.safe_dump(settings))


@pytest.fixture(scope="module")
def world() -> Iterator[MariaWorld]:
    with MariaDB(settings=SETTINGS) as server:
        made = MariaWorld(server)
        yield made
        made.close()


@pytest.fixture(scope="module")
def governed(world: MariaWorld, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaWorld]:
    stack = AdministratorStack(tmp_path_factory.mktemp("corpus"), world.server, policy=POLICY)
    with stack:
        world.stack = stack
        yield world


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_has_its_effect_on_the_bare_server(world: MariaWorld, case: Case) -> None:
    before = world.prepare(case)
    heard, after = world.run(case, governed=False)
    world.restore(case, after)
    assert has_effect(world, case, heard, before, after), f"{case.do}: {heard.said[:2000]!r}"


@pytest.mark.parametrize(
    ("case", "prepared"),
    [
        pytest.param(case, prepared, id=case.name + "-prepared" * prepared)
        for case in CASES
        for prepared in ([False, True] if case.can_be_prepared else [False])
    ],
)
def test_it_has_none_behind_extproc(governed: MariaWorld, case: Case, prepared: bool) -> None:
    before = governed.prepare(case)
    heard, after = governed.run(case, governed=True, prepared=prepared)
    governed.restore(case, after)
    passed = has_effect(governed, case, heard, before, after)
    told = f"{case.do}: {heard.said[:2000]!r}"
    assert passed == (case.gate == "passes"), told
    assert stop_as_declared(case, heard), told


@pytest.mark.parametrize("caller", ["readers", "writers", "builders"])
def test_what_is_harmless_passes(governed: MariaWorld, caller: str) -> None:
    """Else all that is stopped would show nothing."""
    case = Case("harmless", "all", tuple(HARMLESS), caller=caller)
    heard, _ = governed.run(case, governed=True)
    assert (heard.refused, heard.answered, heard.closed) == (False, True, False), heard.said


def test_every_miss_is_declared() -> None:
    documents = (DOCS / "sql-mysql.md").read_text()
    misses = [case for case in CASES if case.gate == "passes"]
    assert misses and [case.name for case in misses if case.declared not in documents] == []
    assert len(CASES) - len(misses) >= 150
    assert len({case.family for case in CASES}) >= 8
