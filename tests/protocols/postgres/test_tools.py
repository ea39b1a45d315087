"""Postgres' own programs through the state machine: with nothing to change they cannot tell."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.protocols.postgres import Refusal, StatementReceived, UpstreamLogin
from tests.protocols.postgres.relay import Gate, relay
from tests.support.postgres import Postgres, binaries

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.run("CREATE ROLE gateway LOGIN PASSWORD 'secret' SUPERUSER")
        server.run("CREATE DATABASE bench")
        server.run(
            "CREATE TABLE things (id serial PRIMARY KEY, name text, made timestamptz DEFAULT '2030-01-01');"
            "CREATE VIEW named AS SELECT name FROM things;"
            "INSERT INTO things (name) SELECT repeat('ä', n) FROM generate_series(1, 300) n",
            database="bench",
        )
        yield server


def gate() -> Gate:
    return Gate(UpstreamLogin("gateway", "bench", "secret", secrets.token_hex(12)))


async def program(
    name: str, *arguments: str, host: Path, user: str = "ada", script: str = ""
) -> tuple[int, str, str]:
    folder = binaries()
    assert folder is not None
    process = await asyncio.create_subprocess_exec(
        folder / name, "-h", str(host), "-U", user, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PGPASSWORD": "token", "PGCONNECT_TIMEOUT": "10"},
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(script.encode()), 60)
    return process.returncode or 0, out.decode(), err.decode()


SCRIPT = r"""
\set ON_ERROR_STOP off
SELECT count(*) FROM things;
BEGIN; DELETE FROM things WHERE id > 290; SELECT 1/0; ROLLBACK;
SELECT 1 \; SELECT 2;
SELECT name FROM things WHERE id = $1 \bind 2 \g
PREPARE p AS SELECT $1::int; EXECUTE p(3);
\copy (SELECT id FROM things WHERE id < 4) to stdout
CREATE TEMP TABLE t (a int);
COPY t FROM stdin;
1
2
\.
SELECT sum(a) FROM t;
DO $$ BEGIN RAISE NOTICE 'heard'; END $$;
LISTEN c; NOTIFY c, 'payload';
\d things
"""


async def test_psql_prints_the_same_through_us(postgres: Postgres, tmp_path: Path):
    async with relay(gate(), postgres.socket, tmp_path):
        through = await program("psql", "-X", "-d", "bench", host=tmp_path, script=SCRIPT)
    direct = await program(
        "psql", "-X", "-d", "bench", host=postgres.directory, user="postgres", script=SCRIPT
    )

    def plain(text: str) -> str:  # the notification names its process
        return "\n".join(line for line in text.splitlines() if "process with PID" not in line)

    assert [through[0], plain(through[1]), through[2]] == [direct[0], plain(direct[1]), direct[2]]
    assert "heard" in through[2] and "division by zero" in through[2]


async def test_a_dump_is_the_same_through_us(postgres: Postgres, tmp_path: Path):
    def stable(dump: str) -> list[str]:
        return [line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]

    door = gate()
    async with relay(door, postgres.socket, tmp_path):
        _, through, errors = await program("pg_dump", "-d", "bench", host=tmp_path)
    _, direct, _ = await program("pg_dump", "-d", "bench", host=postgres.directory, user="postgres")
    assert stable(through) == stable(direct), errors
    assert "COPY public.things" in through


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
async def test_pgbench_loses_no_transaction(postgres: Postgres, tmp_path: Path, mode: str):
    async with relay(gate(), postgres.socket, tmp_path):
        code, _, errors = await program("pgbench", "-i", "-q", "bench", host=tmp_path)
        assert code == 0, errors
        code, out, errors = await program(
            "pgbench", "-n", "-M", mode, "-c", "4", "-t", "25", "bench", host=tmp_path
        )
    assert code == 0, errors
    assert "actually processed: 100/100" in out and "failed transactions: 0" in out


async def test_psql_goes_on_after_a_denial(postgres: Postgres, tmp_path: Path):
    def verdict(asked: StatementReceived) -> Refusal | None:
        return Refusal("42501", "no drops", "rule no-drop", "ask") if "DROP" in asked.text else None

    door = gate()
    door.verdict = verdict
    async with relay(door, postgres.socket, tmp_path):
        _, out, errors = await program(
            "psql",
            "-X",
            "-A",
            "-t",
            "-d",
            "bench",
            host=tmp_path,
            script="DROP TABLE things;\nSELECT 40 + 2;\n",
        )
    assert out == "42\n"
    assert errors == "ERROR:  no drops\nDETAIL:  rule no-drop\nHINT:  ask\n"
