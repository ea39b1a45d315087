"""When Python looks for cycles among its objects: not while it starts, for what is loaded stays."""

from __future__ import annotations

import gc

YOUNG_OBJECTS = 20_000
"""New objects between two looks, on the request path. Exchanges leave no cycles behind, so there is little to find."""


def start_loading() -> None:
    """Looking again and again at what is being imported takes a tenth of a start. `settle_memory` ends this."""
    gc.disable()


def settle_memory() -> None:
    """What is loaded stays: the collector need not walk it, now or later. Hardly any of it is garbage."""
    gc.freeze()
    gc.enable()


def settle_request_path() -> None:
    """The same for a worker, where the collector then looks seldom."""
    settle_memory()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
