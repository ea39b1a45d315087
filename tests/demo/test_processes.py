"""Children start, are waited for, explain themselves and leave nobody behind."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from extproc.demo import processes
from extproc.demo.processes import (
    EnvoyMissingError,
    Processes,
    StartError,
    accepts,
    answers_ok,
    envoy_binary,
    start,
    wait_until,
)
from tests.support.ports import given_by_the_kernel

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    "print(p.pid, flush=True); time.sleep(60)",
]


def said(log: Path) -> bool:
    return log.exists() and log.read_text().endswith("\n")


def test_free_ports_differ():
    assert len(set(given_by_the_kernel(20))) == 20


def test_a_child_gets_its_environment_and_logs_to_its_file(tmp_path: Path):
    command = [sys.executable, "-c", "import os, sys; print(os.environ['WORD']); sys.exit(7)"]
    child = start("child", command, log=tmp_path / "deep" / "child.log", environment={"WORD": "canary"})
    assert child.wait(15) == 7
    assert child.log_tail() == "canary"


def test_a_program_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(StartError, match=r"api cannot be started: /no/such/program"):
        start("api", ["/no/such/program"], log=tmp_path / "log")


def test_a_child_that_ends_early_is_reported_with_its_log(tmp_path: Path):
    command = [sys.executable, "-c", "import sys; print('bad settings'); sys.exit(3)"]
    child = start("child", command, log=tmp_path / "child.log")
    with pytest.raises(StartError, match=r"(?s)child ended with status 3 before it is ready.*bad settings"):
        wait_until(lambda: False, within=15, what="it is ready", process=child)


def test_a_deadline_is_kept_and_explained(tmp_path: Path):
    log = tmp_path / "other.log"
    log.write_text("still loading\n")
    with pytest.raises(StartError, match=r"(?s)it is ready: not within 0 s.*still loading"):
        wait_until(lambda: False, within=0, what="it is ready", logs=[log])


def test_leaving_the_block_stops_everybody_in_reverse_order(tmp_path: Path):
    order: list[str] = []
    with Processes() as run:
        first = run.add(start("first", SLEEPER, log=tmp_path / "1.log"))
        run.on_exit(lambda: order.append(f"first runs: {first.is_running}"))
        second = run.add(start("second", STUBBORN, log=tmp_path / "2.log"))
        wait_until(lambda: said(second.log), within=15, what="second is up", process=second)
        second.send(signal.SIGTERM)
        assert second.is_running
        second.kill()
    assert order == ["first runs: True"]
    assert (first.returncode, second.returncode) == (-signal.SIGTERM, -signal.SIGKILL)


def test_a_stubborn_child_is_killed_when_its_grace_is_over(tmp_path: Path):
    child = start("stubborn", STUBBORN, log=tmp_path / "log")
    wait_until(lambda: said(child.log), within=15, what="it is up", process=child)
    assert child.stop(grace=0.05) == -signal.SIGKILL


def test_grandchildren_go_too(tmp_path: Path):
    child = start("parent", PARENT, log=tmp_path / "log")
    wait_until(lambda: said(child.log), within=15, what="the grandchild is up", process=child)
    grandchild = int(child.log_tail())
    child.stop()
    wait_until(lambda: not is_alive(grandchild), within=10, what="the grandchild is gone")


def test_nobody_answers_at_a_free_port_or_a_missing_socket(tmp_path: Path):
    (port,) = given_by_the_kernel(1)
    assert not accepts(f"127.0.0.1:{port}")
    assert not accepts(f"unix:{tmp_path}/none.sock")
    assert not answers_ok(f"unix:{tmp_path}/none.sock", "/ready")


def test_a_long_log_is_read_from_its_end(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("".join(f"line {n}\n" for n in range(50_000)))
    assert processes.tail(log, 2) == "line 49998\nline 49999"
    assert processes.tail(tmp_path / "none") == ""


def test_envoy_may_be_chosen_and_a_wrong_choice_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("EXTPROC_ENVOY", sys.executable)
    assert envoy_binary() == Path(sys.executable)
    monkeypatch.setenv("EXTPROC_ENVOY", str(tmp_path / "envoy"))
    with pytest.raises(EnvoyMissingError, match="not an executable file"):
        envoy_binary()


def test_a_missing_envoy_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("EXTPROC_ENVOY", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvoyMissingError, match=r"extproc\[demo\]"):
        envoy_binary()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z" and os.getpgid(pid) > 0
