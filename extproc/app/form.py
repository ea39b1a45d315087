"""Whether the request path runs compiled or interpreted; both forms are made of the same sources (ADR 18)."""

from __future__ import annotations

import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES

PATH = "extproc.servers.ext_proc"
"""A module that is compiled whenever any is."""


def is_compiled() -> bool:
    """Whether this process has the compiled request path. Imports nothing of it."""
    found = importlib.util.find_spec(PATH)
    return found is not None and (found.origin or "").endswith(tuple(EXTENSION_SUFFIXES))


__all__ = ["is_compiled"]
