"""TLS between clients and us, ended in the processor or at Envoy, and callers known by their certificate."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest

from extproc.demo.processes import wait_until
from tests.e2e.databases import FRONTS, POLICY, SCHEMA, DatabaseStack
from tests.support.pki import Authority
from tests.support.postgres import Postgres, binaries, system_binaries

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")]

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
ETL = "spiffe://example.org/ns/data/etl"
CALLERS = [
    {"uri": ETL, "kind": "service", "groups": ["readers"]},
    {"uri": "spiffe://example.org/ns/batch/*", "groups": ["writers"]},
]
MAYBE_A_CERTIFICATE = POLICY.replace(
    "masks:\n",
    """\
  - name: certificates-count
    when: principal.issuer == "x509" && connection.peer_san != principal.subject
    then: {deny: {message: "The certificate is not the caller's."}}
masks:
""",
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


def listener(authority: Authority, ended_by: str, **more: Any) -> dict[str, Any]:
    certificate, key = authority.issue("server", hosts=["localhost", "127.0.0.1"])
    tls = {
        "certificate": str(certificate),
        "key": str(key),
        "client_ca": str(authority.path),
        "terminate": ended_by,
        **more,
    }
    return {"tls": tls, "callers": CALLERS}


@pytest.fixture(scope="module", params=[(by, front) for front in FRONTS for by in ("extproc", "envoy")])
def stack(
    request: pytest.FixtureRequest,
    postgres: Postgres,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DatabaseStack]:
    ended_by, front = request.param
    with DatabaseStack(
        tmp_path_factory.mktemp("tls"),
        postgres,
        front=front,
        listener=listener(authority, ended_by),
        policy=MAYBE_A_CERTIFICATE,
    ) as running:
        running.ended_by = ended_by  # type: ignore[attr-defined]
        yield running


def options(stack: DatabaseStack, authority: Authority, mode: str = "verify-full") -> dict[str, Any]:
    """libpq's, in the way of beginning TLS that this stack has."""
    found = {
        "sslmode": mode,
        "sslrootcert": str(authority.path),
        "host": "localhost",
        "hostaddr": "127.0.0.1",
    }
    if stack.ended_by == "envoy":  # type: ignore[attr-defined]
        found["sslnegotiation"] = "direct"
    return found


def connect(stack: DatabaseStack, *groups: str, user: str = "reader", **more: Any) -> psycopg.Connection[Any]:
    given = {**stack.dsn(user, "", groups or ("readers",)), "autocommit": True, **more}
    return psycopg.connect(**given)


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_psycopg_speaks_tls_and_verifies_us(stack: DatabaseStack, authority: Authority, mode: str) -> None:
    with connect(stack, **options(stack, authority, mode)) as connection:
        assert connection.pgconn.ssl_in_use
        rows = connection.execute("SELECT repeat('x', 1000) FROM generate_series(1, 3000)").fetchall()
        assert len(rows) == 3000
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM orders")
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (100,)


def test_direct_tls_works_whoever_ends_it(stack: DatabaseStack, authority: Authority) -> None:
    given = {**options(stack, authority), "sslnegotiation": "direct"}
    with connect(stack, **given) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_client_that_trusts_others_does_not_send_its_token(stack: DatabaseStack, tmp_path: Path) -> None:
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        connect(stack, **options(stack, Authority(tmp_path)))


def test_asyncpg_speaks_tls(stack: DatabaseStack, authority: Authority) -> None:
    async def talk() -> None:
        connection = await asyncpg.connect(
            host="localhost", port=stack.port, user="reader", password=stack.token(), database="postgres",
            ssl=ssl.create_default_context(cafile=str(authority.path)),
            direct_tls=stack.ended_by == "envoy",  # type: ignore[attr-defined]
        )  # fmt: skip
        try:
            assert await connection.fetchval("SELECT amount FROM orders WHERE id = $1", 9) == 90
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("DELETE FROM orders")
        finally:
            await connection.close()

    asyncio.run(talk())


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql")
@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_psql_speaks_tls(stack: DatabaseStack, authority: Authority, mode: str) -> None:
    if stack.ended_by == "envoy":  # type: ignore[attr-defined]
        return  # psql before 17 knows no direct TLS; libpq 18 was asked above
    done = subprocess.run(
        ["psql", "-X", "-At", "-c", "SELECT count(*) FROM orders",
         f"host=localhost port={stack.port} user=reader dbname=postgres sslmode={mode} sslrootcert={authority.path}"],
        env={**os.environ, "PGPASSWORD": stack.token()}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("100\n", "")


def test_a_running_statement_can_be_cancelled_under_tls(stack: DatabaseStack, authority: Authority) -> None:
    from tests.support.asking import Asking

    with connect(stack, "builders", user="writer", **options(stack, authority)) as connection:
        asking = Asking(lambda: connection.execute("SELECT pg_sleep(30)"))
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(30)%'"
        wait_until(lambda: stack.postgres.run(running) == [(1,)], what="the statement to run", within=10.0)
        connection.cancel_safe(timeout=10)
        with pytest.raises(psycopg.errors.QueryCanceled):
            asking.finish()


def test_nothing_is_said_without_tls(stack: DatabaseStack) -> None:
    with pytest.raises(psycopg.OperationalError):
        connect(stack, sslmode="disable")


def test_bytes_sent_before_the_handshake_end_it(stack: DatabaseStack) -> None:
    startup = struct.pack("!ii", 23, 196608) + b"user\0reader\0\0\0\0"
    with socket.create_connection(("127.0.0.1", stack.port), timeout=10) as raw:
        raw.sendall(SSL_REQUEST + startup)
        answer = b""
        while piece := raw.recv(4096):
            answer += piece
    assert not answer.startswith((b"S", b"R"))
    if stack.ended_by == "extproc":  # type: ignore[attr-defined]
        assert b"before TLS began" in answer


def test_no_older_tls_than_1_2(stack: DatabaseStack, authority: Authority) -> None:
    with pytest.raises(psycopg.OperationalError):
        connect(
            stack,
            **options(stack, authority),
            ssl_max_protocol_version="TLSv1.1",
            ssl_min_protocol_version="TLSv1",
        )


# ---------------------------------------------------------------------- certificates


def by_certificate(authority: Authority, *uris: str) -> dict[str, Any]:
    certificate, key = authority.issue("client", uris=uris)
    return {"sslcert": str(certificate), "sslkey": str(key), "password": "no-token"}


def test_a_listed_certificate_needs_no_token(stack: DatabaseStack, authority: Authority) -> None:
    given = {**options(stack, authority), **by_certificate(authority, ETL)}
    with connect(stack, **given) as connection:
        assert connection.execute("SELECT count(*), 'by certificate' FROM orders").fetchone()[0] == 100  # type: ignore[index]
    intent = stack.statement("'by certificate'")["intent"]
    assert intent["principal"]["issuer"] == "x509"
    assert intent["principal"]["subject"] == ETL
    assert (intent["principal"]["kind"], intent["principal"]["groups"]) == ("service", ["readers"])


def test_all_below_a_name_may_be_listed(stack: DatabaseStack, authority: Authority) -> None:
    given = {
        **options(stack, authority),
        **by_certificate(authority, "spiffe://example.org/ns/batch/nightly"),
    }
    with connect(stack, user="writer", **given) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("app_writer",)


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("spiffe://example.org/ns/data/etl2",),
        ("spiffe://example.org/ns/batch/",),
        ("spiffe://example.org/ns/batch/../data/etl",),
        ("spiffe://elsewhere.org/ns/data/etl",),
    ],
)
def test_a_verified_certificate_that_is_not_listed_still_needs_a_token(
    stack: DatabaseStack, authority: Authority, uris: tuple[str, ...]
) -> None:
    given = {**options(stack, authority), **by_certificate(authority, *uris)}
    with pytest.raises(psycopg.OperationalError, match="token"):
        connect(stack, **given)
    with connect(stack, **{**given, "password": stack.token()}) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_certificate_of_another_authority_is_nobody(
    stack: DatabaseStack, authority: Authority, tmp_path: Path
) -> None:
    given = {**options(stack, authority), **by_certificate(Authority(tmp_path), ETL)}
    with pytest.raises(psycopg.OperationalError):
        connect(stack, **given)
    with pytest.raises(psycopg.OperationalError):
        connect(stack, **{**given, "password": stack.token()})


def test_no_certificate_is_no_identity(stack: DatabaseStack, authority: Authority) -> None:
    for user in ("reader", ETL):
        with pytest.raises(psycopg.OperationalError, match=r"token|log in"):
            connect(stack, user=user, **{**options(stack, authority), "password": ETL})


# ---------------------------------------------------------------------- settings


def test_a_required_certificate_is_required(postgres: Postgres, authority: Authority, tmp_path: Path) -> None:
    required = listener(authority, "extproc", require_client_certificate=True)
    with DatabaseStack(tmp_path, postgres, listener=required) as stack:
        stack.ended_by = "extproc"  # type: ignore[attr-defined]
        with pytest.raises(psycopg.OperationalError):
            connect(stack, **options(stack, authority))
        given = {**options(stack, authority), **by_certificate(authority, ETL)}
        with connect(stack, **given) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_reload_takes_a_renewed_certificate_and_refuses_a_broken_one(
    postgres: Postgres, tmp_path: Path
) -> None:
    old = Authority(tmp_path / "pki")
    with DatabaseStack(tmp_path, postgres, listener=listener(old, "extproc")) as stack:
        stack.ended_by = "extproc"  # type: ignore[attr-defined]
        with connect(stack, **options(stack, old)) as living:
            new = Authority(tmp_path / "pki", "the next CA")
            new.issue("server", hosts=["localhost"])
            stack.reload()

            def renewed() -> bool:
                try:
                    connect(stack, **options(stack, new)).close()
                except psycopg.OperationalError:
                    return False
                return True

            wait_until(renewed, what="the new certificate", within=20.0)
            assert living.execute("SELECT 1").fetchone() == (1,)
            (new.folder / "server.key").write_text("broken")
            stack.reload()
            (refused,) = stack.wait_for_records(lambda r: r["kind"] == "policy.refused")
            assert "server.pem" in refused["error"]
            assert renewed()


# ---------------------------------------------------------------------- to the server


@pytest.fixture(scope="module")
def guarded(authority: Authority) -> Iterator[Postgres]:
    """An installed server, before PostgreSQL 17 perhaps, that takes TLS alone."""
    folder = system_binaries()
    if folder is None:
        pytest.skip("no installed PostgreSQL; tools/system.sh brings it")
    pair = authority.issue("db", hosts=["db.internal"])
    with Postgres(folder=folder, tls=pair, log_connections="on") as server:
        server.run(SCHEMA)
        yield server


def to_server(server: Postgres, authority: Path, name: str = "db.internal") -> dict[str, Any]:
    tls = {"originate": "extproc", "server_name": name, "ca": str(authority)}
    return {"upstream": {"address": f"127.0.0.1:{server.port}", "tls": tls}}


@pytest.mark.parametrize("front", FRONTS)
def test_we_speak_tls_with_a_server_of_any_age(
    guarded: Postgres, authority: Authority, tmp_path: Path, front: str
) -> None:
    from tests.support.asking import Asking

    with DatabaseStack(tmp_path, guarded, front=front, target=to_server(guarded, authority.path)) as stack:
        with stack.connect("writer", "builders") as connection:
            secured = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            row = connection.execute(secured).fetchone()
            assert row is not None and row[0] is True and row[1] in ("TLSv1.2", "TLSv1.3")
            rows = connection.execute("SELECT repeat('x', 1000) FROM generate_series(1, 5000)").fetchall()
            assert len(rows) == 5000
            asking = Asking(lambda: connection.execute("SELECT pg_sleep(30)"))
            running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(30)%'"
            wait_until(lambda: guarded.run(running) == [(1,)], what="the statement to run", within=10.0)
            connection.cancel_safe(timeout=10)
            with pytest.raises(psycopg.errors.QueryCanceled):
                asking.finish()
        with stack.connect() as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM orders")


def test_a_server_that_does_not_prove_itself_gets_no_password(
    guarded: Postgres, authority: Authority, tmp_path: Path
) -> None:
    elsewhere = Authority(tmp_path / "elsewhere").path
    for number, target in enumerate(
        (to_server(guarded, authority.path, "other.internal"), to_server(guarded, elsewhere))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with DatabaseStack(folder, guarded, target=target) as stack:
            with pytest.raises(psycopg.OperationalError, match="did not prove who it is"):
                stack.connect()
            stack.wait_for_records(
                lambda r: r["kind"] == "outcome" and r.get("reason") == "upstream-tls-unverified"
            )
