"""A real Envoy for tests: started from a config, on free ports, its log shown when something fails.

```python
with Envoy(config, directory=tmp_path) as envoy:
    assert ask(envoy.address("http"), build_request("GET", "/")).status == 200
```
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import yaml

from extproc.demo.processes import (
    EnvoyMissingError,
    ManagedProcess,
    answers_ok,
    envoy_binary,
    free_port,
    http_get,
    http_post,
    start_envoy,
    tail,
    validate_envoy,
    wait_until,
)
from tests.support.raw_http import RawClient, RawReply, ReplyError, ask, build_request, chunked

TYPE = "type.googleapis.com/envoy"


class Envoy:
    """One Envoy process. `config` is an Envoy bootstrap as a dict (or its JSON or YAML text).

    An admin endpoint on a unix socket is added when the config has none. The logs of Envoy and of `logs` are
    printed when the `with` block is left by an exception, so pytest shows them.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str,
        *,
        directory: Path,
        logs: Iterable[Path] = (),
        level: str = "info",
        concurrency: int = 1,
    ) -> None:
        self._directory = directory
        self._config = config
        self._logs = list(logs)
        self._level = level
        self._concurrency = concurrency
        self._short: tempfile.TemporaryDirectory[str] | None = None
        self._process: ManagedProcess | None = None
        self.admin = ""
        """Where the admin interface is: `unix:/path` or `host:port`."""

    # -- life

    def start(self, within: float = 20.0) -> Envoy:
        """Start and return once Envoy says it is ready. Raises StartError with the end of its log."""
        config = self._write_config()
        self._process = start_envoy(
            config, log_directory=self._directory, level=self._level, concurrency=self._concurrency
        )
        try:
            wait_until(
                lambda: answers_ok(self.admin, "/ready"),
                within=within,
                what="Envoy is ready",
                process=self._process,
                logs=self._logs,
            )
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it and remove its admin socket."""
        if self._process is not None:
            self._process.stop(grace=2.0)
        if self._short is not None:
            self._short.cleanup()
            self._short = None

    def __enter__(self) -> Envoy:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            self.show_logs()

    @property
    def process(self) -> ManagedProcess:
        """The running process."""
        assert self._process is not None, "Envoy was not started"
        return self._process

    def show_logs(self, lines: int = 80) -> None:
        """Print the end of every log to stderr."""
        for log in [self.process.log, self.process.log.with_suffix(".out"), *self._logs]:
            print(f"--- end of {log.name} ---\n{tail(log, lines)}", file=sys.stderr)

    # -- admin

    def get(self, path: str) -> str:
        """An admin page. Raises AssertionError unless it is answered with 200."""
        status, body = http_get(self.admin, path)
        assert status == 200, f"admin {path}: {status} {body[:200]!r}"
        return body.decode(errors="replace")

    def post(self, path: str) -> str:
        """An admin action, such as `/drain_listeners?graceful` or `/logging?level=debug`."""
        status, body = http_post(self.admin, path)
        assert status == 200, f"admin {path}: {status} {body[:200]!r}"
        return body.decode(errors="replace")

    def stats(self, filter: str = "") -> dict[str, int]:
        """Counters and gauges by name; `filter` is a regular expression over names. Histograms are left out."""
        page = self.get(f"/stats?format=json&filter={quote(filter)}" if filter else "/stats?format=json")
        return {
            row["name"]: row["value"]
            for row in json.loads(page)["stats"]
            if "name" in row and isinstance(row.get("value"), int)
        }

    def stat(self, name: str) -> int:
        """One counter or gauge; 0 when Envoy has never touched it."""
        return self.stats(f"^{re.escape(name)}$").get(name, 0)

    def wait_for_stat(
        self, name: str, check: Callable[[int], bool] = lambda value: value > 0, *, within: float = 10.0
    ) -> int:
        """The value, once `check` holds. Raises StartError at the deadline."""
        wait_until(lambda: check(self.stat(name)), within=within, what=f"stat {name} = {self.stat(name)}")
        return self.stat(name)

    def address(self, listener: str) -> str:
        """`127.0.0.1:port` of a listener by name; works for `port_value: 0` too."""
        for status in json.loads(self.get("/listeners?format=json"))["listener_statuses"]:
            if status["name"] == listener:
                socket = status["local_address"]["socket_address"]
                return f"127.0.0.1:{socket['port_value']}"
        raise AssertionError(f"Envoy has no listener {listener}")

    # -- inside

    def _write_config(self) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True)
        if isinstance(self._config, str):
            config: dict[str, Any] = yaml.safe_load(self._config)
        else:
            config = dict(self._config)
        if "admin" not in config:
            # A socket path holds 107 bytes at most, and pytest's directories are long.
            self._short = tempfile.TemporaryDirectory(prefix="envoy-")
            config["admin"] = {"address": {"pipe": {"path": f"{self._short.name}/admin.sock", "mode": 0o600}}}
        self.admin = _admin_address(config["admin"]["address"])
        path = self._directory / "envoy.json"
        path.write_text(json.dumps(config, indent=1))
        return path


def forwarding_config(
    upstream: str,
    *,
    http_filters: Iterable[Mapping[str, Any]] = (),
    clusters: Iterable[Mapping[str, Any]] = (),
    hcm: Mapping[str, Any] | None = None,
    listener: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Envoy as a plain HTTP proxy from listener `http` (any free port) to `upstream` (`host:port`).

    `http_filters` go before the router, `clusters` beside the upstream's; `hcm` and `listener` add or replace
    fields of the connection manager and of the listener.
    """
    manager = {
        "@type": f"{TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "upstream", "timeout": "30s"}}
                    ],
                }
            ]
        },
        "http_filters": [
            *http_filters,
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPE}.extensions.filters.http.router.v3.Router"},
            },
        ],
        **(hcm or {}),
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "http",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                    **(listener or {}),
                }
            ],
            "clusters": [cluster("upstream", upstream), *clusters],
        }
    }


def cluster(name: str, address: str, *, http2: bool = False) -> dict[str, Any]:
    """A static cluster with one endpoint at `host:port` or `unix:/path`."""
    if address.startswith("unix:"):
        endpoint: dict[str, Any] = {"pipe": {"path": address.removeprefix("unix:")}}
    else:
        host, _, port = address.rpartition(":")
        endpoint = {"socket_address": {"address": host, "port_value": int(port)}}
    options = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}],
        },
        **({"typed_extension_protocol_options": options} if http2 else {}),
    }


def envoy_is_here() -> bool:
    """There is an Envoy to run; without one, tests that need it are skipped with the reason."""
    try:
        envoy_binary()
    except EnvoyMissingError:
        return False
    return True


def _admin_address(address: Mapping[str, Any]) -> str:
    if "pipe" in address:
        return f"unix:{address['pipe']['path']}"
    socket = address["socket_address"]
    return f"{socket['address']}:{socket['port_value']}"


__all__ = [
    "Envoy",
    "RawClient",
    "RawReply",
    "ReplyError",
    "ask",
    "build_request",
    "chunked",
    "cluster",
    "envoy_is_here",
    "forwarding_config",
    "free_port",
    "validate_envoy",
]
