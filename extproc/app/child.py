"""`python -m extproc.app.child KIND`: what the supervisor starts. Not a command for people."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from extproc.adapters.control import Control
from extproc.app.logs import set_up_logs
from extproc.app.loops import loop_factory
from extproc.app.memory import settle_memory, start_loading
from extproc.config import Settings, load_config

Job = Callable[[Control, asyncio.Event], Awaitable[None]]
"""It runs until the event is set, or the supervisor at the other end is gone."""


def main() -> int:
    """Run one child until its supervisor goes or says so."""
    start_loading()
    parser = argparse.ArgumentParser(prog="extproc.app.child")
    parser.add_argument("kind", choices=("worker", "approvals", "exporter", "checkpointer", "metrics"))
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--kept", type=Path, required=True)
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--bundle", type=Path, default=Path())
    parser.add_argument("--listener", type=int, action="append", default=[])
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
    await _job(arguments, settings)(control, stopping)


def _job(arguments: argparse.Namespace, settings: Settings) -> Job:
    """What a child of this kind does. Nothing that only others need is imported."""
    match arguments.kind:
        case "worker":
            from extproc.app.worker import Worker

            worker = Worker(settings, arguments.index, arguments.bundle, arguments.listener)
            return worker.run  # it settles by itself, once it can serve
        case "approvals":
            from extproc.app.approvals import run_approvals

            job: Job = partial(run_approvals, settings)
        case "exporter":
            from extproc.app.exporting import run_exporter

            job = partial(run_exporter, settings)
        case "metrics":
            from extproc.app.metering import run_metrics

            job = partial(run_metrics, settings, began=arguments.began)
        case _:
            from extproc.app.checkpointing import run_checkpointer

            job = partial(run_checkpointer, settings)
    settle_memory()
    return job


if __name__ == "__main__":
    sys.exit(main())
