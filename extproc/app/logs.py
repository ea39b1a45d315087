"""Structured logs: JSON lines to stderr, or readable text where a person looks on."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _without_rich() -> Iterator[None]:
    """structlog imports rich where it finds it, for tracebacks that we never print: half of its own import."""
    modules: dict[str, object] = sys.modules  # type: ignore[assignment]
    if "rich" in modules:
        yield
        return
    modules["rich"] = None  # as if it were not installed
    try:
        yield
    finally:
        del modules["rich"]


with _without_rich():
    import structlog

MAX_FAULTS = 5
MAX_PLACES = 12
"""Exceptions of a chain, and frames of each, that a log line names."""


def set_up_logs(process: str) -> None:
    """One format for all processes; `process` says which one speaks. Nothing secret is ever an argument."""
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_text,
            _named(process),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _without_text(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Exceptions by type and place, the outermost first; their text may quote what must stay hidden."""
    raised = event.pop("exc_info", None)
    error = raised if isinstance(raised, BaseException) else sys.exc_info()[1] if raised else None
    faults: list[dict[str, object]] = []
    while error is not None and len(faults) < MAX_FAULTS:
        places = traceback.extract_tb(error.__traceback__)[-MAX_PLACES:]
        at = [f"{place.filename}:{place.lineno} {place.name}" for place in places]
        faults.append({"type": type(error).__name__, "at": at})
        error = error.__cause__ or error.__context__
    if faults:
        event["faults"] = faults
    return event


def _named(process: str) -> structlog.typing.Processor:
    def add(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    return add
