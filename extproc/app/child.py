"""`python -m extproc.app.child KIND`: what the supervisor starts. Not a command for people."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

from extproc.adapters.control import Control
from extproc.app.logs import set_up_logs
from extproc.app.loops import loop_factory
from extproc.config import Settings, load_config


def main() -> int:
    """Run one child until its supervisor goes or says so."""
    parser = argparse.ArgumentParser(prog="extproc.app.child")
    parser.add_argument("kind", choices=("worker", "approvals", "exporter", "checkpointer", "metrics"))
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--kept", type=Path, required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--bundle", type=Path, default=Path())
    parser.add_argument("--began", type=float, default=0.0)
    arguments = parser.parse_args()
    os.umask(0o077)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    name = f"worker-{arguments.index}" if arguments.kind == "worker" else arguments.kind
    set_up_logs(name)
    settings = load_config(arguments.config, arguments.kept)
    with asyncio.Runner(loop_factory=loop_factory(arguments.kind, settings)) as runner:
        runner.run(_run(arguments, settings))
    return 0


async def _run(arguments: argparse.Namespace, settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the supervisor decides when to stop
    control = await Control.inherited(arguments.control)
    match arguments.kind:
        case "worker":
            from extproc.app.worker import Worker

            await Worker(settings, arguments.index, arguments.bundle).run(control, stopping)
        case "approvals":
            from extproc.app.approvals import run_approvals

            await run_approvals(settings, control, stopping)
        case "exporter":
            from extproc.app.tailers import run_exporter

            await run_exporter(settings, control, stopping)
        case "metrics":
            from extproc.app.metering import run_metrics

            await run_metrics(settings, control, stopping, arguments.began)
        case _:
            from extproc.app.tailers import run_checkpointer

            await run_checkpointer(settings, control, stopping)


if __name__ == "__main__":
    sys.exit(main())
