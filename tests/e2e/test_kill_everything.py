"""kill -9 of whatever runs, at any moment, under load: what was acknowledged is in the ledger, and leaves it.

`EXTPROC_KILL_ROUNDS` (8) and `EXTPROC_KILL_SEED` change the run; both are printed.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from extproc.adapters.ledger_scan import all_lines
from extproc.demo.otlp import OtlpReceiver
from extproc.demo.processes import StartError, wait_until
from extproc.ledger.lines import Line, role_of
from tests.e2e.stack import Stack
from tests.support.raw_http import ReplyError

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("EXTPROC_KILL_ROUNDS", "8"))
SEED = int(os.environ.get("EXTPROC_KILL_SEED", "20261129"))
CLIENTS = 3
LONGEST_PEACE = 0.8
"""Seconds between two kills at most."""
VICTIMS = ("worker", "exporter", "checkpointer", "shipper", "supervisor")
POLICY = """\
apiVersion: extproc/v1
kind: Policy
metadata: {name: kill}
target: customers-api
default: deny
rules:
  - name: no
    when: request.url_path.startsWith("/no/")
    then: {deny: {message: "No."}}
  - name: all
    when: request.method == "GET"
    then: {allow: {}}
"""


class Load:
    """Clients that ask without pause, each path once, and remember what was answered by us or through us."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.answered: dict[str, int] = {}
        self.broken: Counter[int | str] = Counter()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, client: int) -> None:
        number, token = 0, ""
        while not self._stopping.is_set():
            if number % 50 == 0:
                token = self._stack.token()  # a run may outlast one
            number += 1
            path = f"/{'no' if number % 7 == 0 else 'yes'}/{client}-{number}"
            try:
                reply = self._stack.request("GET", path, token=token, timeout=10.0)
            except (ReplyError, OSError) as trouble:
                self.broken[type(trouble).__name__] += (
                    1  # Envoy let nothing through, or cut it off: nothing was promised
                )
                continue
            if reply.whole and reply.status in (200, 403):
                with self._lock:
                    self.answered[path] = reply.status
            else:
                self.broken[reply.status] += 1


class Shipper:
    """`extproc ledger ship`, again and again."""

    def __init__(self, stack: Stack) -> None:
        command = [sys.executable, "-m", "extproc.cli", "ledger", "ship", "--config", str(stack.config_path)]
        self._command = command
        self._log = stack.directory / "ship.log"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.running: subprocess.Popen[bytes] | None = None
        self.statuses: Counter[int] = Counter()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        with self._log.open("ab") as log:
            while not self._stopping.is_set():
                self.running = subprocess.Popen(self._command, stdout=log, stderr=log)
                self.statuses[self.running.wait()] += 1
                self._stopping.wait(0.1)

    def kill(self) -> None:
        if self.running is not None:
            self.running.kill()


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, collector: OtlpReceiver) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("kill")
    key = home / "payloads.key"
    key.write_text(secrets.token_hex(32))
    key.chmod(0o600)
    settings: dict[str, Any] = {
        "processor": {"workers": 2},
        "ledger": {
            "segment_bytes": "1MiB",
            "ship": {"url": f"file://{home}/shipped", "payloads": True},
            "encryption": {"keys": [{"id": "k1", "key": {"file": str(key)}}]},
        },
        "telemetry": {"otlp": {"endpoint": collector.grpc_endpoint}},
    }
    (home / "shipped").mkdir()
    with Stack(home, policy=POLICY, settings=settings) as stack:
        yield stack


def kill(stack: Stack, victim: str, shipper: Shipper, chance: random.Random) -> None:
    """kill -9 for one of these; a supervisor is started again, everybody else by their supervisor."""
    if victim == "shipper":
        shipper.kill()
    elif victim == "supervisor":
        assert stack.service is not None
        children = stack.service_pids()
        stack.service.kill()
        wait_until(
            lambda: not set(children) & set(stack.service_pids()),
            what="orphans to stop by themselves",
            within=30.0,
        )
        stack.start_service()
    else:
        pids = stack.service_pids(victim)
        if pids:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)


def everybody_is_back(stack: Stack) -> bool:
    return all(stack.service_pids(kind) for kind in VICTIMS[:3]) and len(stack.service_pids("worker")) == 2


def path_of(line: Line) -> str:
    request = line.fields.get("request")
    return str(request.get("path", "")) if isinstance(request, dict) else ""


def check_acknowledged(lines: list[Line], answered: dict[str, int]) -> None:
    """Each answer that a client has in hand has both records."""
    intents = {path_of(line): line for line in lines if line.kind == "intent"}
    outcomes = {line.fields["decision_id"]: line for line in lines if line.kind == "outcome"}
    for path, status in answered.items():
        assert path in intents, f"{path} was answered with {status} and has no intent"
        intent = intents[path]
        assert intent.fields["verdict"] == ("allow" if status == 200 else "deny"), path
        outcome = outcomes.get(intent.fields["decision_id"])
        assert outcome is not None, f"{path} was answered with {status} and has no outcome"


def sent_hashes(collector: OtlpReceiver) -> dict[str, set[tuple[str, str]]]:
    """Hash of a record → ids of the spans that carry it."""
    found: dict[str, set[tuple[str, str]]] = {}
    for span in collector.spans:
        for name in ("extproc.record.hash", "extproc.outcome.hash"):
            value = span.attributes.get(name)
            if isinstance(value, str):
                found.setdefault(value, set()).add((span.trace_id, span.span_id))
    return found


def test_nothing_that_was_acknowledged_is_lost_whatever_is_killed(
    stack: Stack, collector: OtlpReceiver
) -> None:
    print(f"EXTPROC_KILL_ROUNDS={ROUNDS} EXTPROC_KILL_SEED={SEED}")
    chance = random.Random(SEED)
    victims = [VICTIMS[number % len(VICTIMS)] for number in range(ROUNDS)]
    chance.shuffle(victims)
    load, shipper = Load(stack), Shipper(stack)
    load.start()
    shipper.start()
    try:
        for victim in victims:
            time.sleep(chance.uniform(0.05, LONGEST_PEACE))
            kill(stack, victim, shipper, chance)
            if chance.random() < 0.7:  # the others fall while something is still coming back
                wait_until(lambda: everybody_is_back(stack), what="everybody to be back", within=60.0)
        wait_until(lambda: everybody_is_back(stack), what="everybody to be back", within=60.0)
        some = len(load.answered)
        wait_until(lambda: len(load.answered) > some + 20, what="answers after the last death", within=60.0)
    finally:
        load.stop()
        shipper.stop()
        print(f"{len(load.answered)} answers, others {load.broken}, ship {shipper.statuses}")
    ledger = stack.directory / "state" / "ledger"
    lines = list(all_lines(ledger))
    print(f"{len(lines)} records")
    check_acknowledged(lines, load.answered)
    check_exported(stack, collector, ledger)
    assert stack.service is not None
    stack.service.stop(grace=20.0)
    check_verifiers(stack, ledger)
    check_shipped(stack, ledger)


def is_told_elsewhere(line: Line) -> bool:
    """The end of an exchange as Envoy saw it is no span: the exchange is one (docs/ledger.md)."""
    return line.kind == "access" and line.fields.get("coverage") == "joined"


def check_exported(stack: Stack, collector: OtlpReceiver, ledger: Path) -> None:
    """Every record left at least once, and whoever got it twice can tell: it has the same ids."""
    lines = [line for line in all_lines(ledger) if not is_told_elsewhere(line)]
    hashes = {line.hash for line in lines}
    # an intent that lost its outcome becomes a span 30 seconds after the end of its writer
    with suppress(StartError):  # what is missing is named below
        wait_until(
            lambda: hashes <= sent_hashes(collector).keys(),
            what="every record to be exported",
            within=120.0,
            interval=0.5,
        )
    sent = sent_hashes(collector)
    assert [f"{line.writer}:{line.seq} {line.kind}" for line in lines if line.hash not in sent] == []
    assert {each: ids for each, ids in sent.items() if len(ids) != 1} == {}
    kinds = Counter(line.kind for line in lines)
    assert kinds["intent"] > kinds["outcome"] * 0.9
    assert {role_of(line.writer) for line in lines} >= {"worker0", "worker1", "supervisor", "retention"}


def check_verifiers(stack: Stack, ledger: Path) -> None:
    """Both verifiers are content, the inside of payloads included."""
    key = (ledger / "checkpoint.pub").read_text().strip()
    done = stack.cli(
        "ledger", "verify", "--thorough", "--config", str(stack.config_path), "--key", key, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (ledger / "alarm.json").exists()
    program = stack.directory / "verify.py"
    program.write_text(stack.cli("ledger", "verifier").stdout)
    alone = subprocess.run(
        [sys.executable, "-I", str(program), str(ledger), "--key", key],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert alone.returncode == 0, alone.stdout + alone.stderr


def check_shipped(stack: Stack, ledger: Path) -> None:
    """Whatever the shipper's deaths left behind, the next run makes whole, byte for byte."""
    last = stack.cli("ledger", "ship", "--config", str(stack.config_path), "--check-all", check=False)
    assert (last.returncode, last.stderr) == (0, "")
    copies = stack.directory / "shipped"
    shipped = list(copies.rglob("*.jsonl"))
    assert shipped
    for path in shipped:
        assert path.read_bytes() == (ledger / path.relative_to(copies)).read_bytes()
    assert not list(copies.rglob("*.keys"))
