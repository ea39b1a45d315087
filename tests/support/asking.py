"""A question that may wait for its answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Asking(threading.Thread):
    """A statement that may wait, in a thread of its own."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.result: Any = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except Exception as error:
            self.error = error

    def finish(self) -> Any:
        self.join(40)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.result
