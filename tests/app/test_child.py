"""What a child imports: what its job needs, before it is ready, and nothing after."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from extproc.app.bundle import Bundle, write_bundle
from extproc.policy import PolicySource

POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: p}
target: api
default: deny
rules:
  - name: r
    when: principal.subject == "a"
    then: {allow: {}}
"""
WIRES = {
    "postgres": {"extproc.protocols.postgres", "extproc.servers.postgres_conversation", "postgast"},
    "mysql": {"extproc.protocols.mysql", "extproc.servers.mysql_conversation", "sqlglot"},
}
EVERY_WIRE = {module for modules in WIRES.values() for module in modules}
DECIDES = {
    "extproc.app.worker",
    "extproc.pipeline",
    "extproc.policy",
    "cel_expr_python",
    "extproc.servers.envoy_proto",
}
HTTP_CLIENT, HTTP_SERVER, SPANS = {"httpx2"}, {"uvicorn", "starlette"}, {"opentelemetry.sdk"}
UNKNOWN_TO_ALL = {"rich.pretty", "rich.console", "pygments", "attr", "hypothesis", "jsonschema"}


def imported(folder: Path, kind: str, *, target: str = "http", transport: str = "lean") -> set[str]:
    """All modules of a child that became ready and was told to stop. Told nothing else, it imports nothing more."""
    config = folder / "extproc.yaml"
    config.write_text(yaml.safe_dump(settings(folder, target, transport)))
    (folder / "state").mkdir(mode=0o700)
    (folder / "keys.json").write_text('{"keys": []}')
    bundle = write_bundle(folder / "run", Bundle((PolicySource("p.yaml", POLICY),), "digest"))
    ours, its = socket.socketpair()
    arguments = ["--config", config, "--kept", config, "--bundle", bundle, "--control", its.fileno()]
    with ours, its, (folder / "said").open("w+") as said:
        child = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "extproc.app.child", kind, *map(str, arguments)],
            stderr=said,
            pass_fds=[its.fileno()],
            env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        )
        its.close()
        ours.settimeout(60)
        try:
            lines = ours.makefile()
            told: list[str] = []
            while not any("ready" in json.loads(line) for line in told):
                line = lines.readline()
                assert line, (folder / "said").read_text()[-4000:]
                told.append(line)
            before = modules(said.name)
            child.send_signal(signal.SIGTERM)
            assert child.wait(30) == 0
        finally:
            child.kill()
            child.wait()
        late = {module for module in modules(said.name) - before if module.startswith("extproc")}
    assert sorted(late) == []
    return before


def modules(log: str) -> set[str]:
    found = re.findall(r"^import time: .*\| +([\w.]+)$", Path(log).read_text(), re.MULTILINE)
    return set(found)


def settings(folder: Path, target: str, transport: str) -> dict[str, object]:
    listener: dict[str, object] = {"name": "l", "address": "127.0.0.1:10000"}
    governed: dict[str, object] = {
        "name": "api",
        "kind": target,
        "upstream": {"address": "127.0.0.1:9", "tls": "off"},
    }
    if target == "http":
        listener["routes"] = [{"prefix": "/", "target": "api"}]
    else:
        listener |= {"protocol": target, "target": "api"}
        governed["database"] = {"roles": {"r": {"user": "u", "groups": ["*"]}}}
    keys = {"jwks_file": str(folder / "keys.json")}
    return {
        "apiVersion": "extproc/v1",
        "kind": "Config",
        "state": str(folder / "state"),
        "processor": {"listen": f"unix:{folder}/p.sock", "transport": transport},
        "ledger": {"directory": str(folder / "ledger")},
        "listeners": [listener],
        "targets": [governed],
        "identity": {
            "providers": [
                {"name": "corp", "issuer": "https://issuer.example", "audiences": ["api"], "keys": keys}
            ]
        },
        "policies": {"folders": [str(folder)]},
        "approvals": {"listen": f"unix:{folder}/a.sock", "audience": "approvals"},
        "telemetry": {
            "otlp": {"endpoint": "http://127.0.0.1:9", "protocol": "http"},
            "metrics": {"listen": f"unix:{folder}/m.sock", "otlp": False},
        },
    }


def test_a_worker_without_databases_knows_neither_wire_nor_sql(tmp_path: Path) -> None:
    known = imported(tmp_path, "worker")
    assert known >= DECIDES
    assert sorted(known & (EVERY_WIRE | {"extproc.sql", "grpc"} | HTTP_SERVER | SPANS | UNKNOWN_TO_ALL)) == []


def test_the_portable_transport_is_loaded_where_it_is_asked_for(tmp_path: Path) -> None:
    known = imported(tmp_path, "worker", transport="grpcio")
    assert "grpc" in known
    assert sorted(known & EVERY_WIRE) == []


@pytest.mark.parametrize("kind", sorted(WIRES))
def test_a_worker_is_ready_with_the_wire_that_a_target_speaks(tmp_path: Path, kind: str) -> None:
    assert imported(tmp_path, "worker", target=kind) >= WIRES[kind]


def test_a_worker_for_postgres_does_not_read_the_sql_of_mysql(tmp_path: Path) -> None:
    assert not imported(tmp_path, "worker", target="postgres") & WIRES["mysql"]


@pytest.mark.parametrize(
    ("kind", "needs", "needs_not"),
    [
        ("approvals", HTTP_SERVER | HTTP_CLIENT, DECIDES | SPANS | {"grpc", "jinja2"}),
        ("checkpointer", {"cryptography"}, DECIDES | SPANS | HTTP_CLIENT | HTTP_SERVER | {"google.protobuf"}),
        ("exporter", SPANS, DECIDES | HTTP_CLIENT | HTTP_SERVER | {"grpc"}),
        ("metrics", HTTP_SERVER, DECIDES | SPANS | HTTP_CLIENT | {"google.protobuf"}),
    ],
)
def test_a_child_knows_what_its_job_needs(
    tmp_path: Path, kind: str, needs: set[str], needs_not: set[str]
) -> None:
    known = imported(tmp_path, kind, target="postgres")
    assert known >= needs
    assert sorted(known & (needs_not | EVERY_WIRE | UNKNOWN_TO_ALL)) == []


def test_the_supervisor_checks_policies_and_knows_neither_wires_nor_workers() -> None:
    code = "import extproc.commands.serve, extproc.app.supervisor, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    known = set(done.stdout.split())
    assert "extproc.policy" in known
    others = (
        HTTP_CLIENT | HTTP_SERVER | SPANS | {"extproc.app.worker", "extproc.sql", "grpc", "google.protobuf"}
    )
    assert sorted(known & (EVERY_WIRE | others)) == []
