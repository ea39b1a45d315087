"""Where the governed path spends its time: `python -m bench --profile`.

Messages go through `ProcessStream`, so protobuf, exchange, policy, masking and ledger files all run for real, on
real settings; only gRPC is missing. A timer interrupts the process a thousand times a second and the stack is
counted, which costs little and, unlike a tracing profiler, does not make small functions look large. Shares are
of samples; a share of C code is counted where Python called it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import yaml

from bench.cases import BODIES, CASES, CREDENTIAL, TARGETS, Case
from bench.rig import AUDIENCE, settings_for, write_policies
from extproc.adapters.ledger_files import LedgerWriter
from extproc.adapters.policy_files import read_policies
from extproc.adapters.random_hex import RandomHex
from extproc.app.bundle import load_bundle
from extproc.app.governing import build_governance
from extproc.app.hold_stores import open_holds
from extproc.app.identifying import build_identifier, open_keys
from extproc.app.state_keys import load_state_keys
from extproc.config import load_config
from extproc.demo.issuer import Issuer
from extproc.pipeline import Governance
from extproc.servers.desk import HoldDesk
from extproc.servers.envoy_proto import ATTRIBUTES_KEY, CallMetadata
from extproc.servers.ext_proc import ProcessStream
from extproc.servers.service import Service
from extproc.servers.wire import ext_proc_pb2 as pb

ROOT = str(Path(__file__).resolve().parent.parent) + os.sep
INTERVAL = 0.001
TOP = 22


class Bench:
    """A worker's insides without its transport. `close` it."""

    def __init__(self, directory: Path, targets: Sequence[str]) -> None:
        self._issuer = Issuer(audience=AUDIENCE, algorithms=("RS256",))
        keys_file = directory / "keys.json"
        keys_file.write_bytes(self._issuer.jwks_bytes())
        write_policies(directory / "policies", targets)
        document = settings_for(
            directory,
            targets,
            issuer=self._issuer.issuer,
            upstream="127.0.0.1:9",
            ports=dict.fromkeys(targets, 9),
        )
        for number, listener in enumerate(document["listeners"]):
            listener["address"] = f"127.0.0.1:{10_000 + number}"
        document["identity"]["providers"][0] |= {
            "keys": {"jwks_file": str(keys_file)},
            "insecure_loopback": False,
        }
        config = directory / "extproc.yaml"
        config.write_text(yaml.safe_dump(document))
        os.environ.setdefault("BENCH_CREDENTIAL", CREDENTIAL)
        settings = load_config(config)
        keys = open_keys(settings)
        asyncio.run(keys.refresh_due(time.time()))
        identifier = build_identifier(settings, keys)
        policies = load_bundle(settings, read_policies(list(settings.policies.folders)))
        self.governance: Governance = build_governance(
            settings, policies, load_state_keys(settings.state), identifier
        )
        self.ledger = LedgerWriter(settings.ledger.directory, writer_id="worker-0-bench", clock=time.time)
        self.service = Service(
            governance=self.governance,
            ledger=self.ledger,
            desk=HoldDesk(open_holds(settings), now=time.time, open_waits=1),
            keys=keys,
            now=time.time,
            new_hex=RandomHex(),
        )
        self.token = self._issuer.token(
            "alice",
            groups=["readers", "staff", "emea"],
            kind="human",
            lifetime=3600,
            email="alice@corp.example",
        )

    def close(self) -> None:
        """Let go of the ledger."""
        self.ledger.close()

    def exchange(self, case: Case) -> Callable[[], None]:
        """One whole exchange of a case as a call; it raises AssertionError when extproc answers unexpectedly."""
        messages = messages_of(case, self.token)
        call = CallMetadata(case.target)
        service = self.service

        def once() -> None:
            channel = _Sink()
            stream = ProcessStream(service, call, channel)
            for message in messages[: TARGETS[case.target].messages]:
                stream.receive(message)
                service.flush()
            assert not channel.aborted and channel.sent == TARGETS[case.target].messages, case.name
            stream.closed("half-closed")

        return once


class _Sink:
    """Drops replies."""

    __slots__ = ("aborted", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.aborted = False

    def send(self, reply: bytes) -> None:
        self.sent += 1

    def abort(self, reason: str) -> None:
        self.aborted = True


def messages_of(case: Case, token: str) -> list[bytes]:
    """What Envoy sends for one exchange, in order, with the headers and attributes it adds."""
    first = pb.ProcessingRequest()
    first.protocol_config.request_body_mode = first.protocol_config.response_body_mode = (
        pb.ProcessingMode.BUFFERED
    )
    attributes = first.attributes[ATTRIBUTES_KEY]
    attributes["source.address"] = "127.0.0.1:48210"
    attributes["connection.mtls"] = False
    attributes["xds.route_name"] = f"{case.target}/0/{case.target}"
    asked = [
        (":authority", "api.example"), (":path", case.path), (":method", case.method), (":scheme", "http"),
        ("user-agent", "bench/1"), ("accept", "application/json"), ("accept-encoding", "gzip, br"),
        ("x-area", "north"), ("authorization", f"Bearer {token}"),
        ("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "http"),
        ("x-request-id", "5a4e2c1b-8f3d-4f5e-9a6b-7c8d9e0f1a2b"),
    ]  # fmt: skip
    if case.body is not None:
        asked += [("content-type", "application/json"), ("content-length", str(len(case.body)))]
    _fill(first.request_headers, asked, case.body is None)
    made = [first]
    if case.body is not None:
        body = pb.ProcessingRequest()
        body.request_body.body, body.request_body.end_of_stream = case.body, True
        made.append(body)
    answer = BODIES[case.path]
    head, rest = pb.ProcessingRequest(), pb.ProcessingRequest()
    given = [(":status", "200"), ("content-type", "application/json"), ("content-length", str(len(answer)))]
    _fill(head.response_headers, given, False)
    head.attributes[ATTRIBUTES_KEY]["response.code_details"] = "via_upstream"
    rest.response_body.body, rest.response_body.end_of_stream = answer, True
    return [message.SerializeToString() for message in (*made, head, rest)]


def _fill(part: pb.HttpHeaders, pairs: Sequence[tuple[str, str]], end: bool) -> None:
    fields = pb.HeaderMap()
    for name, value in pairs:
        fields.headers.add(key=name.encode(), raw_value=value.encode())
    part.headers = fields.SerializeToString()
    part.end_of_stream = end


# ---------------------------------------------------------------------- sampling


class Samples:
    """Stacks counted while a timer ran."""

    def __init__(self) -> None:
        self.total = 0
        self.own: Counter[str] = Counter()
        """By function, where it was itself running, C code it called included."""
        self.below: Counter[str] = Counter()
        """By function, with everything it called."""
        self.lines: Counter[str] = Counter()
        self.modules: Counter[str] = Counter()

    def take(self, frame: FrameType | None) -> None:
        """Count one stack, unless the timer interrupted the counting itself."""
        if frame is not None and frame.f_code is _TAKE:
            return
        seen: set[str] = set()
        nearest = False
        first = True
        while frame is not None:
            code = frame.f_code
            path = code.co_filename
            ours = path.startswith(ROOT) and f"{os.sep}.venv{os.sep}" not in path
            name = f"{_short(path)}:{code.co_qualname}"
            if first:
                self.own[name] += 1
                first = False
            if ours and not nearest:
                # a library's time belongs to the line of ours that asked for it
                nearest = True
                self.lines[f"{_short(path)}:{frame.f_lineno} {code.co_name}"] += 1
                self.modules[_short(path)] += 1
            if name not in seen:
                seen.add(name)
                self.below[name] += 1
            frame = frame.f_back
        self.total += 1


_TAKE = Samples.take.__code__


def _short(path: str) -> str:
    if path.startswith(ROOT):
        path = path.removeprefix(ROOT)
    return path.rpartition("site-packages" + os.sep)[2] or path


@contextmanager
def sampling(interval: float = INTERVAL) -> Iterator[Samples]:
    """Count this thread's stacks until the end of the block. Main thread only."""
    samples = Samples()
    before = signal.signal(signal.SIGALRM, lambda _, frame: samples.take(frame))
    signal.setitimer(signal.ITIMER_REAL, interval, interval)
    try:
        yield samples
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sampled(work: Callable[[], None], seconds: float) -> Samples:
    """Run `work` again and again for about `seconds`."""
    for _ in range(50):
        work()
    until = time.perf_counter() + seconds
    with sampling() as samples:
        while time.perf_counter() < until:
            work()
    return samples


def cost(work: Callable[[], None], repeat: int, rounds: int = 5) -> float:
    """CPU seconds of one call: the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(repeat):
            work()
        best = min(best, (time.process_time() - start) / repeat)
    return best


def report(names: Sequence[str], *, seconds: float) -> str:
    """Shares by module, function and line for each case."""
    cases = [case for case in CASES if case.name in names and TARGETS[case.target].mode == "ext_proc"]
    parts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder), sorted({case.target for case in cases}))
        try:
            base = 0.0
            for case in cases:
                once = bench.exchange(case)
                found = sampled(once, seconds)
                spent = cost(once, 200)
                base = base or spent
                parts.append(
                    f"## {case.name}: {case.about}\n\nOne exchange costs {spent / base:.2f} of `{cases[0].name}`, "
                    f"gRPC not counted; {found.total} samples.\n\n"
                    + _table("module of ours, with the libraries it called", found.modules, found.total)
                    + _table("function, with everything it called", found.below, found.total, skip="bench/")
                    + _table("function itself", found.own, found.total)
                    + _table("line of ours, with the libraries it called", found.lines, found.total)
                )
        finally:
            bench.close()
    return "\n".join(parts)


def _table(title: str, counts: Counter[str], total: int, skip: str = "\0") -> str:
    rows = [(name, count) for name, count in counts.most_common() if not name.startswith(skip)][:TOP]
    lines = [f"| share | {title} |", "|---|---|"]
    lines += [f"| {count / max(1, total):.1%} | `{name}` |" for name, count in rows]
    return "\n".join([*lines, "", ""])


__all__ = ["Bench", "Samples", "cost", "messages_of", "report", "sampled", "sampling"]
