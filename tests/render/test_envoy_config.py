"""Every rendered configuration is accepted by Envoy and free of the traps that let data through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from extproc.cli import main
from extproc.config import Settings, parse_config
from extproc.domain.errors import ConfigError
from extproc.render.bootstrap import envoy_config
from tests.support.envoy import envoy_is_here, validate_envoy
from tests.support.pki import write_certificate

EXT_PROC = "envoy.filters.http.ext_proc"
EXT_AUTHZ = "envoy.filters.http.ext_authz"

BASE = """
apiVersion: extproc/v1
kind: Config
processor: {processor}
listeners:
  - name: http
    address: "127.0.0.1:10000"
    {listener}
    routes:
      - {{prefix: /v1, target: api, hosts: [a.example, "*.b.example"]}}
      - {{path: /one, target: other}}
      - {{prefix: /, target: api, timeout: 30s}}
targets:
  - name: api
    upstream: {upstream}
    limits: {{request_body: 2MiB, response_body: 3MiB}}
  - name: other
    upstream: {{address: "unix:other.sock"}}
identity:
  providers: [{{name: corp, issuer: "https://issuer.example", audiences: [api], keys: {{discovery: true}}}}]
  trust: {trust}
telemetry: {telemetry}
limits: {{max_message_timeout: 10m, stream_idle_timeout: 11m}}
envoy: {envoy}
"""

DEFAULTS = {
    "processor": '{listen: "unix:p.sock"}',
    "listener": "trusted_hops: 1",
    "upstream": '{address: "127.0.0.1:8080", tls: off}',
    "trust": "{}",
    "telemetry": "{}",
    "envoy": "{}",
}

VARIANTS: dict[str, dict[str, str]] = {
    "plain": {},
    "ext_authz": {"listener": "mode: ext_authz"},
    "four workers": {"processor": '{listen: "unix:p.sock", workers: 4}'},
    "workers on loopback": {"processor": '{listen: "127.0.0.1:5000", workers: 2, insecure: true}'},
    "tls to the processor": {
        "processor": '{listen: "10.0.0.2:5000", tls: {certificate: c, key: k, client_ca: PKI, client_sans: [envoy]}}',
        "envoy": "{client_tls: {certificate: PKI, key: KEY, ca: PKI, server_name: extproc.internal}}",
    },
    "tls upstream by name": {"upstream": '{address: "api.internal:443"}', "envoy": "{ca_bundle: PKI}"},
    "tls upstream by address": {
        "upstream": '{address: "10.1.1.1:443", tls: {server_name: api.internal, ca: PKI, certificate: PKI, key: KEY}}'
    },
    "http2 upstream": {"upstream": '{address: "[::1]:8080", tls: off, protocol: http2, host: api.internal}'},
    "tls for callers": {
        "listener": "tls: {certificate: PKI, key: KEY, client_ca: PKI, require_client_certificate: true}"
    },
    "no upgrades": {"listener": "upgrades: []"},
    "trusted metadata": {
        "trust": "{metadata: {namespace: envoy.filters.http.jwt_authn, key: jwt, issuer: i, audiences: [api]}}"
    },
    "spans by grpc": {"telemetry": '{otlp: {endpoint: "http://collector:4317"}}'},
    "spans by http": {
        "telemetry": '{otlp: {endpoint: "https://otel.internal:4318", protocol: http}}',
        "envoy": "{ca_bundle: PKI}",
    },
    "spans without Envoy's": {
        "telemetry": '{otlp: {endpoint: "http://127.0.0.1:4317"}}',
        "envoy": "{tracing: false}",
    },
    "large bodies": {"envoy": "{buffer_bytes: 64MiB, max_heap: 8GiB, message_timeout: 30s}"},
}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("pki"))


def settings_of(variant: str, folder: Path) -> Settings:
    text = BASE.format(**DEFAULTS | VARIANTS[variant])
    return parse_config(text.replace("PKI", "cert.pem").replace("KEY", "key.pem"), base=folder)


@cache
def rendered(variant: str, folder: Path) -> str:
    return json.dumps(envoy_config(settings_of(variant, folder)))


def render(variant: str, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rendered(variant, folder))
    return found


def everything(node: Any, path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Each (path, key, value) of a tree."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield path, key, value
            yield from everything(value, f"{path}/{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from everything(value, f"{path}/{number}")


def manager(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0][
        "typed_config"
    ]
    return found


def http_filter(config: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        f["typed_config"] for f in manager(config)["http_filters"] if f["name"] == name
    )
    return found


def routes(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [route for host in manager(config)["route_config"]["virtual_hosts"] for route in host["routes"]]


def clusters(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}


def endpoints(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        e["endpoint"]["address"]
        for group in cluster["load_assignment"]["endpoints"]
        for e in group["lb_endpoints"]
    ]


@pytest.mark.skipif(not envoy_is_here(), reason="no Envoy binary")
@pytest.mark.parametrize("variant", VARIANTS)
def test_envoy_accepts_every_variant(variant: str, pki: Path, tmp_path: Path):
    path = tmp_path / "envoy.json"
    path.write_text(json.dumps(render(variant, pki)))
    assert validate_envoy(path) == ""


FORBIDDEN_KEYS = {
    "retry_policy_typed_config": "an approved request could run twice",
    "request_mirror_policies": "an approved request would run twice",
    "hedge_policy": "an approved request could run twice",
    "outlier_detection": "requests aborted by callers eject healthy workers",
    "observability_mode": "answers are ignored",
    "allow_content_length_header": "a changed body keeps the old length",
    "async_mode": "answers are ignored",
    "send_body_without_waiting_for_header_response": "overrides are ignored",
    "disable_immediate_response": "a refusal becomes an error",
    "cluster_header": "a caller would choose the upstream",
    "disabled": "a route would be ungoverned",
    "auto_sni": "a caller would choose the certificate that is good enough",
    "connection_close_through_filter_manager": "connections leak",
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_trap_is_rendered(variant: str, pki: Path):
    config = render(variant, pki)
    for path, key, value in everything(config):
        assert key not in FORBIDDEN_KEYS, f"{path}/{key}: {FORBIDDEN_KEYS[key]}"
        assert value not in ("BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED", "GRPC"), f"{path}/{key}"
        if key == "failure_mode_allow":
            assert value is False, path
        if key == "retry_policy":
            assert path.endswith("/grpc_service"), f"{path}: only the call to us is repeated"
            assert value == {"retry_on": "connect-failure,refused-stream", "num_retries": 3}


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "ext_authz"])
def test_we_fail_closed_and_start_from_the_most_any_rule_can_need(variant: str, pki: Path):
    ours = http_filter(render(variant, pki), EXT_PROC)
    assert ours["failure_mode_allow"] is False
    assert ours["status_on_error"] == {"code": "ServiceUnavailable"}
    mode = ours["processing_mode"]
    assert (mode["request_body_mode"], mode["response_body_mode"]) == ("BUFFERED", "BUFFERED")
    assert (mode["request_header_mode"], mode["response_header_mode"]) == ("SEND", "SEND")
    assert ours["allow_mode_override"] is True
    allowed = {(m["request_body_mode"], m["response_body_mode"]) for m in ours["allowed_override_modes"]}
    assert allowed == {(q, s) for q in ("NONE", "BUFFERED") for s in ("NONE", "STREAMED", "BUFFERED")}
    assert all(m["response_header_mode"] == "SEND" for m in ours["allowed_override_modes"])
    assert ours["max_message_timeout"] == "600s"
    assert ours["route_cache_action"] == "RETAIN"
    assert ours["mutation_rules"]["disallow_is_error"] is True
    assert ours["metadata_options"]["receiving_namespaces"] == {"untyped": ["extproc"]}


def test_filters_stand_in_the_order_decide_guard_route(pki: Path):
    names = [f["name"] for f in manager(render("plain", pki))["http_filters"]]
    assert names == [EXT_PROC, "envoy.filters.http.rbac", "envoy.filters.http.router"]


def test_only_a_trusted_namespace_is_forwarded(pki: Path):
    plain = http_filter(render("plain", pki), EXT_PROC)["metadata_options"]["forwarding_namespaces"]
    trusting = http_filter(render("trusted metadata", pki), EXT_PROC)["metadata_options"][
        "forwarding_namespaces"
    ]
    assert plain == {}
    assert trusting == {"untyped": ["envoy.filters.http.jwt_authn"]}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_route_names_exactly_one_target_and_its_cluster(variant: str, pki: Path):
    config = render(variant, pki)
    found = routes(config)
    assert len(found) == 4
    for route in found:
        target = route["name"].rsplit("/", 1)[1]
        assert route["route"]["cluster"] == f"target_{target}"
        (per_filter,) = route["typed_per_filter_config"].items()
        if variant == "ext_authz":
            assert per_filter[1]["check_settings"]["context_extensions"] == {"extproc.target": target}
        else:
            assert per_filter[1]["overrides"]["grpc_initial_metadata"] == [
                {"key": "x-extproc-target", "value": target}
            ]


def test_a_prefix_covers_whole_segments_and_hosts_have_their_own_routes(pki: Path):
    hosts = manager(render("plain", pki))["route_config"]["virtual_hosts"]
    assert [host["domains"] for host in hosts] == [["a.example"], ["*.b.example"], ["*"]]
    assert hosts[0]["routes"][0]["match"] == {"path_separated_prefix": "/v1"}
    assert [route["match"] for route in hosts[2]["routes"]] == [{"path": "/one"}, {"prefix": "/"}]
    assert hosts[2]["routes"][1]["route"]["timeout"] == "30s"


@pytest.mark.parametrize("variant", VARIANTS)
def test_http_is_read_strictly_and_clocks_outlast_a_hold(variant: str, pki: Path):
    hcm = manager(render(variant, pki))
    assert hcm["normalize_path"] is True
    assert hcm["merge_slashes"] is True
    assert hcm["path_with_escaped_slashes_action"] == "REJECT_REQUEST"
    assert hcm["use_remote_address"] is True
    assert hcm["forward_client_cert_details"] == "SANITIZE_SET"
    assert hcm["common_http_protocol_options"]["headers_with_underscores_action"] == "REJECT_REQUEST"
    assert hcm["stream_idle_timeout"] == hcm["request_timeout"] == "660s"
    assert all(route["route"]["idle_timeout"] == "660s" for route in routes(render(variant, pki)))
    assert "preserve_external_request_id" not in hcm


def test_buffers_and_messages_are_larger_than_every_body(pki: Path):
    config = render("plain", pki)
    settings = settings_of("plain", pki)
    listener = config["static_resources"]["listeners"][0]
    largest = max(max(t.limits.request_body, t.limits.response_body) for t in settings.targets)
    message = http_filter(config, EXT_PROC)["grpc_service"]["envoy_grpc"]["max_receive_message_length"]
    assert (
        largest < listener["per_connection_buffer_limit_bytes"] < message == settings.envoy.grpc_message_bytes
    )
    assert all(r["request_body_buffer_limit"] == settings.envoy.buffer_bytes for r in routes(config))


def test_ext_authz_waits_as_long_as_a_hold_and_never_checks_half_a_body(pki: Path):
    ours = http_filter(render("ext_authz", pki), EXT_AUTHZ)
    assert ours["failure_mode_allow"] is False
    assert ours["grpc_service"]["timeout"] == "600s"
    assert ours["with_request_body"] == {"max_request_bytes": 2 << 20, "pack_as_bytes": True}
    assert ours["include_peer_certificate"] is True
    assert "clear_route_cache" not in ours


def test_one_worker_has_the_plain_socket_and_several_have_numbered_ones(pki: Path):
    def paths(variant: str) -> list[str]:
        return [Path(a["pipe"]["path"]).name for a in endpoints(clusters(render(variant, pki))["extproc"])]

    assert paths("plain") == ["p.sock"]
    assert paths("four workers") == ["p-0.sock", "p-1.sock", "p-2.sock", "p-3.sock"]
    loopback = endpoints(clusters(render("workers on loopback", pki))["extproc"])
    assert [address["socket_address"]["port_value"] for address in loopback] == [5000, 5001]


def test_sockets_may_be_given_by_the_caller(pki: Path):
    config = envoy_config(settings_of("plain", pki), sockets=["unix:/run/x.sock", "127.0.0.1:7000"])
    assert endpoints(clusters(config)["extproc"]) == [
        {"pipe": {"path": "/run/x.sock"}},
        {"socket_address": {"address": "127.0.0.1", "port_value": 7000}},
    ]


def test_the_processor_cluster_follows_health_alone(pki: Path):
    cluster = clusters(render("four workers", pki))["extproc"]
    assert cluster["lb_policy"] == "LEAST_REQUEST"
    (check,) = cluster["health_checks"]
    assert check["no_traffic_interval"] == "1s"
    assert "grpc_health_check" in check
    assert cluster["circuit_breakers"]["thresholds"][0]["max_requests"] > 1024


def test_tls_names_come_from_settings_and_never_from_a_request(pki: Path):
    for variant, name in (
        ("tls upstream by name", "api.internal"),
        ("tls upstream by address", "api.internal"),
    ):
        tls = clusters(render(variant, pki))["target_api"]["transport_socket"]["typed_config"]
        assert tls["sni"] == name
        (san,) = tls["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
        assert san == {"san_type": "DNS", "matcher": {"exact": name}}
    assert "transport_socket" not in clusters(render("plain", pki))["target_api"]


def test_tls_to_us_needs_a_client_certificate(pki: Path):
    text = BASE.format(**DEFAULTS | {"processor": VARIANTS["tls to the processor"]["processor"]})
    with pytest.raises(ConfigError, match=r"envoy\.client_tls"):
        envoy_config(parse_config(text.replace("PKI", "cert.pem"), base=pki))


def test_the_admin_interface_is_a_private_socket_that_only_reads_and_drains(pki: Path):
    admin = render("plain", pki)["admin"]
    assert admin["address"]["pipe"]["mode"] == 0o600
    paths = {path["prefix"] for path in admin["allow_paths"]}
    assert not any("quit" in path or "runtime_modify" in path or "logging" in path for path in paths)


def test_spans_of_envoy_go_where_ours_go_or_nowhere(pki: Path):
    grpc = render("spans by grpc", pki)
    assert endpoints(clusters(grpc)["otlp"]) == [
        {"socket_address": {"address": "collector", "port_value": 4317}}
    ]
    assert "http_service" in manager(render("spans by http", pki))["tracing"]["provider"]["typed_config"]
    for variant in ("plain", "spans without Envoy's"):
        assert "tracing" not in manager(render(variant, pki))
        assert "otlp" not in clusters(render(variant, pki))
    assert manager(grpc)["tracing"]["provider"]["typed_config"]["service_name"] == "extproc-envoy"


def test_no_secret_and_no_reference_to_one_is_rendered(pki: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("UPSTREAM_KEY", "canary-secret")
    credential = "credential: {header: x-api-key, value: {env: UPSTREAM_KEY}}\n    limits: {request_body"
    text = BASE.format(**DEFAULTS).replace("limits: {request_body", credential)
    config = envoy_config(parse_config(text, base=pki))
    assert "canary-secret" not in json.dumps(config)
    assert "UPSTREAM_KEY" not in json.dumps(config)


def write(folder: Path, variant: str = "plain") -> Path:
    file = folder / "extproc.yaml"
    file.write_text(BASE.format(**DEFAULTS | VARIANTS[variant]))
    return file


@pytest.mark.parametrize(("form", "read"), [("yaml", "yaml"), ("json", "json")])
def test_the_command_writes_what_the_function_says(form: str, read: str, tmp_path: Path):
    import yaml

    file, out = write(tmp_path), tmp_path / f"envoy.{form}"
    result = CliRunner().invoke(
        main, ["render", "envoy", "--config", str(file), "--out", str(out), "--format", form]
    )
    assert result.exit_code == 0, result.output
    loaded = json.loads(out.read_text()) if read == "json" else yaml.safe_load(out.read_text())
    assert loaded == render("plain", tmp_path)


def test_the_command_names_what_is_wrong_and_writes_nothing(tmp_path: Path):
    file, out = write(tmp_path), tmp_path / "envoy.yaml"
    file.write_text(file.read_text().replace("target: api", "target: apy"))
    result = CliRunner().invoke(main, ["render", "envoy", "--config", str(file), "--out", str(out)])
    assert result.exit_code == 1
    assert 'unknown target "apy"; did you mean "api"?' in result.stderr
    assert not out.exists()
