"""What a command loads before it does anything: container health checks start one every few seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

CLIENT, TABLES, SQL = {"httpx2"}, {"rich.console"}, {"extproc.sql", "postgast", "sqlglot"}
SERVICE = {
    "asyncio",
    "grpc",
    "uvicorn",
    "opentelemetry",
    "extproc.pipeline",
    "extproc.servers.service",
    "extproc.app.worker",
}


def known(module: str) -> set[str]:
    code = f"import extproc.cli, {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("command", "needs_not"),
    [
        ("health", CLIENT | TABLES | SQL | SERVICE | {"extproc.policy", "extproc.masking"}),
        ("render", CLIENT | TABLES | SQL | SERVICE),
        ("config", CLIENT | TABLES | SQL | SERVICE),
        ("policy", CLIENT | TABLES | SQL | SERVICE),
        ("lock", CLIENT | TABLES | SQL | SERVICE),
        ("grants", CLIENT | SQL | SERVICE),
        ("sessions", CLIENT | TABLES | SQL | SERVICE),
        ("serve", CLIENT | TABLES | SQL),
    ],
)
def test_a_command_loads_what_it_needs(command: str, needs_not: set[str]) -> None:
    assert sorted(known(f"extproc.commands.{command}") & needs_not) == []
