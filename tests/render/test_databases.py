"""A database listener lets every byte through us and none past us, and real Envoy accepts it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from extproc.config import parse_config
from extproc.domain.relay import PING, PONG
from extproc.render.bootstrap import envoy_config
from tests.support.envoy import envoy_is_here, validate_envoy
from tests.support.pki import write_certificate

CONFIG = """
apiVersion: extproc/v1
kind: Config
processor: {listen: "unix:p.sock"}
listeners:
  - {name: pg, LISTEN, protocol: postgres, target: db}
  - {name: http, address: "127.0.0.1:10000", routes: [{prefix: /, target: api}]}
targets:
  - name: db
    kind: postgres
    upstream: {UPSTREAM}
    database: {roles: {"*": {user: app}}}
  - {name: api, upstream: {address: "127.0.0.1:8080", tls: off}}
identity: {providers: [{name: c, issuer: "https://i.example", audiences: [db], keys: {discovery: true}}]}
"""
VARIANTS = {
    "loopback": ('address: "127.0.0.1:15432"', 'address: "127.0.0.1:5432", tls: off'),
    "unix sockets": ('address: "unix:l.sock"', 'address: "unix:u.sock"'),
    "behind a tunnel": (
        'address: "10.0.0.1:5432", cleartext_tokens: true',
        'address: "db.internal:5432", tls: off',
    ),
    "direct tls on both sides": (
        'address: "0.0.0.0:5432", tls: {certificate: CERT, key: KEY}',
        'address: "db.internal:5432", tls: {ca: CERT}',
    ),
    "tls ended in the processor": (
        'address: "0.0.0.0:5432", tls: {certificate: CERT, key: KEY, terminate: extproc}',
        'address: "db.internal:5432", tls: {ca: CERT, originate: extproc}',
    ),
}


def render(variant: str, folder: Path) -> dict[str, Any]:
    listen, upstream = VARIANTS[variant]
    text = CONFIG.replace("LISTEN", listen).replace("UPSTREAM", upstream)
    return envoy_config(parse_config(text.replace("CERT", "cert.pem").replace("KEY", "key.pem"), base=folder))


def relayed(folder: Path, listen: str = 'address: "127.0.0.1:15432"') -> dict[str, Any]:
    text = CONFIG.replace("LISTEN", f"{listen}, front: relay").replace("UPSTREAM", 'address: "unix:u.sock"')
    text = text.replace(
        '{listen: "unix:p.sock"}', '{listen: "unix:p.sock", relay: "unix:r.sock", workers: 2}'
    )
    return envoy_config(parse_config(text, base=folder))


def cluster_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in config["static_resources"]["clusters"] if c["name"] == name)
    return found


def chain(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["static_resources"]["listeners"][0]["filter_chains"][0]
    return found


@pytest.mark.skipif(not envoy_is_here(), reason="no Envoy binary")
@pytest.mark.parametrize("variant", VARIANTS)
def test_envoy_accepts_every_variant(variant: str, tmp_path: Path) -> None:
    write_certificate(tmp_path)
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(render(variant, tmp_path)))
    validate_envoy(path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_byte_goes_past_us(variant: str, tmp_path: Path) -> None:
    config = render(variant, tmp_path)
    names = [part["name"] for part in chain(config)["filters"]]
    assert names == ["envoy.filters.network.ext_proc", "envoy.filters.network.tcp_proxy"]
    ours = chain(config)["filters"][0]["typed_config"]
    assert ours["failure_mode_allow"] is False
    assert ours["message_timeout"] == "0s"
    assert "processing_mode" not in ours  # both directions are sent to us
    metadata = {pair["key"]: pair["value"] for pair in ours["grpc_service"]["initial_metadata"]}
    assert metadata == {"x-extproc-listener": "pg", "x-extproc-target": "db"}
    assert "source.address" in ours["connection_attributes"]
    runtime = config["layered_runtime"]["layers"][0]["static_layer"]
    assert runtime["envoy.reloadable_features.connection_close_through_filter_manager"] is False


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_wait_is_never_cut_short_and_little_is_buffered(variant: str, tmp_path: Path) -> None:
    config = render(variant, tmp_path)
    proxy = chain(config)["filters"][1]["typed_config"]
    assert float(proxy["idle_timeout"].removesuffix("s")) >= 3600
    assert config["static_resources"]["listeners"][0]["per_connection_buffer_limit_bytes"] <= 1 << 16


def test_tls_that_ends_in_the_processor_is_bytes_to_envoy(tmp_path: Path) -> None:
    config = render("tls ended in the processor", tmp_path)
    assert "transport_socket" not in chain(config)
    (cluster,) = [c for c in config["static_resources"]["clusters"] if c["name"] == "target_db"]
    assert "transport_socket" not in cluster


def test_tls_to_a_database_checks_its_name_and_starts_at_once(tmp_path: Path) -> None:
    config = render("direct tls on both sides", tmp_path)
    cluster = next(c for c in config["static_resources"]["clusters"] if c["name"] == "target_db")
    tls = cluster["transport_socket"]["typed_config"]
    assert tls["sni"] == "db.internal"
    assert tls["common_tls_context"]["alpn_protocols"] == ["postgresql"]
    assert tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
    down = chain(config)["transport_socket"]["typed_config"]["common_tls_context"]
    assert down["alpn_protocols"] == ["postgresql"]


# ---------------------------------------------------------------------- the contrib build

CONTRIB = (
    'address: "0.0.0.0:5432", tls: {certificate: CERT, key: KEY, terminate: contrib}',
    'address: "db.internal:5432", tls: {ca: CERT, originate: contrib}',
)


def contrib(folder: Path, listen: str = CONTRIB[0], upstream: str = CONTRIB[1]) -> dict[str, Any]:
    text = CONFIG.replace("LISTEN", listen).replace("UPSTREAM", upstream)
    return envoy_config(parse_config(text.replace("CERT", "cert.pem").replace("KEY", "key.pem"), base=folder))


def test_the_contrib_filter_stands_before_us_and_only_ends_tls(tmp_path: Path) -> None:
    config = contrib(tmp_path)
    names = [part["name"] for part in chain(config)["filters"]]
    assert names == [
        "envoy.filters.network.postgres_proxy",
        "envoy.filters.network.ext_proc",
        "envoy.filters.network.tcp_proxy",
    ]
    assert chain(config)["filters"][0]["typed_config"] == {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.postgres_proxy.v3alpha.PostgresProxy",
        "stat_prefix": "pg",
        "enable_sql_parsing": False,
        "downstream_ssl": "REQUIRE",
        "upstream_ssl": "REQUIRE",
    }
    ours = chain(config)["filters"][1]["typed_config"]
    assert ours["failure_mode_allow"] is False
    assert ours["connection_attributes"]
    down = chain(config)["transport_socket"]
    assert down["name"] == "envoy.transport_sockets.starttls"
    assert "alpn_protocols" not in down["typed_config"]["tls_socket_config"]["common_tls_context"]
    up = cluster_of(config, "target_db")["transport_socket"]
    assert up["name"] == "envoy.transport_sockets.starttls"
    assert up["typed_config"]["tls_socket_config"]["sni"] == "db.internal"


@pytest.mark.skipif(not envoy_is_here(), reason="no Envoy binary")
def test_envoy_accepts_all_but_the_filter_that_its_stock_build_lacks(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    config = contrib(tmp_path)
    del chain(config)["filters"][0]
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(config))
    validate_envoy(path)


def test_the_contrib_filter_may_end_tls_alone(tmp_path: Path) -> None:
    for upstream, socket in (
        ('address: "unix:u.sock"', None),
        ('address: "db.internal:5432", tls: {ca: CERT, originate: extproc}', None),
        ('address: "db.internal:5432", tls: {ca: CERT}', "envoy.transport_sockets.tls"),
    ):
        config = contrib(tmp_path, upstream=upstream)
        assert chain(config)["filters"][0]["typed_config"]["upstream_ssl"] == "DISABLE"
        assert cluster_of(config, "target_db").get("transport_socket", {}).get("name") == socket


def test_the_relay_may_stand_behind_the_contrib_filter(tmp_path: Path) -> None:
    config = contrib(tmp_path, f"{CONTRIB[0]}, front: relay", 'address: "unix:u.sock"')
    names = [part["name"] for part in chain(config)["filters"]]
    assert names == ["envoy.filters.network.postgres_proxy", "envoy.filters.network.tcp_proxy"]


# ---------------------------------------------------------------------- the relay


@pytest.mark.skipif(not envoy_is_here(), reason="no Envoy binary")
def test_envoy_accepts_the_relay(tmp_path: Path) -> None:
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(relayed(tmp_path)))
    validate_envoy(path)


def test_a_relayed_connection_goes_to_us_and_envoy_knows_no_other_way(tmp_path: Path) -> None:
    config = relayed(tmp_path)
    (proxy,) = chain(config)["filters"]
    assert proxy["name"] == "envoy.filters.network.tcp_proxy"
    assert proxy["typed_config"]["cluster"] == "relay_pg"
    assert float(proxy["typed_config"]["idle_timeout"].removesuffix("s")) >= 3600
    names = [cluster["name"] for cluster in config["static_resources"]["clusters"]]
    assert "target_db" not in names
    endpoints = cluster_of(config, "relay_pg")["load_assignment"]["endpoints"][0]["lb_endpoints"]
    paths = [endpoint["endpoint"]["address"]["pipe"]["path"] for endpoint in endpoints]
    assert paths == [str(tmp_path / "r-0.sock"), str(tmp_path / "r-1.sock")]


def test_target_and_listener_of_a_relayed_connection_come_from_here_alone(tmp_path: Path) -> None:
    config = relayed(tmp_path)
    header = cluster_of(config, "relay_pg")["transport_socket"]["typed_config"]["config"]
    assert header["version"] == "V2"
    assert [(value["type"], base64.b64decode(value["value"])) for value in header["added_tlvs"]] == [
        (0xE0, b"db"), (0xE1, b"pg"),
    ]  # fmt: skip
    assert header["pass_through_tlvs"] == {"match_type": "INCLUDE", "tlv_type": [0xE2, 0xE3]}
    proxy = chain(config)["filters"][0]["typed_config"]
    assert [value["type"] for value in proxy["proxy_protocol_tlvs"]] == [0xE2, 0xE3]
    assert proxy["proxy_protocol_tlv_merge_policy"] == "OVERWRITE_BY_TYPE_IF_EXISTS_OR_ADD"
    # at once: a caller that leaves without a word would stay in Envoy for ever
    assert "upstream_connect_mode" not in proxy


def test_a_relay_that_does_not_answer_gets_no_connections(tmp_path: Path) -> None:
    (check,) = cluster_of(relayed(tmp_path), "relay_pg")["health_checks"]
    asked = check["tcp_health_check"]
    assert bytes.fromhex(asked["send"]["text"]) == PING
    assert [bytes.fromhex(part["text"]) for part in asked["receive"]] == [PONG]


# ---------------------------------------------------------------------- MySQL: the server speaks first


def mysql(folder: Path, listen: str, upstream: str = 'address: "unix:u.sock"') -> dict[str, Any]:
    text = CONFIG.replace("postgres", "mysql").replace("LISTEN", listen).replace("UPSTREAM", upstream)
    text = text.replace("CERT", "cert.pem").replace("KEY", "key.pem")
    text = text.replace('{listen: "unix:p.sock"}', '{listen: "unix:p.sock", relay: "unix:r.sock"}')
    return envoy_config(parse_config(text, base=folder))


MYSQL = {
    "loopback": 'address: "127.0.0.1:3306"',
    "relay": 'address: "127.0.0.1:3306", front: relay',
    "tls at envoy": 'address: "0.0.0.0:3306", tls: {certificate: CERT, key: KEY, client_ca: CERT}',
    "tls at envoy, relay": 'address: "0.0.0.0:3306", tls: {certificate: CERT, key: KEY}, front: relay',
    "tls in the processor": 'address: "0.0.0.0:3306", tls: {certificate: CERT, key: KEY, terminate: extproc}',
}


@pytest.mark.skipif(not envoy_is_here(), reason="no Envoy binary")
@pytest.mark.parametrize("listen", MYSQL.values(), ids=MYSQL)
def test_envoy_accepts_mysql(listen: str, tmp_path: Path) -> None:
    write_certificate(tmp_path)
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(mysql(tmp_path, listen)))
    validate_envoy(path)


@pytest.mark.parametrize("listen", MYSQL.values(), ids=MYSQL)
def test_the_server_is_reached_at_once_but_never_before_a_caller_that_envoy_verifies(
    listen: str, tmp_path: Path
) -> None:
    proxy = chain(mysql(tmp_path, listen))["filters"][-1]["typed_config"]
    if "tls:" in listen and "extproc" not in listen:
        assert proxy["upstream_connect_mode"] == "ON_DOWNSTREAM_TLS_HANDSHAKE"
        assert proxy["max_early_data_bytes"] == 0
    else:
        assert "upstream_connect_mode" not in proxy  # at once
        assert "max_early_data_bytes" not in proxy


def test_tls_with_a_mysql_server_is_never_envoys(tmp_path: Path) -> None:
    config = mysql(tmp_path, MYSQL["loopback"], 'address: "db.internal:3306", tls: {ca: CERT}')
    assert "transport_socket" not in cluster_of(config, "target_db")
