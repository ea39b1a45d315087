"""Where workers listen on TCP. The supervisor holds these sockets, so that one worker after another can take them."""

from __future__ import annotations

import socket

from extproc.config.settings import Processor
from extproc.domain.errors import ConfigError
from extproc.servers.lean_listening import bind_tcp


class Places:
    """For each worker its bound TCP sockets; nothing where workers listen on unix sockets, or by grpcio, which binds
    by itself.
    """

    def __init__(self) -> None:
        self._held: list[list[socket.socket]] = []

    def open(self, processor: Processor) -> None:
        """Bind them all; the workers listen. Raises ConfigError that names the address."""
        if processor.listen.is_unix or processor.transport != "lean":
            return
        for address in processor.addresses:
            try:
                self._held.append(bind_tcp(str(address), has_tls=processor.tls is not None))
            except OSError as error:
                self.close()
                raise ConfigError(
                    f"processor.listen: cannot listen at {address}: {error.strerror}"
                ) from error

    def of(self, index: int) -> tuple[int, ...]:
        """The file descriptors for this worker."""
        return tuple(each.fileno() for each in self._held[index]) if self._held else ()

    def close(self) -> None:
        """Once no worker listens any more, nobody does."""
        for each in self._held:
            for listener in each:
                listener.close()
        self._held.clear()
