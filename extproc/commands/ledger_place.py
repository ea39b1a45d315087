"""Where the ledger is, and the record of who read it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from extproc.config import Settings
from extproc.domain.errors import LedgerUnavailableError
from extproc.ledger.sealing import KeyRing

DEFAULT_CONFIG = Path("extproc.yaml")

dir_option = click.option(
    "--dir", "directory", type=click.Path(path_type=Path), help="The ledger's directory, or a copy of it."
)
config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="extproc.yaml that names it (default: ./extproc.yaml)."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


class Place:
    """Where the ledger is: `--dir`, or what the configuration says."""

    def __init__(self, directory: Path | None, config: Path | None) -> None:
        self._directory = directory
        self._config = config

    def find(self) -> Path:
        """The directory. Exits with 2 on a bad configuration and with 3 if there is no ledger."""
        directory = self._directory or self.settings().ledger.directory
        if not directory.is_dir():
            click.echo(f"{directory}: no ledger there", err=True)
            sys.exit(3)
        return directory

    def settings(self) -> Settings:
        """What the configuration says. Exits with 2 on a bad one."""
        from extproc.config import load_config
        from extproc.domain.errors import ConfigError

        try:
            return load_config(self._config or DEFAULT_CONFIG)
        except ConfigError as mistake:
            raise click.UsageError(f"{mistake}\nSay where the ledger is with --dir or --config.") from None

    def ring(self) -> KeyRing | None:
        """The keys that open payloads: of the configuration that was named, or that names the ledger.

        None with `--dir` alone: sealed payloads stay sealed. Exits with 2 for keys that cannot be had.
        """
        from extproc.app.payload_keys import payload_ring
        from extproc.domain.errors import ConfigError

        if self._directory is not None and self._config is None:
            return None
        try:
            return payload_ring(self.settings())
        except ConfigError as mistake:
            raise click.UsageError(str(mistake)) from None

    def note(self, kind: str, fields: Mapping[str, Any], payloads: Mapping[str, bytes] | None = None) -> None:
        """Record a reading of the service's own ledger before anything is shown; exits with 3 if that fails.

        With `--dir` nothing is written: it names files, possibly a copy that must stay as it is.
        """
        if self._directory is not None:
            return
        from extproc.app.ledgers import open_ledger
        from extproc.domain.record import Record

        try:
            ledger = open_ledger(self.settings(), "reader")
            try:
                ledger.append(
                    Record(kind, time.time(), {"by": {"uid": os.getuid()}, **fields}, payloads or {})
                )
                ledger.commit()
            finally:
                ledger.close()
        except LedgerUnavailableError as failure:
            click.echo(f"this cannot be recorded, so nothing is done: {failure}", err=True)
            sys.exit(3)


def parse_moment(text: str, now: float) -> float:
    """`7d` (before now), `2026-11-23` or RFC 3339 → Unix seconds. Raises click.BadParameter."""
    from extproc.config.units import parse_duration

    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f'"{text}" is no time; write 7d, 2026-11-23 or 2026-11-23T17:50:00Z'
        ) from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
