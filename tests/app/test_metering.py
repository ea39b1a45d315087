"""The metrics process by itself: what it shows when others cannot be reached."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import httpx2

from extproc.adapters.control import Control
from extproc.app.metering import run_metrics
from extproc.config.load import parse_config

CONFIG = """
apiVersion: extproc/v1
kind: Config
listeners: [{name: api, address: "127.0.0.1:1", routes: [{prefix: /, target: api}]}]
targets: [{name: api, upstream: {address: "127.0.0.1:2", tls: off}}]
identity: {providers: [{name: c, issuer: "https://i.example", audiences: [a], keys: {discovery: true}}]}
holds: {store: "sqlite:holds.db"}
ledger: {directory: ledger}
telemetry: {metrics: {listen: "unix:metrics.sock"}}
"""


def test_a_hold_store_that_cannot_be_read_is_shown_and_hides_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    (tmp_path / "holds.db").write_text("this is no database")
    settings = parse_config(CONFIG, base=tmp_path)

    async def story() -> str:
        ours, theirs = socket.socketpair()
        supervisor, stopping = await Control.open(ours), asyncio.Event()
        running = asyncio.create_task(
            run_metrics(settings, await Control.open(theirs), stopping, time.time())
        )
        assert await supervisor.receive() == {"ready": True}
        transport = httpx2.AsyncHTTPTransport(uds=str(tmp_path / "metrics.sock"))
        async with httpx2.AsyncClient(transport=transport, base_url="http://metrics") as client:
            answer = await client.get("/metrics", timeout=10)
        stopping.set()
        await running
        return answer.text

    page = asyncio.run(story())
    assert "\nextproc_hold_store_up 0.0\n" in page
    assert "\nextproc_ledger_records 0.0\n" in page
