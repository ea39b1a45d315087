"""One canary run: a request through the gateway, and a look at everything that it left behind."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from extproc.adapters.ledger_payloads import Payloads
from extproc.adapters.ledger_scan import all_lines
from extproc.domain.errors import ExtprocError
from extproc.domain.record import INTENT, OUTCOME
from extproc.ledger.canary import Canary, canaries_of, seen_in
from extproc.ledger.lines import Line
from extproc.ledger.sealing import KeyRing

MAX_ANSWER = 8 << 20
CHUNK = 1 << 20
POLL = 0.2
BEFORE_US = 5_000_000
"""Microseconds by which a worker's clock may be behind ours."""


class CanaryError(ExtprocError):
    """A run that cannot be made."""


@dataclass(frozen=True, slots=True)
class Run:
    """What to send. `known` are values that the target itself holds and that must not come out of it."""

    url: str
    method: str = "POST"
    token: str = ""
    known: tuple[str, ...] = ()
    also: tuple[Path, ...] = ()
    wait: float = 10.0


def run_canary(directory: Path, run: Run, ring: KeyRing | None = None) -> dict[str, Any]:
    """Fields of an `evidence.canary` record. Raises CanaryError where nothing answers, and OSError."""
    seed, name = secrets.token_hex(16), f"cny_{secrets.token_hex(16)}"
    planted = tuple(
        one for one in canaries_of(seed) if one.place != "body" or run.method not in ("GET", "HEAD")
    )
    known = tuple(Canary(f"value {number}", "answer", value) for number, value in enumerate(run.known, 1))
    sought = planted + known
    began_us = int(time.time() * 1_000_000)
    status, answer = _send(run, planted, name)
    ours = _wait_for(directory, name, began_us, run.wait)
    looked = [_look("answer", [answer], sought)]
    records, payloads, closed = _kept(directory, began_us, Payloads(directory, ring))
    looked += [_look("records", records, sought), _look("payloads", payloads, sought)]
    for path in run.also:
        looked.append(_look(path.name, _file(path), sought))
    intent, outcome = ours.get(INTENT), ours.get(OUTCOME)
    return {
        "seed": seed,
        "run": name,
        "status": status,
        "method": run.method,
        "target": str(intent.fields.get("target", "")) if intent is not None else "",
        "verdict": str(intent.fields.get("verdict", "")) if intent is not None else "",
        "exchange": f"{intent.writer}:{intent.seq}" if intent is not None else "",
        "recorded": intent is not None and outcome is not None,
        "masked": _masked(outcome),
        "planted": [{"entity": one.kind, "place": one.place} for one in planted],
        "known": len(known),
        "looked": looked,
        "unreadable_payloads": closed,
    }


def _send(run: Run, planted: tuple[Canary, ...], name: str) -> tuple[int, bytes]:
    """The status, and the whole answer with its headers. The run's name in the query finds the record of it."""
    by_place: dict[str, dict[str, str]] = {}
    for one in planted:
        by_place.setdefault(one.place, {})[one.kind.lower()] = one.value
    query = {"canary": name, **by_place["query"]}
    headers = {f"x-canary-{kind.replace('_', '-')}": value for kind, value in by_place["header"].items()}
    headers["prefer"] = "hold=async"
    if run.token:
        headers["authorization"] = f"Bearer {run.token}"
    try:
        with (
            httpx2.Client(timeout=30.0, trust_env=False, follow_redirects=False) as client,
            client.stream(
                run.method,
                httpx2.URL(run.url).copy_merge_params(query),
                headers=headers,
                json=by_place.get("body"),
            ) as reply,
        ):
            parts, size = [repr(reply.headers.multi_items()).encode()], 0
            for part in reply.iter_bytes():
                size += len(part)
                if size > MAX_ANSWER:
                    raise CanaryError(f"the answer is longer than {MAX_ANSWER} bytes")
                parts.append(part)
    except (httpx2.HTTPError, httpx2.InvalidURL) as failure:
        raise CanaryError(f"nothing answers: {type(failure).__name__}") from None
    return reply.status_code, b"".join(parts)


def _wait_for(directory: Path, name: str, began_us: int, seconds: float) -> dict[str, Line]:
    """The records of our request by kind, as soon as its end is there or the time is over."""
    end = time.monotonic() + seconds
    while True:
        found: dict[str, Line] = {}
        for line in all_lines(directory, since_us=began_us):
            if line.kind == INTENT and name in str(line.fields.get("request")):
                found[INTENT] = line
            elif line.kind == OUTCOME and INTENT in found and _decision(line) == _decision(found[INTENT]):
                return {**found, OUTCOME: line}
        if time.monotonic() >= end:
            return found
        time.sleep(POLL)


def _decision(line: Line) -> str:
    return str(line.fields.get("decision_id", ""))


def _kept(directory: Path, began_us: int, files: Payloads) -> tuple[list[bytes], list[bytes], int]:
    """Records and payloads since then, whoever they are of, and how many payloads could not be read."""
    records, payloads, closed = [], [], 0
    for line in all_lines(directory, since_us=began_us):
        if line.at_us < began_us - BEFORE_US:
            continue
        records.append(json.dumps(line.fields, ensure_ascii=False).encode())
        for name in line.payloads:
            found = files.read(line, name)
            payloads.append(found.body)
            closed += found.state != "good"
    return records, payloads, closed


def _file(path: Path) -> Iterator[bytes]:
    """A file in pieces that overlap by more than a canary is long. Raises OSError."""
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield rest + chunk
            rest = chunk[-1024:]


def _look(where: str, parts: list[bytes] | Iterator[bytes], sought: tuple[Canary, ...]) -> dict[str, Any]:
    found: dict[str, None] = {}
    size = 0
    for part in parts:
        size += len(part)
        found.update(dict.fromkeys(seen_in(part, sought)))
    return {"where": where, "bytes": size, "found": list(found)}


def _masked(outcome: Line | None) -> int:
    """Values that were masked in the answer."""
    response: Any = outcome.fields.get("response") if outcome is not None else None
    counts: Any = response.get("masked") if isinstance(response, Mapping) else None
    return sum(counts.values()) if isinstance(counts, Mapping) else 0
