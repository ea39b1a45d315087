"""What the demo runs on this machine, on loopback: issuer, API, databases, OTLP receiver, `extproc serve`, Envoy."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx2
import yaml

from extproc.config import load_config
from extproc.demo import mariadb
from extproc.demo.api import ApiServer, CustomersApi
from extproc.demo.issuer import Issuer
from extproc.demo.logins import Client
from extproc.demo.mariadb import MariaDB
from extproc.demo.otlp import OtlpReceiver
from extproc.demo.postgres import Postgres
from extproc.demo.processes import (
    ManagedProcess,
    answers_ok,
    free_ports,
    http_get,
    start,
    start_envoy,
    wait_until,
)
from extproc.demo.tables import ROLE, billing_schema, schema
from extproc.render.bootstrap import envoy_config

TARGET = "customers-api"
DATABASE = "orders-db"
BILLING = "billing-db"
BILLING_POLICY = "billing.yaml"
CLIENT = "approvals-console"
AUDIENCE = "extproc-approvals"
PEOPLE = {"fiona": ("finance",), "olga": ("operations",), "oscar": ("operators",), "audrey": ("auditors",)}
"""Who can log in at the demo's issuer, and their groups."""


def shipped_policies() -> list[Path]:
    """The demo's policies: beside the package in a checkout, inside it once installed."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent.parent / "policies" / "demo", here / "policies"):
        if (folder / "customers.yaml").is_file():
            return [file for file in sorted(folder.glob("*.yaml")) if not file.name.endswith(".cases.yaml")]
    raise FileNotFoundError("policies/demo is missing from this installation")


class Scene:
    """Everything running; leaving the `with` block stops it all. `folder` must be short: sockets live there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.api_key = secrets.token_urlsafe(24)
        self.issuer = Issuer(port=0, audience=TARGET)
        self.api = CustomersApi(self.api_key)
        self.api_server = ApiServer(self.api)
        self.otlp = OtlpReceiver()
        self.database = Postgres()
        self.database_password = secrets.token_urlsafe(24)
        self.billing: MariaDB | None = MariaDB() if mariadb.is_here() else None
        """None where there is none to start."""
        self.port, self.database_port, self.billing_port, self.console_port = free_ports(4)
        self.one_time_code = "-".join(secrets.token_hex(3) for _ in range(3))
        self.config = folder / "extproc.yaml"
        self.api_socket = folder / "approvals.sock"
        self._processes: list[ManagedProcess] = []

    @property
    def url(self) -> str:
        """Where an agent calls the API: Envoy."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def console_url(self) -> str:
        """Where people decide with a browser."""
        return f"http://127.0.0.1:{self.console_port}"

    def __enter__(self) -> Scene:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Envoy first: nobody may call into a service that is going."""
        for process in reversed(self._processes):
            process.stop(grace=20.0)
        self._processes.clear()
        self.database.stop()
        if self.billing is not None:
            self.billing.stop()
        self.api_server.stop()
        self.otlp.stop()
        self.issuer.stop()

    def token(self, who: str, *groups: str, kind: str = "agent") -> str:
        """What an agent or a person presents to the API. Good for an hour."""
        return self.issuer.token(who, groups=groups, kind=kind, lifetime=3600, email=f"{who}@bank.example")

    def approver_token(self, who: str, *groups: str, kind: str = "human") -> str:
        """What a person presents to the approvals API; it never works on the data path."""
        return self.issuer.token(
            who, groups=groups, kind=kind, lifetime=3600, email=f"{who}@bank.example",
            aud=AUDIENCE, azp=CLIENT,
        )  # fmt: skip

    def database_token(self, who: str, *groups: str, audience: str = DATABASE) -> str:
        """What an agent gives as its password to a database."""
        return self.issuer.token(
            who, groups=groups, kind="agent", lifetime=3600, email=f"{who}@bank.example", aud=audience
        )

    def client(self, token: str | None) -> httpx2.Client:
        """An HTTP client that calls through Envoy."""
        headers = {"authorization": f"Bearer {token}"} if token is not None else {}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60.0, trust_env=False)

    def _start(self) -> None:
        logins = self.issuer.log_people_in(
            {who: {"groups": groups, "email": f"{who}@bank.example"} for who, groups in PEOPLE.items()}
        )
        logins.add_client(Client(CLIENT, f"{self.console_url}/login/callback", AUDIENCE))
        self.issuer.start()
        self.api_server.start()
        self.database.start()
        self.database.run(schema(self.database_password))
        if self.billing is not None:
            self.billing.start()
            self.billing.run(billing_schema(self.database_password))
        # after the databases: whoever forks to run a program as somebody else must not have gRPC's threads yet
        self.otlp.start()
        self._write_config()
        log = self.folder / "serve.log"
        serve = start(
            "extproc serve",
            [sys.executable, "-m", "extproc.cli", "serve", "--config", str(self.config)],
            log=log,
        )
        self._processes.append(serve)
        wait_until(
            lambda: log.exists() and "serve.ready" in log.read_text(errors="replace"),
            within=60.0, what="extproc serve is ready", process=serve, logs=[log],
        )  # fmt: skip
        self._start_envoy()

    def _start_envoy(self) -> None:
        path = self.folder / "envoy.json"
        path.write_text(json.dumps(envoy_config(load_config(self.config))))
        envoy = start_envoy(path, log_directory=self.folder)
        self._processes.append(envoy)
        admin = f"unix:{self.folder}/admin.sock"
        wait_until(
            lambda: answers_ok(admin, "/ready") and self._processor_is_healthy(admin),
            within=30.0, what="Envoy is ready", process=envoy, logs=[self.folder / "envoy.log"],
        )  # fmt: skip

    def _processor_is_healthy(self, admin: str) -> bool:
        _, stats = http_get(admin, "/stats?filter=cluster.extproc.membership_healthy")
        return any(line.endswith(b": 1") for line in stats.splitlines())

    def _write_config(self) -> None:
        policies = self.folder / "policies"
        policies.mkdir(mode=0o755)
        for source in shipped_policies():
            if source.name == BILLING_POLICY and self.billing is None:
                continue
            shutil.copyfile(source, policies / source.name)
            (policies / source.name).chmod(0o644)
        self._write_secret("customers-api.key", self.api_key)
        self._write_secret("orders-db.key", self.database_password)
        self._write_secret("console.code", self.one_time_code)
        settings = {
            "apiVersion": "extproc/v1",
            "kind": "Config",
            "state": "state",
            "processor": {"listen": "unix:processor.sock"},
            "listeners": [
                {
                    "name": "http",
                    "address": f"127.0.0.1:{self.port}",
                    "routes": [{"prefix": "/", "target": TARGET}],
                },
                {
                    "name": "postgres",
                    "address": f"127.0.0.1:{self.database_port}",
                    "protocol": "postgres",
                    "target": DATABASE,
                },
                *self._billing_listener(),
            ],
            "targets": [
                {
                    "name": TARGET,
                    "kind": "http",
                    "upstream": {"address": self.api_server.address, "tls": "off"},
                    "labels": {"env": "demo"},
                    "credential": {"header": "x-api-key", "value": {"file": "customers-api.key"}},
                    "record": {"request": "masked", "response": "masked"},
                },
                _database_target(DATABASE, "postgres", self.database.socket),
                *(
                    [_database_target(BILLING, "mysql", self.billing.socket)]
                    if self.billing is not None
                    else []
                ),
            ],
            "identity": {
                "providers": [
                    {
                        "name": "demo",
                        "issuer": self.issuer.issuer,
                        "audiences": [TARGET, DATABASE, BILLING],
                        "keys": {"discovery": True},
                        "claims": {"groups": "groups", "kind": "kind", "person": "email"},
                        "insecure_loopback": True,
                    }
                ]
            },
            "policies": {"folders": ["policies"]},
            "approvals": {"listen": "unix:approvals.sock", "clients": [CLIENT]},
            "console": {
                "listen": f"127.0.0.1:{self.console_port}",
                "url": self.console_url,
                "insecure": True,
                "login": {"provider": "demo", "client_id": CLIENT},
                "one_time": {
                    "code": {"file": "console.code"},
                    "person": "fiona@bank.example",
                    "groups": ["finance", "operations", "operators"],
                },
            },
            "telemetry": {"otlp": {"endpoint": self.otlp.grpc_endpoint, "protocol": "grpc"}},
            "envoy": {"admin": "unix:admin.sock"},
        }
        self.config.write_text(yaml.safe_dump(settings, sort_keys=False))
        self.config.chmod(0o644)

    def _billing_listener(self) -> list[dict[str, str]]:
        if self.billing is None:
            return []
        address = f"127.0.0.1:{self.billing_port}"
        return [{"name": "mysql", "address": address, "protocol": "mysql", "target": BILLING}]

    def _write_secret(self, name: str, value: str) -> None:
        handle = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(value)


def _database_target(name: str, kind: str, socket: Path) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "upstream": {"address": f"unix:{socket}"},
        "labels": {"env": "demo"},
        "record": {"request": "masked"},
        "database": {"roles": {"*": {"user": ROLE, "password": {"file": "orders-db.key"}}}},
    }
