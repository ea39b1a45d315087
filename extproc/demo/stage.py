"""How the demo tells its story: acts, checks that fail the demo, waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

PATIENCE = 20.0
"""Seconds until something that must happen counts as not happened."""


class DemoError(Exception):
    """The demo did not do what it promises."""


def expect(truth: bool, what: str) -> None:
    """Every act checks what it shows: a demo that lies is worse than none. Raises DemoError."""
    if not truth:
        raise DemoError(what)
    click.secho(f"   ✓ {what}", fg="green")


def until(ready: Callable[[], Any], what: str) -> Any:
    """Poll until `ready` gives something. Raises DemoError."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(0.05)
    raise DemoError(f"{what}: not within {PATIENCE:.0f} s")


def act(number: int, title: str) -> None:
    """The heading of an act."""
    click.echo()
    click.secho(f"{number}. {title}", bold=True)


def indent(text: str) -> str:
    """A text as a block."""
    return "\n".join(f"   │ {line}" for line in text.splitlines())
