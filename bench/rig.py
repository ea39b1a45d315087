"""Everything a run needs, on this machine: issuer, upstream, collector, empty processor, extproc, one Envoy.

Envoy's configuration is the one `extproc render envoy` writes. The listeners of the other setups are copies of
the governed ones: `bare` without our filters, `empty` with another processor cluster. All run in one Envoy.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from bench.cases import ALL, CREDENTIAL, TARGETS, Case, Setup
from bench.cpu import cpu_now
from extproc.demo.issuer import Issuer
from extproc.demo.processes import (
    ManagedProcess,
    Processes,
    StartError,
    answers_ok,
    free_ports,
    http_get,
    start,
    start_envoy,
    wait_until,
)

AUDIENCE = "bench"
OURS = ("envoy.filters.http.ext_proc", "envoy.filters.http.ext_authz", "envoy.filters.http.rbac")
CHILDREN = ("worker", "approvals", "checkpointer", "exporter")


class Rig:
    """Running processes and where to reach them. Use as a context manager."""

    def __init__(self, directory: Path, targets: Iterable[str], *, export: bool = True) -> None:
        """`directory` must have a short path: unix sockets live in it. `export`: spans leave, as in earnest."""
        self._export = export
        self.directory = directory
        self.targets = sorted(set(targets))
        self.issuer = Issuer(port=0, audience=AUDIENCE, algorithms=("RS256",))
        self.config = directory / "extproc.yaml"
        self.pids: dict[str, list[int]] = {}
        """Process ids by role."""
        self._processes = Processes()
        self._ports: dict[str, int] = {}
        self._envoy_config: dict[str, Any] = {}

    def __enter__(self) -> Rig:
        self._processes.__enter__()
        try:
            self._start()
        except BaseException:
            self._processes.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.__exit__(kind, error, trace)

    # ------------------------------------------------------------------ what a run asks for

    def address(self, target: str, setup: Setup) -> str:
        """The listener of one target in one setup."""
        return f"127.0.0.1:{self._ports[_listener_name(target, setup)]}"

    def request(self, case: Case, token: str) -> bytes:
        """The bytes of one request of a case."""
        lines = [
            f"{case.method} {case.path} HTTP/1.1",
            "host: api.example",
            "user-agent: bench/1",
            "accept: application/json",
            "accept-encoding: gzip, br",
            "x-area: north",
            f"authorization: Bearer {token}",
        ]
        if case.body is not None:
            lines += ["content-type: application/json", f"content-length: {len(case.body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + (case.body or b"")

    def token(self) -> str:
        """A new RS256 token of a reader."""
        return self.issuer.token(
            "alice",
            groups=["readers", "staff", "emea"],
            kind="human",
            lifetime=3600,
            email="alice@corp.example",
        )

    def messages(self, target: str, setup: Setup) -> tuple[int, int]:
        """Streams opened and messages sent to the processor by a listener so far, as Envoy counts them."""
        name = _listener_name(target, setup)
        _, page = http_get(f"unix:{self.directory}/e.sock", f"/stats?format=json&filter=http.{name}.ext_proc")
        stats = {row["name"]: row["value"] for row in json.loads(page)["stats"] if "name" in row}
        prefix = f"http.{name}.ext_proc."
        return stats.get(prefix + "streams_started", 0), stats.get(prefix + "stream_msgs_sent", 0)

    def settle(self, within: float) -> bool:
        """Wait until the processes that follow the ledger have nothing left to do; False if they still had."""
        until = time.monotonic() + within
        pids = [pid for role in ("checkpointer", "exporter") for pid in self.pids.get(role, [])]
        before = sum(map(cpu_now, pids))
        while time.monotonic() < until:
            time.sleep(1.2)
            after = sum(map(cpu_now, pids))
            if after - before < 0.06:
                return True
            before = after
        return False

    # ------------------------------------------------------------------ starting

    def _start(self) -> None:
        upstream, collector = free_ports(2)
        self.issuer.start()
        self._processes.on_exit(self.issuer.stop)
        self._write(upstream, collector)
        started = [
            self._run("upstream", "bench.upstream", "--port", str(upstream)),
            self._run("collector", "bench.upstream", "--port", str(collector)),
            self._run("empty", "bench.empty", "--listen", f"unix:{self.directory}/empty.sock"),
        ]
        service = self._run("supervisor", "extproc.cli", "serve", "--config", str(self.config))
        config = self._render()
        for process in started:
            _wait_for("ready", process)
        _wait_for("serve.ready", service)
        self.pids.update(self._children())
        self._start_envoy(config)

    def _run(self, name: str, module: str, *arguments: str) -> ManagedProcess:
        process = start(
            name,
            [sys.executable, "-m", module, *arguments],
            log=self.directory / f"{name}.log",
            environment={"BENCH_CREDENTIAL": CREDENTIAL},
        )
        self._processes.on_exit(process.kill)  # nothing here is worth a drain
        self.pids[name] = [process.pid]
        return process

    def _children(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "extproc.app.child" in command and str(self.config) in command:
                kind = next(kind for kind in CHILDREN if kind in command)
                found.setdefault(kind, []).append(int(entry.name))
        return found

    def _write(self, upstream: int, collector: int) -> None:
        write_policies(self.directory / "policies", self.targets)
        ports = free_ports(len(self.targets) * len(ALL))
        names = [_listener_name(target, setup) for target in self.targets for setup in ALL]
        self._ports = dict(zip(names, ports, strict=True))
        settings = settings_for(
            self.directory, self.targets, issuer=self.issuer.issuer, upstream=f"127.0.0.1:{upstream}",
            ports={target: self._ports[_listener_name(target, "governed")] for target in self.targets},
        )  # fmt: skip
        if self._export:
            settings["telemetry"] = {
                "otlp": {"endpoint": f"http://127.0.0.1:{collector}", "protocol": "http"}
            }
        self.config.write_text(yaml.safe_dump(settings))

    def _render(self) -> dict[str, Any]:
        command = ["render", "envoy", "--config", str(self.config), "--format", "json"]
        done = subprocess.run(
            [sys.executable, "-m", "extproc.cli", *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise StartError(f"extproc render envoy: {done.stderr}")
        return with_setups(json.loads(done.stdout), self._ports, f"{self.directory}/empty.sock")

    def _start_envoy(self, config: dict[str, Any]) -> None:
        path = self.directory / "envoy.json"
        path.write_text(json.dumps(config, indent=1))
        envoy = start_envoy(path, log_directory=self.directory, level="warning")
        self._processes.on_exit(envoy.kill)
        admin = f"unix:{self.directory}/e.sock"
        wait_until(lambda: answers_ok(admin, "/ready"), within=20, what="Envoy is ready", process=envoy)
        wait_until(lambda: self._healthy(admin), within=20, what="both processors are healthy", process=envoy)
        self.pids["envoy"] = [envoy.pid]

    def _healthy(self, admin: str) -> bool:
        _, page = http_get(admin, "/stats?format=json&filter=membership_healthy")
        stats = {row["name"]: row["value"] for row in json.loads(page)["stats"] if "name" in row}
        return all(stats.get(f"cluster.{name}.membership_healthy", 0) >= 1 for name in ("extproc", "empty"))


def _wait_for(word: str, process: ManagedProcess) -> None:
    wait_until(
        lambda: word in process.log_tail(400), within=40, what=f"{process.name} is ready", process=process
    )


def _listener_name(target: str, setup: Setup) -> str:
    return target if setup == "governed" else f"{target}-{setup}"


def write_policies(folder: Path, targets: Iterable[str]) -> None:
    """One policy file for each target."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name in targets:
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(TARGETS[name].policy(name), width=10_000))
        path.chmod(0o644)


def settings_for(
    directory: Path, targets: Iterable[str], *, issuer: str, upstream: str, ports: dict[str, int]
) -> dict[str, Any]:
    """`extproc.yaml` for these targets, a listener each."""
    names = list(targets)
    return {
        "apiVersion": "extproc/v1",
        "kind": "Config",
        "state": str(directory / "state"),
        "processor": {"listen": f"unix:{directory}/p.sock"},
        "listeners": [
            {
                "name": name,
                "address": f"127.0.0.1:{ports[name]}",
                "mode": TARGETS[name].mode,
                "routes": [{"prefix": "/", "target": name}],
            }
            for name in names
        ],
        "targets": [
            {
                "name": name,
                "upstream": {"address": upstream, "tls": "off"},
                "labels": {"env": "bench"},
                **TARGETS[name].settings,
            }
            for name in names
        ],
        "identity": {
            "providers": [
                {
                    "name": "bench",
                    "issuer": issuer,
                    "audiences": [AUDIENCE],
                    "algorithms": ["RS256"],
                    "keys": {"discovery": True},
                    "claims": {"person": "email"},
                    "insecure_loopback": True,
                }
            ]
        },
        "policies": {"folders": [str(directory / "policies")]},
        "approvals": {"listen": f"unix:{directory}/a.sock"},
        "envoy": {"admin": f"unix:{directory}/e.sock", "tracing": False},
    }


def with_setups(config: dict[str, Any], ports: dict[str, int], empty_socket: str) -> dict[str, Any]:
    """The rendered configuration with the listeners of `bare` and `empty` beside the governed ones."""
    resources = config["static_resources"]
    processor = next(cluster for cluster in resources["clusters"] if cluster["name"] == "extproc")
    empty = copy.deepcopy(processor)
    empty["name"] = empty["load_assignment"]["cluster_name"] = "empty"
    for place in empty["load_assignment"]["endpoints"]:
        for endpoint in place["lb_endpoints"]:
            endpoint["endpoint"]["address"] = {"pipe": {"path": empty_socket}}
    resources["clusters"].append(empty)
    for governed in list(resources["listeners"]):
        for setup in ("bare", "empty"):
            listener = copy.deepcopy(governed)
            name = listener["name"] = f"{governed['name']}-{setup}"
            listener["address"]["socket_address"]["port_value"] = ports[name]
            manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
            manager["stat_prefix"] = name
            if setup == "bare":
                _strip(manager)
            else:
                for http_filter in manager["http_filters"]:
                    service = http_filter["typed_config"].get("grpc_service")
                    if service is not None:
                        service["envoy_grpc"]["cluster_name"] = "empty"
            resources["listeners"].append(listener)
    return config


def _strip(manager: dict[str, Any]) -> None:
    """Take our filters and what routes say to them out."""
    manager["http_filters"] = [entry for entry in manager["http_filters"] if entry["name"] not in OURS]
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            route.pop("typed_per_filter_config", None)
