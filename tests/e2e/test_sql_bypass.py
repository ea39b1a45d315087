"""The corpus of SQL that must not have its effect: each case has it on the bare server, none has it behind extproc."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
import yaml

from extproc.demo.processes import wait_until
from extproc.pipeline.row_masking import WITHHELD
from tests.e2e.databases import DatabaseStack
from tests.support.postgres import Postgres, binaries, system_binaries
from tests.support.postgres_wire import Wire, from_steps
from tests.support.sql_corpus import Case, Heard, has_effect, load, stop_as_declared

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]

CORPUS = Path(__file__).parent / "corpus" / "postgres"
DOCS = Path(__file__).parents[2] / "docs"
CASES = sorted(load(CORPUS), key=lambda case: case.needs)
WORLD = (CORPUS / "world" / "world.sql").read_text()
STATE = (CORPUS / "world" / "state.sql").read_text()
POLICY = (CORPUS / "world" / "policy.yaml").read_text()
EXTENSIONS = ("dblink", "tablefunc", "hstore", "pageinspect", "file_fdw", "postgres_fdw")
FOREVER = (
    "CREATE SCHEMA ext; CREATE ROLE nobody_in_particular;"
    + "".join(f"CREATE EXTENSION {name} SCHEMA ext;" for name in EXTENSIONS)
    + "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw"
)
STRAYS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND application_name = ''"
)
CLEARED = (
    "DROP SCHEMA IF EXISTS public, hr, s CASCADE;"
    " SELECT lo_unlink(oid) FROM pg_largeobject_metadata;"
    " DROP PUBLICATION IF EXISTS p"
)


class PostgresWorld:
    """A server with the corpus's tables, its superuser reached by us and by nobody else."""

    secrets: Sequence[bytes] = (b"kumquat", b"KUMQUAT", b"7431901", b"durian")

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self.stack: SuperuserStack | None = None
        self._admin = psycopg.connect(
            host=str(server.directory), user="postgres", dbname="postgres", autocommit=True, application_name="admin",
            options="-c lock_timeout=1s",
        )  # fmt: skip
        self.scratch = server.directory / "data" / "scratch"
        self.scratch.mkdir()
        shutil.chown(self.scratch, *self._owner())
        self._admin.execute(FOREVER)
        self._victim: Wire | None = None
        self._rebuild()
        self.base = self.state()
        assert len(self.base) == len("('',)") + 32, self.base

    def _owner(self) -> tuple[str | int, str | int]:
        status = (self.server.directory / "data").stat()
        return status.st_uid, status.st_gid

    def close(self) -> None:
        self._admin.close()
        if self._victim is not None:
            self._victim.socket.close()

    def state(self) -> str:
        try:
            with self._admin.transaction():
                return str(self._admin.execute(STATE).fetchone())
        except psycopg.Error as error:
            return str(error)  # a table that it looks at is gone

    def run(self, case: Case, *, governed: bool, prepared: bool = False) -> tuple[Heard, str]:
        if governed:
            assert self.stack is not None
            self.stack.lead_to(self.server)
            token = self.stack.token("mallory", groups=[case.caller])
            wire = Wire(self.stack.port, "reader", token, parameters=case.startup)
        else:
            wire = Wire(self.server.socket, "postgres", parameters=case.startup)
        with wire:
            wire.data = case.data
            for step in case.do:
                if wire.closed:
                    break
                if isinstance(step, str):
                    text = self._filled(step).encode()
                    wire.prepared(text) if prepared else wire.query(text)
                else:
                    wire.ask(*from_steps(step if isinstance(step, list) else [step]))
            after = self.state()
        heard = Heard(
            bytes(wire.said),
            refused=any(_is_ours(error) for error in wire.errors),
            answered=any(kind in wire.kinds for kind in b"Dd"),
            closed=wire.closed,
        )
        return heard, after

    def _filled(self, text: str) -> str:
        return text.replace("{scratch}", str(self.scratch)).replace("{directory}", str(self.server.directory))

    def prepare(self, case: Case) -> str:
        """What a case needs to be there; the state then."""
        for text in case.given:
            self._admin.execute(self._filled(text))
        return self.state() if case.given else self.base

    def restore(self, case: Case, after: str) -> None:
        if after == self.base:
            return  # what only the end of the connection changed, the next case shows
        if self._settles():
            return
        for text in case.undo:
            self._admin.execute(self._filled(text))
        if self._settles():
            return
        self._rebuild()
        self.base = self.state()

    def _settles(self) -> bool:
        """Everything is as it was, or soon is: a connection that has closed keeps its locks a moment longer."""
        if self.state() == self.base:
            return True
        self._admin.execute(STRAYS)
        return self.state() == self.base

    def _rebuild(self) -> None:
        self._admin.execute(CLEARED)
        self._admin.execute(WORLD)
        if self._victim is not None:
            self._victim.socket.close()
        self._victim = Wire(self.server.socket, "postgres", parameters={"application_name": "victim"})
        self._victim.query(b"SELECT 'kumquat-typed'")


class SuperuserStack(DatabaseStack):
    """Whoever logs in is the superuser: nothing but us is in the way."""

    def lead_to(self, server: Postgres) -> None:
        """The database of connections from now on."""
        link = self.postgres.directory / "front"
        link.unlink(missing_ok=True)
        link.symlink_to(server.socket)

    def _write(self) -> None:
        super()._write()
        self.lead_to(self.postgres)
        settings = yaml.safe_load(self.config_path.read_text())
        for role in settings["targets"][0]["database"]["roles"].values():
            role.update(user="postgres", groups=[])
        settings["targets"][0]["upstream"]["address"] = f"unix:{self.postgres.directory}/front"
        self.config_path.write_text(yaml.safe_dump(settings))


def _is_ours(error: dict[str, str]) -> bool:
    """A refusal of ours; an error of the server whose text was withheld is none."""
    told, detail = error.get("M", ""), error.get("D", "")
    ours = told.startswith("extproc") or detail.startswith("extproc") or "decision dec_" in detail
    return ours and WITHHELD not in told


@pytest.fixture(scope="module")
def worlds() -> Iterator[dict[str, PostgresWorld]]:
    """By what a case needs: the newest server, and an installed one with libxml."""
    with ExitStack() as opened:
        found: dict[str, PostgresWorld] = {}
        folders = {"": binaries(), "libxml": system_binaries()}
        for needs, folder in folders.items():
            if folder is not None:
                server = opened.enter_context(
                    Postgres(
                        folder=folder,
                        wal_level="logical",
                        max_prepared_transactions="4",
                        log_statement="none",
                    )
                )
                world = found[needs] = PostgresWorld(server)
                opened.callback(world.close)
        yield found


@pytest.fixture(scope="module")
def governed(
    worlds: dict[str, PostgresWorld], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, PostgresWorld]]:
    """The same with us in front: one for all, whose database is whichever a case needs."""
    stack = SuperuserStack(tmp_path_factory.mktemp("corpus"), worlds[""].server, policy=POLICY)
    with stack:
        for world in worlds.values():
            world.stack = stack
        yield worlds


def world_of(worlds: dict[str, PostgresWorld], case: Case) -> PostgresWorld:
    if case.needs not in worlds:
        pytest.skip("no installed PostgreSQL: tools/system.sh")
    return worlds[case.needs]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_has_its_effect_on_the_bare_server(worlds: dict[str, PostgresWorld], case: Case) -> None:
    world = world_of(worlds, case)
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
def test_it_has_none_behind_extproc(governed: dict[str, PostgresWorld], case: Case, prepared: bool) -> None:
    world = world_of(governed, case)
    before = world.prepare(case)
    heard, after = world.run(case, governed=True, prepared=prepared)
    world.restore(case, after)
    passed = has_effect(world, case, heard, before, after)
    told = f"{case.do}: {heard.said[:2000]!r}"
    assert passed == (case.gate == "passes"), told
    assert stop_as_declared(case, heard), told


def test_every_miss_is_declared() -> None:
    documents = "".join((DOCS / name).read_text() for name in ("postgres.md", "sql.md"))
    misses = [case for case in CASES if case.gate == "passes"]
    assert misses and [case.name for case in misses if case.declared not in documents] == []
    assert len(CASES) - len(misses) >= 600


def test_everything_that_was_decided_is_recorded(governed: dict[str, PostgresWorld]) -> None:
    stack = governed[""].stack
    assert stack is not None

    def unfinished() -> set[str]:
        records = stack.records()
        intents, outcomes = (
            {r["decision_id"] for r in records if r["kind"] == kind} for kind in ("intent", "outcome")
        )
        return intents ^ outcomes

    wait_until(lambda: not unfinished(), what="every outcome", within=10.0)
    stack.cli("ledger", "verify", "--config", str(stack.config_path))
