"""From a file to `Settings`: parse, read, check; every mistake told at once with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from extproc.config import document, shape
from extproc.config.checks import check
from extproc.config.document import InvalidConfigError, Place, Problem
from extproc.config.settings import Settings
from extproc.config.units import Address, StoreLocation, absolute

_STATE_DEFAULTS: tuple[tuple[Place, str], ...] = (
    (("processor", "listen"), "run/processor.sock"),
    (("processor", "relay"), "run/relay.sock"),
    (("approvals", "listen"), "run/approvals.sock"),
    (("envoy", "admin"), "run/envoy-admin.sock"),
    (("holds", "store"), "holds.db"),
    (("ledger", "directory"), "ledger"),
)
"""Where things are kept when the file does not say: below `state`."""


def load_config(path: Path | str, kept: Path | None = None) -> Settings:
    """Read and check a configuration file.

    Relative paths in it start at its own folder. Secrets are not read. `kept` has the text as it was when it came
    into force: it counts, and the file may have changed since.
    Raises InvalidConfigError (a ConfigError) that lists every mistake as `file:line:column: place: what`.
    """
    file = Path(path)
    return parse_config(document.read_text(kept or file), file=str(path), base=file.absolute().parent)


def parse_config(text: str, *, file: str = "extproc.yaml", base: Path) -> Settings:
    """As `load_config`, for text that is already at hand."""
    root, problems = document.parse(text, file)
    settings, reader = shape.read(root, Settings, base)
    problems += reader.problems
    if problems:
        raise InvalidConfigError(file, sorted(problems, key=_order))
    settings = _below_state(settings, reader, base)
    findings = [Problem(message, place, reader.mark_of(place)) for place, message in check(settings)]
    if findings:
        raise InvalidConfigError(file, sorted(findings, key=_order))
    assert isinstance(settings, Settings)  # noqa: S101
    return settings


def _below_state(settings: Any, reader: shape.Reader, base: Path) -> Any:
    state = settings.state if ("state",) in reader.marks else absolute("state", base)
    settings = msgspec.structs.replace(settings, state=state)
    for (branch, name), below in _STATE_DEFAULTS:
        if (branch, name) in reader.marks:
            continue
        part = getattr(settings, str(branch))
        now = getattr(part, str(name))
        path = state / below
        value = type(now)(path=path) if isinstance(now, Address | StoreLocation) else path
        part = msgspec.structs.replace(part, **{str(name): value})
        settings = msgspec.structs.replace(settings, **{str(branch): part})
    return settings


def _order(problem: Problem) -> tuple[int, int]:
    return (problem.mark.line, problem.mark.column) if problem.mark else (0, 0)
