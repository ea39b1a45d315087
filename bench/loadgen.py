"""A small HTTP/1.1 load generator on raw asyncio transports, and CPU time of process trees from /proc.

Two shapes of load. Closed loop: `connections` clients, each sends again when it was answered; it finds the
throughput. Open loop: requests start at fixed times whatever the answers do, and latency counts from the time a
request was due, so that a stalled server is not flattered (coordinated omission).

The generator shares the machine with what it measures: its own CPU time is reported beside.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MAX_HEAD = 65536
_TICKS = os.sysconf("SC_CLK_TCK")

Requests = Callable[[int], bytes]
"""The raw bytes of request number n, counted from 0."""


@dataclass(slots=True)
class LoadResult:
    """What came of a run. Latencies in seconds, one for each request answered in full."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    own_cpu: float = 0.0
    """CPU seconds of the generator's own process."""

    @property
    def answered(self) -> int:
        """Requests answered in full, whatever the status."""
        return len(self.latencies)

    @property
    def failed(self) -> int:
        """Requests that got no whole answer, or none in time."""
        return sum(self.errors.values())

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """Seconds below which `share` (0 to 1) of the latencies lie, nearest rank; 0 without any."""
        if not self.latencies:
            return 0.0
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1e6) * len(ordered) // 10**6) - 1))]

    def to_json(self) -> dict[str, object]:
        """For result files: times in milliseconds."""
        return {
            "seconds": round(self.seconds, 3),
            "answered": self.answered,
            "failed": self.failed,
            "rate": round(self.rate, 1),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "errors": dict(sorted(self.errors.items())),
            "latency_ms": {
                name: round(self.percentile(share) * 1000, 3)
                for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))
            },
            "generator_cpu_seconds": round(self.own_cpu, 3),
        }


async def closed_loop(
    address: str,
    requests: Requests | bytes,
    *,
    connections: int,
    count: int | None = None,
    seconds: float | None = None,
    timeout: float = 30.0,
    into: LoadResult | None = None,
) -> LoadResult:
    """`connections` clients send one request after the other until `count` were started or `seconds` are over.

    A connection that breaks or exceeds `timeout` counts one error and is opened again. `into`: the result, for who
    cancels this and wants what was found until then.
    """
    if (count is None) == (seconds is None):
        raise ValueError("give either count or seconds")
    make = requests if callable(requests) else _always(requests)
    result = LoadResult() if into is None else into
    numbers = itertools.count()
    started, own = time.perf_counter(), time.process_time()
    until = started + (seconds if seconds is not None else float("inf"))

    async def client() -> None:
        connection = Connection(address)
        try:
            while (number := next(numbers)) < (count if count is not None else float("inf")):
                if time.perf_counter() >= until:
                    return
                begun = time.perf_counter()
                await _one(connection, make(number), begun, timeout, result)
        finally:
            connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(client())
    result.seconds = time.perf_counter() - started
    result.own_cpu = time.process_time() - own
    return result


async def open_loop(
    address: str,
    requests: Requests | bytes,
    *,
    rate: float,
    seconds: float,
    connections: int,
    timeout: float = 30.0,
) -> LoadResult:
    """Start `rate` requests a second for `seconds`, over at most `connections` kept-alive connections.

    A request that finds no idle connection waits its turn; the wait is part of its latency.
    """
    if rate <= 0:
        raise ValueError("rate must be above 0")
    make = requests if callable(requests) else _always(requests)
    result = LoadResult()
    due: deque[tuple[int, float]] = deque()
    ready = asyncio.Semaphore(0)
    total = int(rate * seconds)
    started, own = time.perf_counter(), time.process_time()

    async def client() -> None:
        connection = Connection(address)
        try:
            while True:
                await ready.acquire()
                if not due:
                    return
                number, begun = due.popleft()
                await _one(connection, make(number), begun, timeout, result)
        finally:
            connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(client())
        for number in range(total):
            at = started + number / rate
            if (left := at - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            due.append((number, at))
            ready.release()
        for _ in range(connections):  # an empty queue ends a client, once every request before it was taken
            ready.release()
    result.seconds = time.perf_counter() - started
    result.own_cpu = time.process_time() - own
    return result


class Connection:
    """One kept-alive connection to `host:port` or `unix:/path`, opened when first needed."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._protocol: _Replies | None = None

    async def ask(self, request: bytes) -> int:
        """Send and return the status once the whole reply is here. Raises OSError and ValueError."""
        loop = asyncio.get_running_loop()
        if self._protocol is None or self._protocol.is_over:
            if self._address.startswith("unix:"):
                _, self._protocol = await loop.create_unix_connection(
                    _Replies, self._address.removeprefix("unix:")
                )
            else:
                host, _, port = self._address.rpartition(":")
                _, self._protocol = await loop.create_connection(_Replies, host, int(port))
        return await self._protocol.ask(request, loop.create_future())

    def close(self) -> None:
        """Drop the connection; the next request opens another."""
        if self._protocol is not None:
            self._protocol.abort()
            self._protocol = None


class _Replies(asyncio.Protocol):
    """Reads one reply at a time: a length, chunks, or until close."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[int] | None = None
        self._buffer = bytearray()
        self._no_body = False
        self._status = 0
        self._left = -1
        """Bytes of the body still to come; -1 before the head, -2 for chunks, -3 until close."""
        self.is_over = False

    def ask(self, request: bytes, future: asyncio.Future[int]) -> asyncio.Future[int]:
        assert self._transport is not None
        self._waiting = future
        self._no_body = request.startswith(b"HEAD ")
        self._transport.write(request)
        return future

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self.is_over = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            while self._advance():
                pass
        except ValueError as error:
            self._fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_over = True
        if self._left == -3:
            self._done()
        else:
            self._fail(error if isinstance(error, OSError) else ConnectionError("closed early"))

    def _advance(self) -> bool:
        """Consume what is whole. True when there may be more to consume."""
        if self._left == -1:
            return self._read_head()
        if self._left >= 0:
            taken = min(self._left, len(self._buffer))
            del self._buffer[:taken]
            self._left -= taken
            if self._left == 0:
                self._done()
            return False
        if self._left == -2:
            return self._read_chunk()
        self._buffer.clear()
        return False

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise ValueError("the reply's head is too large")
            return False
        head = bytes(self._buffer[:end]).lower()
        del self._buffer[: end + 4]
        if not head.startswith(b"http/1.") or not head[9:12].isdigit():
            raise ValueError("the reply is not HTTP/1")
        self._status = int(head[9:12])
        if self._status < 200:
            return True
        fields = dict(line.partition(b":")[::2] for line in head.split(b"\r\n")[1:])
        if self._no_body or self._status in (204, 304):
            self._left = 0
        elif b"chunked" in fields.get(b"transfer-encoding", b""):
            self._left = -2
        elif b"content-length" in fields:
            self._left = int(fields[b"content-length"])
        else:
            self._left = -3
        if b"close" in fields.get(b"connection", b""):
            self.is_over = True
        return True

    def _read_chunk(self) -> bool:
        line = self._buffer.find(b"\r\n")
        if line < 0:
            return False
        size = int(bytes(self._buffer[:line]).partition(b";")[0], 16)
        if size:
            if len(self._buffer) < line + 2 + size + 2:
                return False
            del self._buffer[: line + 2 + size + 2]
            return True
        if self._buffer.startswith(b"\r\n", line + 2):
            end = line + 4
        else:  # trailers
            trailers = self._buffer.find(b"\r\n\r\n", line)
            if trailers < 0:
                return False
            end = trailers + 4
        del self._buffer[:end]
        self._done()
        return False

    def _done(self) -> None:
        self._left = -1
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self._status)

    def _fail(self, error: Exception) -> None:
        self.abort()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


async def _one(
    connection: Connection, request: bytes, begun: float, timeout: float, result: LoadResult
) -> None:
    try:
        async with asyncio.timeout(timeout):
            status = await connection.ask(request)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        connection.close()
        result.errors[type(error).__name__] += 1
        if isinstance(error, ConnectionRefusedError):
            await asyncio.sleep(0.01)  # nobody listens: do not spin
        return
    result.latencies.append(time.perf_counter() - begun)
    result.statuses[status] += 1


def _always(request: bytes) -> Requests:
    return lambda _: request


# -- CPU time


class CpuMeter:
    """CPU seconds of named process trees between `__enter__` and `__exit__`.

    A tree is a process and its descendants. Processes named on their own are not counted again in a tree
    above them, so exporter and checkpointer can stand beside the service that started them. Linux only.
    """

    def __init__(self, trees: Mapping[str, int | Sequence[int]]) -> None:
        self._trees = {name: [pids] if isinstance(pids, int) else list(pids) for name, pids in trees.items()}
        self._before: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        """User and system time by name, filled on exit; ticks of 10 ms on most systems."""

    def __enter__(self) -> CpuMeter:
        self._before = self.read()
        return self

    def __exit__(self, *_: object) -> None:
        after = self.read()
        self.seconds = {name: max(0.0, after[name] - self._before[name]) for name in self._trees}

    def per_request(self, answered: int) -> dict[str, float]:
        """Microseconds of CPU for each answered request, by name."""
        return {name: used * 1e6 / answered if answered else 0.0 for name, used in self.seconds.items()}

    def read(self) -> dict[str, float]:
        """CPU seconds so far, by name."""
        named = {pid for pids in self._trees.values() for pid in pids}
        return {
            name: sum(cpu_seconds(pid) for root in pids for pid in tree_of(root, without=named - {root}))
            for name, pids in self._trees.items()
        }


def tree_of(root: int, *, without: Iterable[int] = ()) -> list[int]:
    """The process ids of a process and its living descendants, leaving out `without` and what is below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    skipped, found, waiting = set(without), [], [root]
    while waiting:
        pid = waiting.pop()
        if pid not in skipped:
            skipped.add(pid)
            found.append(pid)
            waiting += children.get(pid, [])
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of one process with that of its children that ended; 0 when it is gone."""
    fields = _stat(pid)
    # utime, stime, cutime, cstime are fields 14 to 17 of proc_pid_stat(5); ours begin with field 3
    return sum(int(value) for value in fields[11:15]) / _TICKS if fields is not None else 0.0


def memory_bytes(pid: int) -> int:
    """Resident memory of one process; 0 when it is gone."""
    fields = _stat(pid)
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE") if fields is not None else 0


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()
