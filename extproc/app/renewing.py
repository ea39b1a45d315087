"""Certificates of the processor that somebody renews: whoever connects afterwards is shown the new ones."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from extproc.config.certificates import processor_context, until
from extproc.config.settings import ServerTls
from extproc.domain.errors import ConfigError

log = structlog.get_logger()

LOOK: Final = 10.0
"""Seconds between two looks at the files."""

Stamp = tuple[tuple[int, int, int] | None, ...]
"""Inode, size and time of change of each file, or that it is not there."""


class CertificateWatch:
    """Certificate, key and authorities of one server, as its files have them. They need not change in one step."""

    def __init__(self, tls: ServerTls) -> None:
        """What the files hold now is in use, or about to be."""
        self._tls = tls
        self._used = self._stamp()
        self._refused: Stamp | None = None

    def look(self) -> ssl.SSLContext | None:
        """A context of what the files hold, once that is new and fits together. What cannot be used is told once."""
        stamp = self._stamp()
        if stamp == self._used:
            return None
        try:
            context, ends = processor_context(self._tls), until(self._tls.certificate)
        except Exception as error:  # whatever the files hold, the old goes on, and they are looked at again
            if stamp != self._refused:
                known = isinstance(error, ConfigError)
                log.error("certificate.refused", error=str(error) if known else type(error).__name__)
            self._refused = stamp
            return None
        self._used = stamp
        log.info("certificate.renewed", certificate=str(self._tls.certificate), until=ends)
        return context

    def _stamp(self) -> Stamp:
        return tuple(map(_stamp_of, (self._tls.certificate, self._tls.key, self._tls.client_ca)))


async def keep_renewed(watch: CertificateWatch, use: Callable[[ssl.SSLContext], None]) -> None:
    """Look again and again, for ever; ends by being cancelled."""
    while True:
        await asyncio.sleep(LOOK)
        context = await asyncio.to_thread(watch.look)
        if context is not None:
            use(context)


def _stamp_of(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
