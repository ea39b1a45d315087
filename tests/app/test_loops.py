"""Which event loop a child runs on."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from extproc.app.loops import loop_factory, loop_name, request_loop
from extproc.config import Settings, parse_config

HEAD = "apiVersion: extproc/v1\nkind: Config\n"


def settings(transport: str) -> Settings:
    return parse_config(f"{HEAD}processor: {{transport: {transport}}}\n", base=Path("/srv/extproc"))


def name_of(kind: str, transport: str) -> str:
    with asyncio.Runner(loop_factory=loop_factory(kind, settings(transport))) as runner:
        return loop_name(runner.get_loop())


@pytest.mark.parametrize(
    ("kind", "transport", "name"),
    [
        ("worker", "lean", "uvloop"),
        ("worker", "grpcio", "asyncio"),
        ("approvals", "lean", "asyncio"),
        ("exporter", "lean", "asyncio"),
    ],
)
def test_workers_of_the_lean_transport_run_on_uvloop(kind: str, transport: str, name: str):
    pytest.importorskip("uvloop")
    assert name_of(kind, transport) == name


def test_where_there_is_no_uvloop_asyncios_own_loop_does(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert request_loop() is asyncio.new_event_loop
    assert name_of("worker", "lean") == "asyncio"
