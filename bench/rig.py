"""Everything a run needs, on this machine: issuer, upstream, collector, empty processors, extproc, one Envoy.

Envoy's configuration is the one `extproc render envoy` writes for `governed_lean`. The listeners of the other setups
are copies of it: `bare` without our filters, the others with another processor cluster. All run in one Envoy.
"""

from __future__ import annotations

import copy
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from bench.cases import CREDENTIAL, EMPTY, SERVICES, TARGETS, Case, Service, Setup
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
LEAN: Setup = "governed_lean"
INTENT = b'"kind":"intent"'


class Rig:
    """Running processes and where to reach them. Use as a context manager."""

    def __init__(
        self,
        directory: Path,
        targets: Mapping[str, Collection[Setup]],
        *,
        export: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """`directory` must have a short path: unix sockets live in it. `targets`: the setups each is reached in.

        `export`: spans of `governed_lean` leave, as in earnest. `settings`: sections of extproc.yaml to put in.
        """
        self._export = export
        self._settings = dict(settings or {})
        self.directory = directory
        self.targets = sorted(targets)
        self._setups = {target: tuple(dict.fromkeys([*setups, LEAN])) for target, setups in targets.items()}
        self._used = {setup for setups in self._setups.values() for setup in setups}
        self.issuer = Issuer(port=0, audience=AUDIENCE, algorithms=("RS256",))
        self.pids: dict[str, list[int]] = {}
        """Process ids by role. The role of a processor is its setup."""
        self._processes = Processes()
        self._ports: dict[str, int] = {}

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

    def requests_by_worker(self, setup: Setup) -> list[int]:
        """Intents in the ledger of each worker so far."""
        ledger = _state(self.directory, setup) / "ledger"
        return [
            sum(segment.read_bytes().count(INTENT) for segment in sorted(writer.rglob("*.jsonl")))
            for writer in sorted(ledger.iterdir())
            if writer.name.startswith("worker")
        ]

    def open_waits(self) -> int:
        """Requests that wait on a hold of `governed_lean` now, as its store counts them."""
        with closing(sqlite3.connect(_state(self.directory, LEAN) / "holds.db", timeout=10)) as store:
            return int(store.execute("SELECT coalesce(sum(count), 0) FROM waiters").fetchone()[0])

    # ------------------------------------------------------------------ starting

    def _start(self) -> None:
        upstream, collector = free_ports(2)
        self.issuer.start()
        self._processes.on_exit(self.issuer.stop)
        self._write(upstream, collector)
        started = [
            self._run("upstream", "bench.upstream", "--port", str(upstream)),
            self._run("collector", "bench.upstream", "--port", str(collector)),
        ]
        for setup, transport in EMPTY.items():
            if setup in self._used:
                listen = ("--listen", f"unix:{_socket(self.directory, setup)}", "--transport", transport)
                started.append(self._run(setup, "bench.empty", *listen))
        services = {
            setup: self._run(
                f"{setup}.supervisor", "extproc.cli", "serve", "--config", str(self._config(setup))
            )
            for setup in SERVICES
            if setup in self._used
        }
        config = self._render()
        for process in started:
            _wait_for("ready", process)
        for setup, service in services.items():
            _wait_for("serve.ready", service)
            children = self._children(self._config(setup))
            self.pids[setup] = children.pop("worker")
            if setup == LEAN:
                self.pids.update(children, supervisor=[service.pid])
        self._start_envoy(config)

    def _config(self, setup: Setup) -> Path:
        return self.directory / f"{setup}.yaml"

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

    def _children(self, config: Path) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "extproc.app.child" in command and str(config) in command:
                kind = next(kind for kind in CHILDREN if kind in command)
                found.setdefault(kind, []).append(int(entry.name))
        return found

    def _write(self, upstream: int, collector: int) -> None:
        write_policies(self.directory / "policies", self.targets)
        names = [_listener_name(target, setup) for target in self.targets for setup in self._setups[target]]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        for setup, service in SERVICES.items():
            if setup not in self._used:
                continue
            settings = settings_for(
                self.directory, self.targets, issuer=self.issuer.issuer, upstream=f"127.0.0.1:{upstream}",
                ports={target: self._ports[target] for target in self.targets}, setup=setup, service=service,
            )  # fmt: skip
            settings.update(self._settings)
            if self._export and setup == LEAN:
                settings["telemetry"] = {
                    "otlp": {"endpoint": f"http://127.0.0.1:{collector}", "protocol": "http"}
                }
            self._config(setup).write_text(yaml.safe_dump(settings))

    def _render(self) -> dict[str, Any]:
        command = ["render", "envoy", "--config", str(self._config(LEAN)), "--format", "json"]
        done = subprocess.run(
            [sys.executable, "-m", "extproc.cli", *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise StartError(f"extproc render envoy: {done.stderr}")
        return with_setups(
            json.loads(done.stdout),
            self._ports,
            self._setups,
            {setup: sockets_of(self.directory, setup) for setup in self._used - {LEAN, "bare"}},
        )

    def _start_envoy(self, config: dict[str, Any]) -> None:
        path = self.directory / "envoy.json"
        path.write_text(json.dumps(config, indent=1))
        envoy = start_envoy(path, log_directory=self.directory, level="warning")
        self._processes.on_exit(envoy.kill)
        admin = f"unix:{self.directory}/e.sock"
        wait_until(lambda: answers_ok(admin, "/ready"), within=20, what="Envoy is ready", process=envoy)
        wait_until(lambda: self._healthy(admin), within=20, what="all processors are healthy", process=envoy)
        self.pids["envoy"] = [envoy.pid]

    def _healthy(self, admin: str) -> bool:
        _, page = http_get(admin, "/stats?format=json&filter=membership_healthy")
        stats = {row["name"]: row["value"] for row in json.loads(page)["stats"] if "name" in row}
        wanted = {
            _cluster_name(setup): len(sockets_of(self.directory, setup)) for setup in self._used - {"bare"}
        }
        return all(stats.get(f"cluster.{name}.membership_healthy", 0) >= n for name, n in wanted.items())


def _wait_for(word: str, process: ManagedProcess) -> None:
    wait_until(
        lambda: word in process.log_tail(400), within=40, what=f"{process.name} is ready", process=process
    )


def _listener_name(target: str, setup: Setup) -> str:
    return target if setup == LEAN else f"{target}-{setup}"


def _cluster_name(setup: Setup) -> str:
    return "extproc" if setup == LEAN else setup


def _state(directory: Path, setup: Setup) -> Path:
    return directory / f"state-{setup}"


def _socket(directory: Path, setup: Setup) -> str:
    return f"{directory}/{setup}.sock"


def sockets_of(directory: Path, setup: Setup) -> list[str]:
    """Where the processors of a setup listen."""
    workers = SERVICES[setup].workers if setup in SERVICES else 1
    if workers == 1:
        return [_socket(directory, setup)]
    return [f"{directory}/{setup}-{number}.sock" for number in range(workers)]


def write_policies(folder: Path, targets: Iterable[str]) -> None:
    """One policy file for each target."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name in targets:
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(TARGETS[name].policy(name), width=10_000))
        path.chmod(0o644)


def settings_for(
    directory: Path, targets: Iterable[str], *, issuer: str, upstream: str, ports: dict[str, int],
    setup: Setup = LEAN, service: Service = SERVICES[LEAN],
) -> dict[str, Any]:  # fmt: skip
    """`extproc.yaml` for these targets, a listener each."""
    names = list(targets)
    return {
        "apiVersion": "extproc/v1",
        "kind": "Config",
        "state": str(_state(directory, setup)),
        "processor": {
            "listen": f"unix:{_socket(directory, setup)}",
            "transport": service.transport,
            "workers": service.workers,
        },
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
        "approvals": {"listen": f"unix:{directory}/{setup}-a.sock"},
        "envoy": {"admin": f"unix:{directory}/e.sock", "tracing": False},
    }


def with_setups(
    config: dict[str, Any],
    ports: Mapping[str, int],
    setups: Mapping[str, Collection[Setup]],
    sockets: Mapping[Setup, list[str]],
) -> dict[str, Any]:
    """The rendered configuration with the clusters and listeners of the other setups beside the governed ones."""
    resources = config["static_resources"]
    processor = next(cluster for cluster in resources["clusters"] if cluster["name"] == "extproc")
    for setup, paths in sockets.items():
        resources["clusters"].append(_processor(processor, setup, paths))
    for governed in list(resources["listeners"]):
        for setup in setups[governed["name"]]:
            if setup == LEAN:
                continue
            listener = copy.deepcopy(governed)
            _send_access_log(listener, setup)
            name = listener["name"] = _listener_name(governed["name"], setup)
            listener["address"]["socket_address"]["port_value"] = ports[name]
            manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
            manager["stat_prefix"] = name
            if setup == "bare":
                _strip(manager)
            else:
                for http_filter in manager["http_filters"]:
                    grpc = http_filter["typed_config"].get("grpc_service")
                    if grpc is not None:
                        grpc["envoy_grpc"]["cluster_name"] = setup
            resources["listeners"].append(listener)
        _send_access_log(governed, LEAN)
    return config


def _processor(cluster: dict[str, Any], setup: Setup, paths: list[str]) -> dict[str, Any]:
    """The processor cluster with other sockets."""
    made = copy.deepcopy(cluster)
    made["name"] = made["load_assignment"]["cluster_name"] = setup
    (place,) = made["load_assignment"]["endpoints"]
    (endpoint,) = place["lb_endpoints"]
    place["lb_endpoints"] = [copy.deepcopy(endpoint) for _ in paths]
    for one, path in zip(place["lb_endpoints"], paths, strict=True):
        one["endpoint"]["address"] = {"pipe": {"path": path}}
    return made


def _send_access_log(listener: dict[str, Any], setup: Setup) -> None:
    """To this setup's own processor where it takes one; it would be work of another setup's otherwise."""
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    takes = setup in SERVICES and SERVICES[setup].access_log
    kept = []
    for entry in manager["access_log"]:
        common = entry["typed_config"].get("common_config")
        if common is not None:
            if not takes:
                continue
            common["grpc_service"]["envoy_grpc"]["cluster_name"] = setup
        kept.append(entry)
    manager["access_log"] = kept


def _strip(manager: dict[str, Any]) -> None:
    """Take our filters and what routes say to them out."""
    manager["http_filters"] = [entry for entry in manager["http_filters"] if entry["name"] not in OURS]
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            route.pop("typed_per_filter_config", None)
