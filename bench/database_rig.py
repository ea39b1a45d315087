"""What a run at a database needs: a server, an issuer, extproc behind one Envoy with a listener for each setup.

The governed listeners are what `extproc render envoy` writes. `tcp_proxy` is the ext_proc listener without our filter,
`empty` the same with a processor that decides nothing. All talk to the same server over the same unix socket.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import yaml

from extproc.demo.issuer import Issuer
from extproc.demo.processes import (
    ManagedProcess,
    Processes,
    answers_ok,
    free_ports,
    http_get,
    start,
    start_envoy,
    wait_until,
)

SETUPS = ("direct", "tcp_proxy", "empty", "ext_proc", "relay")
"""`empty`, `ext_proc` and `relay` have a process of ours; the last two govern, with policy, masks and records."""
TARGET = "bench-db"
PASSWORD = "bench-upstream-password"
NETWORK_EXT_PROC = "envoy.filters.network.ext_proc"
WIDE = 1000
"""Characters of the wide column."""

POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: bench}
target: bench-db
default: deny
rules:
  - name: nothing-is-deleted
    when: sql.verb in ["DELETE", "TRUNCATE", "DROP"]
    then: {deny: {message: "Nothing is deleted here."}}
  - name: big-writes-wait
    when: '"payments" in sql.tables_written'
    then:
      hold: {approvers: {all_of: [{group: finance, count: 1}]}, wait: 30s, expires: 1h, use_within: 10m}
  - name: admins-only
    when: sql.effects.exists(e, e in ["admin", "file", "network", "ddl"]) && !("dba" in principal.groups)
    then: {deny: {message: "Ask a database administrator."}}
  - name: readers-read
    when: '"readers" in principal.groups && sql.effects.all(e, e == "read")'
    then: {allow: {}, mask: pii}
masks:
  pii: {columns: [bulk.secret, customers.email], operator: replace}
"""


@dataclass(frozen=True, slots=True)
class Login:
    """Where to and who. `host` with a slash is a unix socket, or (Postgres) the folder that has it."""

    host: str
    port: int
    user: str
    password: str = ""


class Database(Protocol):
    """A server that is not running yet, and what it is filled with."""

    kind: str
    """As in `targets[].kind`."""
    socket: Path

    def __enter__(self) -> Any: ...

    def stop(self) -> None: ...

    def fill(self, megabytes: int) -> None:
        """A small table for single rows, and `bulk`: `megabytes` thousand rows with `body` and `secret`, WIDE each."""

    def ungoverned(self, port: int) -> Login:
        """Without us: through Envoy at a port, or past it for 0."""


class DatabaseRig:
    """Running processes. Use as a context manager; `directory` needs a short path, unix sockets live in it."""

    def __init__(self, directory: Path, database: Database, *, megabytes: int) -> None:
        self.directory = directory
        self.pids: dict[str, int] = {}
        """Envoy, and the process of ours by setup; `ext_proc` and `relay` are the same worker."""
        self._megabytes = megabytes
        self._issuer = Issuer(port=0, audience=TARGET, algorithms=("RS256",))
        self._processes = Processes()
        self._database = database
        self._ports = dict(zip(SETUPS[1:], free_ports(len(SETUPS) - 1), strict=True))
        self._token = ""

    def __enter__(self) -> DatabaseRig:
        self._processes.__enter__()
        try:
            self._database.__enter__()
            self._processes.on_exit(self._database.stop)
            self._start()
        except BaseException:
            self._processes.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.__exit__(kind, error, trace)

    def login(self, setup: str) -> Login:
        """How a client reaches the database in one setup."""
        if setup in ("ext_proc", "relay"):
            return Login("127.0.0.1", self._ports[setup], "reader", self._token)
        return self._database.ungoverned(self._ports.get(setup, 0))

    def messages(self) -> dict[str, int]:
        """What Envoy counts of the network filter: sent to the processor so far."""
        _, page = http_get(f"unix:{self.directory}/e.sock", "/stats?format=json&filter=network_ext_proc")
        return {row["name"]: row["value"] for row in json.loads(page)["stats"] if "value" in row}

    # ------------------------------------------------------------------ starting

    def _start(self) -> None:
        self._database.fill(self._megabytes)
        self._issuer.start()
        self._processes.on_exit(self._issuer.stop)
        self._token = self._issuer.token("alice", groups=["readers", "staff"], lifetime=7200)
        self._write()
        empty = self._run("empty", "bench.empty_network", "--listen", f"unix:{self.directory}/n.sock")
        service = self._run("serve", "extproc.cli", "serve", "--config", str(self._config))
        self.pids["empty"] = empty.pid
        _wait("ready", empty)
        _wait("serve.ready", service)
        self.pids["ext_proc"] = self.pids["relay"] = self._worker()
        envoy = start_envoy(
            self._envoy_config(), log_directory=self.directory, level="warning", concurrency=1
        )
        self._processes.on_exit(envoy.kill)
        self.pids["envoy"] = envoy.pid
        wait_until(
            lambda: answers_ok(f"unix:{self.directory}/e.sock", "/ready"),
            within=20.0,
            what="Envoy",
            process=envoy,
        )
        wait_until(self._is_healthy, within=20.0, what="workers are healthy", process=envoy)

    def _is_healthy(self) -> bool:
        _, page = http_get(f"unix:{self.directory}/e.sock", "/stats?format=json&filter=membership_healthy")
        rows = [row for row in json.loads(page)["stats"] if "value" in row]
        return bool(rows) and all(row["value"] >= 1 for row in rows)

    @property
    def _config(self) -> Path:
        return self.directory / "extproc.yaml"

    def _write(self) -> None:
        folder = self.directory
        (folder / "policies").mkdir()
        (folder / "policies" / "bench.yaml").write_text(POLICY)
        (folder / "policies" / "bench.yaml").chmod(0o644)
        secret = folder / "db.key"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        listeners = [
            {
                "name": front.replace("_", "-"),
                "address": f"127.0.0.1:{self._ports[front]}",
                "protocol": self._database.kind,
                "target": TARGET,
                "front": front,
            }
            for front in ("ext_proc", "relay")
        ]
        settings: dict[str, Any] = {
            "apiVersion": "extproc/v1",
            "kind": "Config",
            "state": str(folder / "state"),
            "processor": {"listen": f"unix:{folder}/p.sock", "relay": f"unix:{folder}/r.sock"},
            "listeners": listeners,
            "targets": [
                {
                    "name": TARGET,
                    "kind": self._database.kind,
                    "upstream": {"address": f"unix:{self._database.socket}"},
                    "database": {
                        "roles": {"reader": {"user": "app_reader", "password": {"file": str(secret)}}}
                    },
                }
            ],
            "identity": {
                "providers": [
                    {
                        "name": "corp",
                        "issuer": self._issuer.issuer,
                        "audiences": [TARGET],
                        "keys": {"discovery": True},
                        "insecure_loopback": True,
                    }
                ]
            },
            "policies": {"folders": [str(folder / "policies")]},
            "approvals": {"listen": f"unix:{folder}/a.sock", "clients": ["console"]},
            "envoy": {"admin": f"unix:{folder}/e.sock"},
        }
        self._config.write_text(yaml.safe_dump(settings))

    def _run(self, name: str, module: str, *arguments: str) -> ManagedProcess:
        process = start(name, [sys.executable, "-m", module, *arguments], log=self.directory / f"{name}.log")
        self._processes.on_exit(process.kill)  # nothing here is worth a drain
        return process

    def _worker(self) -> int:
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if b"worker" in command and str(self._config).encode() in command:
                return int(entry.name)
        raise RuntimeError("extproc has no worker")

    def _envoy_config(self) -> Path:
        rendered = subprocess.run(
            [sys.executable, "-m", "extproc.cli", "render", "envoy", "--config", str(self._config), "--format", "json"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        config = json.loads(rendered.stdout)
        resources = config["static_resources"]
        ours = next(one for one in resources["listeners"] if one["name"] == "ext-proc")
        for setup in ("tcp_proxy", "empty"):
            listener = copy.deepcopy(ours)
            listener["name"] = setup
            listener["address"]["socket_address"]["port_value"] = self._ports[setup]
            (chain,) = listener["filter_chains"]
            if setup == "tcp_proxy":
                chain["filters"] = [f for f in chain["filters"] if f["name"] != NETWORK_EXT_PROC]
            else:
                chain["filters"][0]["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "empty"
            resources["listeners"].append(listener)
        processor = next(one for one in resources["clusters"] if one["name"] == "extproc")
        text = json.dumps(processor).replace(f"{self.directory}/p.sock", f"{self.directory}/n.sock")
        resources["clusters"].append({**json.loads(text), "name": "empty"})
        path = self.directory / "envoy.json"
        path.write_text(json.dumps(config))
        return path


def _wait(word: str, process: ManagedProcess) -> None:
    log = process.log
    wait_until(
        lambda: log.exists() and word in log.read_text(errors="replace"),
        what=f"{log.stem} says {word}", within=40.0, process=process,
    )  # fmt: skip
