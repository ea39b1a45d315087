"""Renders the ready Envoy configurations beside the settings they come from: `x.extproc.yaml` -> `x.envoy.yaml`."""

from __future__ import annotations

import sys
from pathlib import Path

from extproc.commands.render import render_text
from extproc.config import load_config
from extproc.render.bootstrap import envoy_config

ROOT = Path(__file__).parent.parent
FOLDERS = ("envoy", "deploy/compose")
HEADER = "# Rendered by `make envoy` from {source}; change that file instead.\n"


def sources() -> list[Path]:
    """Every settings file that has a ready Envoy configuration."""
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*extproc.yaml"))


def target(source: Path) -> Path:
    """Where the configuration of `source` goes."""
    return source.with_name(source.name.replace("extproc.yaml", "envoy.yaml"))


def rendered(source: Path) -> str:
    """What belongs there."""
    return HEADER.format(source=source.name) + render_text(envoy_config(load_config(source)), "yaml")


def main() -> None:
    for source in sources():
        target(source).write_text(rendered(source))
        sys.stdout.write(f"{target(source).relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
