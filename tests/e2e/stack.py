"""The whole thing on this machine: issuer, upstream, `extproc serve`, a rendered Envoy.

Logs are printed when a test fails.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from extproc.app.form import is_compiled
from extproc.commands.render import render_text
from extproc.config import load_config
from extproc.demo.issuer import Issuer
from extproc.demo.processes import ManagedProcess, free_port, start, wait_until
from extproc.render.bootstrap import envoy_config
from tests.support.envoy import Envoy
from tests.support.raw_http import RawClient, RawReply, ask, build_request
from tests.support.upstream import Upstream

API_KEY = "upstream-credential-7f3a9c"
"""What extproc injects; no client may ever see it."""
TARGET = "customers-api"

POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: e2e}
target: customers-api
default: deny
rules:
  - name: readers-read
    when: request.method in ["GET", "HEAD"] && "readers" in principal.groups && request.url_path != "/secrets"
    then: {allow: {}, mask: pii}
  - name: plain-read
    when: request.method == "GET" && "plain" in principal.groups
    then: {allow: {}}
  - name: writers-write
    when: request.method == "POST" && "writers" in principal.groups && request.url_path == "/notes"
    then: {allow: {}}
  - name: no-delete
    when: request.method == "DELETE"
    then: {deny: {message: "Nothing is deleted here."}}
  - name: payments-wait
    when: request.method == "POST" && request.url_path == "/payments"
    then:
      risk: 60
      hold:
        approvers: {all_of: [{group: finance, count: 1}]}
        wait: 20s
        expires: 1h
        use_within: 10m
        reason: "Payments need a second pair of eyes."
masks:
  pii: {entities: [EMAIL_ADDRESS, CREDIT_CARD, IBAN_CODE], operator: replace}
"""


class Stack:
    """Everything running. Use as a context manager; `restart_service` and `reload` change it under way."""

    def __init__(
        self,
        directory: Path,
        *,
        policy: str = POLICY,
        target: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        listener: Mapping[str, Any] | None = None,
        target_name: str = TARGET,
        upstream: Upstream | None = None,
        upstream_address: str = "",
        change_envoy: Callable[[dict[str, Any]], None] | None = None,
        environment: Mapping[str, str] | None = None,
        concurrency: int = 1,
        provider: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.issuer = Issuer(port=0, audience=target_name)
        self.upstream = upstream or Upstream()
        self._upstream_address = upstream_address
        self._change_envoy = change_envoy
        self._environment = dict(environment or {})
        self._concurrency = concurrency
        self.port = free_port()
        self.config_path = directory / "extproc.yaml"
        self.policy_path = directory / "policies" / "policy.yaml"
        self.target_name = target_name
        self._policy = policy
        self._target = dict(target or {})
        self._settings = dict(settings or {})
        self._listener = dict(listener or {})
        self._provider = dict(provider or {})
        self.service: ManagedProcess | None = None
        self.envoy: Envoy | None = None

    # ------------------------------------------------------------------ life

    def __enter__(self) -> Self:
        try:
            self.issuer.start()
            if not self._upstream_address:
                self.upstream.start()
            self._write()
            self.start_service()
            self._start_envoy()
        except BaseException:
            self.show_logs()
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.show_logs()
        self._stop()

    def _stop(self) -> None:
        if self.envoy is not None:
            self.envoy.stop()
        if self.service is not None:
            self.service.stop(grace=20.0)
        if not self._upstream_address:
            self.upstream.stop()
        self.issuer.stop()

    def show_logs(self) -> None:
        """What everybody said, for pytest to show."""
        log = self.directory / "serve.log"
        if log.exists():
            print(f"---- extproc serve\n{log.read_text(errors='replace')[-12000:]}")
        if self.envoy is not None:
            self.envoy.show_logs(60)

    def _write(self) -> None:
        self.policy_path.parent.mkdir(mode=0o755, exist_ok=True)
        self.write_policy(self._policy)
        key = self.directory / "api.key"
        key.write_text(API_KEY)
        key.chmod(0o600)
        target: dict[str, Any] = {
            "name": self.target_name,
            "kind": "http",
            "upstream": {"address": self._upstream_address or self.upstream.address, "tls": "off"},
            "credential": {"header": "x-api-key", "value": {"file": str(key)}},
            "record": {"request": "masked", "response": "masked"},
        }
        target.update(self._target)
        settings: dict[str, Any] = {
            "apiVersion": "extproc/v1",
            "kind": "Config",
            "state": str(self.directory / "state"),
            "processor": {"listen": f"unix:{self.directory}/p.sock", **self._transport()},
            "listeners": [
                {
                    "name": "http",
                    "address": f"127.0.0.1:{self.port}",
                    "routes": [{"prefix": "/", "target": self.target_name}],
                    **self._listener,
                }
            ],
            "targets": [target],
            "identity": {
                "providers": [
                    {
                        "name": "corp",
                        "issuer": self.issuer.issuer,
                        "audiences": [self.target_name],
                        "algorithms": ["RS256", "ES256", "EdDSA"],
                        "keys": {"discovery": True},
                        "claims": {"person": "email"},
                        "insecure_loopback": True,
                        **self._provider,
                    }
                ]
            },
            "policies": {"folders": [str(self.policy_path.parent)]},
            "approvals": {"listen": f"unix:{self.directory}/a.sock", "clients": ["approvals-console"]},
            "envoy": {"admin": f"unix:{self.directory}/e.sock"},
        }
        for name, value in self._settings.items():
            both = isinstance(value, dict) and isinstance(settings.get(name), dict)
            settings[name] = {**settings[name], **value} if both else value
        self.config_path.write_text(yaml.safe_dump(settings))

    def _transport(self) -> dict[str, str]:
        """EXTPROC_TEST_TRANSPORT runs the same suite on another transport than the default."""
        asked = os.environ.get("EXTPROC_TEST_TRANSPORT", "")
        return {"transport": asked} if asked else {}

    def write_policy(self, text: str) -> None:
        """Replace the policy file; `reload` makes it count."""
        self.policy_path.write_text(text)
        self.policy_path.chmod(0o644)

    def start_service(self) -> None:
        """Start `extproc serve` and wait until it says it is ready."""
        log = self.directory / "serve.log"
        already = log.read_text().count("serve.ready") if log.exists() else 0
        self.service = start(
            "serve",
            [sys.executable, "-m", "extproc.cli", "serve", "--config", str(self.config_path)],
            log=log,
            environment=self._environment,
        )
        wait_until(
            lambda: log.exists() and log.read_text(errors="replace").count("serve.ready") > already,
            what="extproc serve to be ready",
            within=90.0,
            process=self.service,
        )
        assert ('"compiled": true' in log.read_text(errors="replace")) == is_compiled()

    def _start_envoy(self) -> None:
        # what `extproc render envoy` prints, without an interpreter that takes two seconds to learn Envoy's messages
        config = json.loads(render_text(envoy_config(load_config(self.config_path)), "json"))
        if self._change_envoy is not None:
            self._change_envoy(config)
        self.envoy = Envoy(config, directory=self.directory, concurrency=self._concurrency)
        self.envoy.start()
        self.envoy.wait_for_stat("cluster.extproc.membership_healthy", lambda value: value >= 1)

    def kill_service(self) -> None:
        """kill -9 for all of it."""
        assert self.service is not None
        for pid in self.service_pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.service.kill()

    def service_pids(self, kind: str = "") -> list[int]:
        """Pids of the service's children, `kind` filters (worker, approvals, …)."""
        assert self.service is not None
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            ours = b"extproc.app.child" in command and str(self.config_path).encode() in command
            if ours and (not kind or kind.encode() in command):
                found.append(int(entry.name))
        return found

    def cli(self, *arguments: str, env: Mapping[str, str] | None = None, check: bool = True) -> Any:
        """Run the command line."""
        done = subprocess.run(
            [sys.executable, "-m", "extproc.cli", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **(env or {})},
            timeout=60,
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"extproc {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    # ------------------------------------------------------------------ asking

    def token(self, sub: str = "alice", groups: Sequence[str] = ("readers",), **claims: Any) -> str:
        """A data-path token."""
        return self.issuer.token(sub, groups=list(groups), **claims)

    def approver(self, sub: str = "fiona", groups: Sequence[str] = ("finance",), **claims: Any) -> str:
        """A token for the approvals API."""
        claims = {"kind": "human", "azp": "approvals-console", "aud": "extproc-approvals", **claims}
        return self.issuer.token(sub, groups=list(groups), **claims)

    @property
    def address(self) -> str:
        """Where callers reach Envoy."""
        return f"127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        *,
        token: str | None = "",
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        timeout: float = 30.0,
    ) -> RawReply:
        """One request through Envoy. `token` "" means a reader's, None means none."""
        return ask(
            self.address, self.raw(method, path, token=token, headers=headers, body=body), timeout=timeout
        )

    def raw(
        self,
        method: str,
        path: str,
        *,
        token: str | None = "",
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> bytes:
        """The bytes of a request."""
        own = list(headers)
        if token is not None:
            own.append(("authorization", f"Bearer {token or self.token()}"))
        return build_request(method, path, headers=own, body=body)

    def client(self, timeout: float = 30.0) -> RawClient:
        """A connection to Envoy."""
        return RawClient(self.address, timeout=timeout)

    # ------------------------------------------------------------------ the ledger

    def records(self) -> list[dict[str, Any]]:
        """Every whole line of every writer, in file order. The last may be half written while somebody writes it."""
        return list(self._records())

    def _records(self) -> Iterator[dict[str, Any]]:
        for path in sorted((self.directory / "state" / "ledger").rglob("*.jsonl")):
            whole, _, _ = path.read_bytes().rpartition(b"\n")
            for line in whole.split(b"\n"):
                if line:
                    yield json.loads(line)

    def ledger_bytes(self) -> bytes:
        """Everything under the state folder that is not a key, as one blob to search."""
        return b"".join(
            path.read_bytes()
            for path in sorted((self.directory / "state").rglob("*"))
            if path.is_file() and path.suffix != ".key" and path.parent.name != "keys"
        )

    def decision(self, decision_id: str) -> dict[str, dict[str, Any]]:
        """The records of one decision by kind."""
        return {r["kind"]: r for r in self.records() if r.get("decision_id") == decision_id}

    def stories(self, path: str) -> list[dict[str, dict[str, Any]]]:
        """Every decision about a request whose recorded path is `path`, oldest first: its records by kind."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        records = self.records()
        for record in records:
            if record["kind"] == "intent" and record.get("request", {}).get("path") == path:
                found[record["decision_id"]] = {}
        for record in records:
            if record.get("decision_id") in found:
                found[record["decision_id"]][record["kind"]] = record
        return list(found.values())

    def story(self, path: str) -> dict[str, dict[str, Any]]:
        """The records of the one decision about `path`, once its outcome is there."""
        found: list[dict[str, dict[str, Any]]] = []

        def complete() -> bool:
            found[:] = self.stories(path)
            return bool(found) and all("outcome" in story for story in found)

        wait_until(complete, what=f"the outcome of {path}", within=10.0)
        assert len(found) == 1, f"{len(found)} decisions about {path}"
        return found[0]

    def wait_for_records(
        self, wanted: Callable[[dict[str, Any]], bool], count: int = 1
    ) -> list[dict[str, Any]]:
        """The records that fit, once there are at least `count`."""
        found: list[dict[str, Any]] = []

        def enough() -> bool:
            found[:] = [record for record in self.records() if wanted(record)]
            return len(found) >= count

        wait_until(enough, what=f"{count} records", within=15.0, process=self.service)
        return found

    def reload(self) -> None:
        """SIGHUP; the caller waits for the record it expects."""
        assert self.service is not None
        self.service.send(signal.SIGHUP)

    def is_kept(self, canary: str | bytes) -> bool:
        """The text stands somewhere in what is kept: ledger, holds, bundles, logs. Keys are left out."""
        sought = canary.encode() if isinstance(canary, str) else canary
        log = self.directory / "serve.log"
        return sought in self.ledger_bytes() or (log.exists() and sought in log.read_bytes())
