"""Small real ledgers on disk, for tests that read, verify or spoil them."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extproc.adapters.checkpoint_key import FileSigner, signer_of
from extproc.adapters.checkpointer import Checkpointer
from extproc.adapters.ledger_files import LedgerWriter
from extproc.domain.record import INTENT, OUTCOME, Record
from extproc.ledger.checkpoint import Clock
from extproc.ledger.lines import RESERVED, Chain

START = 1_795_456_200.0
KEY = signer_of(Ed25519PrivateKey.from_private_bytes(b"\x07" * 32))
OTHER_KEY = signer_of(Ed25519PrivateKey.from_private_bytes(b"\x08" * 32))


class Ticking:
    """A clock that moves a millisecond with every look."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def counted_salts() -> Callable[[int], bytes]:
    """Different salts, the same in every run."""
    count = iter(range(1 << 30))
    return lambda size: next(count).to_bytes(4, "big").rjust(size, b"s")


def open_writer(directory: Path, name: str = "worker0-a-1", **settings: Any) -> LedgerWriter:
    """A writer that syncs only when told to."""
    settings.setdefault("clock", Ticking())
    settings.setdefault("random_bytes", counted_salts())
    return LedgerWriter(directory, writer_id=name, sync_interval=None, **settings)


def kill(writer: LedgerWriter) -> None:
    """What the kernel does when a writer's process dies: its descriptors close, and nothing is said."""
    writer._release()


def intent(number: int, **fields: Any) -> Record:
    """An allowed request with a payload."""
    kept = {
        "decision_id": f"d{number}",
        "session_id": f"s{number}",
        "target": "customers-api",
        "protocol": "http",
        "verdict": "allow",
        "code": "allowed",
        "principal": {"issuer": "https://issuer.example", "subject": f"agent-{number}", "kind": "agent"},
        "request": {"method": "GET", "host": "api.example", "path": f"/customers/{number}"},
        "rules": [{"rule": "readers", "digest": "ab" * 32, "effect": "allow"}],
        "risk": 0,
        "policy": "cd" * 32,
        "trace": {"trace_id": f"{number + 1:032x}", "parent_span_id": ""},
        "span_id": f"{number + 1:016x}",
    }
    return Record(INTENT, START + number, kept | fields, {"request": b'{"body":"masked %d"}' % number})


def outcome(number: int, **fields: Any) -> Record:
    """How that request ended."""
    kept = {
        "decision_id": f"d{number}",
        "session_id": f"s{number}",
        "executed": True,
        "end": "complete",
        "duration_us": 1500,
        "response": {"code": 200, "inspected": "full", "masked": {"EMAIL_ADDRESS": 2}},
        "trace": {"trace_id": f"{number + 1:032x}", "parent_span_id": ""},
        "span_id": f"{number + 1:016x}",
    }
    return Record(OUTCOME, START + number + 0.25, kept | fields)


def fill(writer: LedgerWriter, exchanges: int, first: int = 0) -> None:
    """Two records and one commit for each exchange."""
    for number in range(first, first + exchanges):
        writer.append(intent(number))
        writer.append(outcome(number))
        writer.commit()


def open_checkpointer(directory: Path, signer: FileSigner = KEY, **settings: Any) -> Checkpointer:
    """A checkpointer that signs when asked."""
    settings.setdefault("clock", Ticking(START + 10_000))
    return Checkpointer(directory, signer, clock_state=lambda: Clock("kernel", -132), **settings)


def read_all(checkpointer: Checkpointer) -> None:
    """Look until nothing is left to read."""
    while checkpointer.look():
        pass


def sign_now(directory: Path, signer: FileSigner = KEY) -> None:
    """One checkpoint over everything."""
    checkpointer = open_checkpointer(directory, signer)
    read_all(checkpointer)
    checkpointer.sign()
    checkpointer.close()


def line_files(directory: Path) -> list[Path]:
    """All line segments in order."""
    return sorted(directory.glob("*/*.jsonl"))


def lines_of(directory: Path) -> list[bytes]:
    """All lines of the only segment."""
    (path,) = line_files(directory)
    return path.read_bytes().splitlines()


def put_lines(directory: Path, lines: list[bytes]) -> None:
    """Write the only segment anew."""
    (path,) = line_files(directory)
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def forge(lines: list[bytes], at: int) -> bytes:
    """A well-formed record that continues the one before `at`."""
    chain = Chain("worker0-a-1", at, sha256(lines[at - 1]).hexdigest())
    return chain.encode("intent", START, {"verdict": "deny"})


def rechain(lines: list[bytes], start: int) -> list[bytes]:
    """Records from `start` on written anew, so that the chain is whole again."""
    chain = Chain("worker0-a-1", start, sha256(lines[start - 1]).hexdigest())
    made = []
    for line in lines[start:]:
        record = orjson.loads(line)
        fields = {name: value for name, value in record.items() if name not in RESERVED}
        made.append(chain.encode(record["kind"], START, fields))
    return lines[:start] + made
