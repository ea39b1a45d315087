"""Database listeners and targets: what is refused, and where the mistake is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from extproc.config import InvalidConfigError, parse_config
from extproc.policy import PolicySource, TargetInfo, load_policies

GOOD = """
apiVersion: extproc/v1
kind: Config
listeners:
  - {name: pg, address: "127.0.0.1:15432", protocol: postgres, target: db}
targets:
  - name: db
    kind: postgres
    upstream: {address: "unix:pg.sock"}
    database:
      roles:
        reader: {user: app_reader, password: {env: DB_PASSWORD}, groups: [readers]}
        "*": {user: nobody}
      wait_in_transaction: 10s
  - {name: api, upstream: {address: "127.0.0.1:8080", tls: off}}
identity: {providers: [{name: c, issuer: "https://i.example", audiences: [db], keys: {discovery: true}}]}
"""

MISTAKES = {
    "no target": (", target: db}", "}", 'missing setting "target"'),
    "unknown target": ("target: db}", "target: dp}", 'unknown target "dp"'),
    "another kind": ("target: db}", "target: api}", '"api" is no postgres target'),
    "routes": ("target: db}", "target: db, routes: [{prefix: /, target: api}]}", "a database listener has one target"),
    "ext_authz": ("target: db}", "target: db, mode: ext_authz}", "is for HTTP; a database listener has a front"),
    "relay of a unix socket": (
        '"127.0.0.1:15432", protocol: postgres', '"unix:l.sock", front: relay, protocol: postgres', "needs IP and port",
    ),
    "relay off a unix socket": (
        "kind: Config", 'kind: Config\nprocessor: {relay: "127.0.0.1:7000"}', "must be a unix socket",
    ),
    "relay on the processor's socket": (
        "kind: Config", 'kind: Config\nprocessor: {listen: "unix:a", relay: "unix:a"}', "is processor.listen as well",
    ),
    "tokens in the clear": ("127.0.0.1:15432", "10.0.0.1:15432", "tokens would cross the network in cleartext"),
    "cleartext for nothing": ("target: db}", "target: db, cleartext_tokens: true}", "means nothing here"),
    "no database": ("    database:\n", "    labels:\n", "labels"),
    "no roles": ('        "*": {user: nobody}\n', '        "no!": {user: nobody}\n', "must look like"),
    "small statements": ("wait_in_transaction: 10s", "statement_bytes: 10B", "must be from 1KiB"),
    "less behind than one": ("wait_in_transaction: 10s", "waiting_bytes: 2KiB", "must be from statement_bytes"),
    "long wait": ("wait_in_transaction: 10s", "wait_in_transaction: 2h", "must be at most 1h"),
    "no end": ("wait_in_transaction: 10s", "session: {on_expiry: max_age}", 'missing setting "max_age"'),
    "no age": ("wait_in_transaction: 10s", "session: {max_age: 0s}", "must be from 1s to 30d"),
    "credential": (
        "    kind: postgres\n", "    kind: postgres\n    credential: {header: x, value: {env: E}}\n",
        "is for HTTP targets",
    ),
    "http route to it": (
        "  - {name: pg,", '  - {name: h, address: "127.0.0.1:1", routes: [{prefix: /, target: db}]}\n  - {name: pg,',
        '"db" is no HTTP target',
    ),
    "http with a target": (
        "  - {name: pg,",
        '  - {name: h, address: "127.0.0.1:1", target: api, routes: [{prefix: /, target: api}]}\n  - {name: pg,',
        "is for database listeners",
    ),
    "a key for Postgres": ("target: db}", "target: db, rsa_key: k.pem}", "is for MySQL listeners"),
    "callers without an authority": (
        "target: db}", 'target: db, callers: [{uri: "spiffe://a/b"}]}', "need tls.client_ca"
    ),
    "callers by half a name": (
        "target: db}", 'target: db, callers: [{uri: "spiffe://*"}]}', "must be a whole URI"
    ),
    "a human without a person": (
        "target: db}", 'target: db, callers: [{uri: "spiffe://a/b", kind: human}]}', "needs the name of the person"
    ),
    "callers over HTTP": (
        "  - {name: pg,",
        '  - {name: h, address: "127.0.0.1:1", callers: [{uri: "s://a"}], routes: [{prefix: /, target: api}]}\n'
        "  - {name: pg,",
        "is for database listeners",
    ),
    "HTTP under our TLS": (
        "  - {name: pg,",
        '  - {name: h, address: "127.0.0.1:1", tls: {certificate: c, key: k, terminate: extproc}, '
        "routes: [{prefix: /, target: api}]}\n  - {name: pg,",
        "Envoy ends the TLS of HTTP listeners",
    ),
    "HTTP under the contrib filter's TLS": (
        "  - {name: pg,",
        '  - {name: h, address: "127.0.0.1:1", tls: {certificate: c, key: k, terminate: contrib}, '
        "routes: [{prefix: /, target: api}]}\n  - {name: pg,",
        "Envoy ends the TLS of HTTP listeners",
    ),
    "the contrib filter asks, and is not there": (
        'upstream: {address: "unix:pg.sock"}',
        'upstream: {address: "db.internal:5432", tls: {originate: contrib, ca: c}}',
        "must be terminate: contrib",
    ),
    "our TLS to an API": (
        "tls: off}}\n", "tls: {originate: extproc, server_name: a}}}\n", "Envoy speaks TLS with HTTP targets"
    ),
    "database of an API": (
        "name: api,", "name: api, database: {roles: {a: {user: b}}},", "is for kinds postgres and mysql",
    ),
}  # fmt: skip


def test_a_database_target_loads_with_its_defaults(tmp_path: Path) -> None:
    settings = parse_config(GOOD, base=tmp_path)
    database = settings.target("db").database
    assert database is not None
    assert database.unparsed == "deny"
    assert database.wait_in_transaction == 10.0
    assert database.roles["reader"].groups == ("readers",)
    assert [place for place, _ in settings.secrets()] == ["targets[0].database.roles.reader.password"]
    assert "DB_PASSWORD" in repr(database.roles["reader"].password)


def test_where_the_relay_dials_no_filter_can_ask_for_tls(tmp_path: Path) -> None:
    text = GOOD.replace(
        "target: db}", "target: db, front: relay, tls: {certificate: c, key: k, terminate: contrib}}"
    ).replace(
        'upstream: {address: "unix:pg.sock"}',
        'upstream: {address: "db.internal:5432", tls: {originate: contrib, ca: c}}',
    )
    with pytest.raises(InvalidConfigError, match="needs front: ext_proc"):
        parse_config(text, base=tmp_path)
    parse_config(text.replace("front: relay, ", ""), base=tmp_path)


def test_rows_may_be_kept(tmp_path: Path) -> None:
    kept = GOOD.replace("    kind: postgres\n", "    kind: postgres\n    record: {response: masked}\n")
    assert parse_config(kept, base=tmp_path).target("db").record.response == "masked"


def test_the_pages_example_is_a_configuration_and_a_policy(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "postgres.md"
    config, policy, *changes = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)
    settings = parse_config(config, base=tmp_path)
    (target,) = settings.targets
    load_policies([PolicySource("orders.yaml", policy)], {target.name: TargetInfo(target.kind, {})})
    for change in changes:  # what a later part of the page says instead
        changed, said = yaml.safe_load(config), yaml.safe_load(change)
        changed |= {"listeners": said["listeners"]}
        changed["targets"][0] |= said["targets"][0]
        parse_config(yaml.safe_dump(changed), base=tmp_path)


def test_the_page_about_mysql_has_a_configuration(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "mysql.md"
    (config,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)
    (target,) = parse_config(config, base=tmp_path).targets
    assert target.kind == "mysql"


MYSQL_MISTAKES = {
    "a key inside Envoy's TLS": (
        "target: db}",
        "target: db, rsa_key: k, tls: {certificate: c, key: k}}",
        "means nothing inside TLS that Envoy ends",
    ),
    "a key and a tunnel": (
        '"127.0.0.1:15432", protocol: mysql',
        '"10.0.0.1:1", rsa_key: k, cleartext_tokens: true, protocol: mysql',
        "means nothing here",
    ),
    "the contrib filter asks": (
        'upstream: {address: "unix:pg.sock"}',
        'upstream: {address: "db.internal:3306", tls: {originate: contrib, ca: c}}',
        "contrib is for Postgres",
    ),
    "the contrib filter answers": (
        "target: db}",
        "target: db, tls: {certificate: c, key: k, terminate: contrib}}",
        "contrib is for Postgres",
    ),
    "another protocol": ("protocol: mysql", "protocol: postgres", '"db" is no postgres target'),
}


@pytest.mark.parametrize("name", MYSQL_MISTAKES)
def test_a_mistake_about_mysql_is_told(name: str, tmp_path: Path) -> None:
    before, after, told = MYSQL_MISTAKES[name]
    good = GOOD.replace("postgres", "mysql")
    assert before in good
    parse_config(good, base=tmp_path)
    with pytest.raises(InvalidConfigError) as refused:
        parse_config(good.replace(before, after, 1), base=tmp_path)
    assert told in str(refused.value)


def test_a_key_for_tokens_lets_a_listener_be_without_tls(tmp_path: Path) -> None:
    far = GOOD.replace("postgres", "mysql").replace("127.0.0.1:15432", "10.0.0.1:3306")
    parse_config(far.replace("target: db}", "target: db, rsa_key: k.pem}"), base=tmp_path)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_place(name: str, tmp_path: Path) -> None:
    before, after, told = MISTAKES[name]
    assert before in GOOD
    with pytest.raises(InvalidConfigError) as refused:
        parse_config(GOOD.replace(before, after, 1), base=tmp_path)
    assert told in str(refused.value)
