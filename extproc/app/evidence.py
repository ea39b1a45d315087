"""Makes an evidence packet out of a ledger, and leaves a record of it there."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import yaml

from extproc.adapters.checkpoint_key import FileSigner, load_or_create_key
from extproc.adapters.evidence_reader import PayloadShelf, cut_ledger, holds_of, read_notes
from extproc.adapters.ledger_files import LedgerWriter
from extproc.adapters.ledger_payloads import Payloads
from extproc.adapters.ledger_reader import PUBLIC_KEY
from extproc.adapters.ledger_scan import covering_checkpoint
from extproc.app.ledgers import open_ledger
from extproc.config import Settings
from extproc.domain.errors import ExtprocError
from extproc.domain.record import Record
from extproc.ledger.alone import VERIFIER
from extproc.ledger.cut import Cut, about_target
from extproc.ledger.evidence.packet import build_manifest, build_zip, json_lines, sign_manifest, table_files
from extproc.ledger.evidence.page import render_page
from extproc.ledger.evidence.period import Period
from extproc.ledger.evidence.service import sources_of
from extproc.ledger.evidence.tables import build_tables, join
from extproc.ledger.note import NoteError, parse_key
from extproc.ledger.sealing import KeyRing

KEY_NAME = "extproc-evidence"
POLL = 0.1


class EvidenceError(ExtprocError):
    """A packet that cannot be made as it was asked for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants evidence of. Times are RFC 3339 with microseconds, as in lines; sizes in bytes."""

    since: str
    until: str
    target: str = ""
    controls: tuple[str, ...] = ()
    reason: str = ""
    seed: str = ""
    sample: int = 25
    payload_limit: int = 64 << 20


class Custody:
    """The record of an export: opened before anything is read, closed with the packet's hash."""

    def __init__(self, settings: Settings, asked: Asked, packet: str) -> None:
        """Raises LedgerUnavailableError: what cannot be recorded is not exported."""
        self.packet = packet
        self.signer: FileSigner = load_or_create_key(settings.state / "evidence" / "key", KEY_NAME)
        self._ledger: LedgerWriter = open_ledger(settings, "evidence")
        fields: dict[str, Any] = {
            "packet": packet, "key": str(self.signer.key), "by": {"uid": os.getuid()}, "from": asked.since,
            "to": asked.until, "target": asked.target, "controls": list(asked.controls), "reason": asked.reason,
        }  # fmt: skip
        self._ledger.append(Record("evidence.exporting", time.time(), fields))
        self._ledger.commit()
        self.writer = self._ledger.writer_id
        self.seq = 1

    def wait_for_checkpoint(self, directory: Path, seconds: float) -> bool:
        """Until the record is under a checkpoint; False if none comes in time."""
        end = time.monotonic() + seconds
        while covering_checkpoint(directory, self.writer, self.seq) is None:
            if time.monotonic() >= end:
                return False
            time.sleep(POLL)
        return True

    def finish(self, data: bytes, manifest: bytes) -> None:
        """Record what was handed out."""
        digests = {
            "sha256": sha256(data).hexdigest(),
            "manifest": sha256(manifest).hexdigest(),
            "size": len(data),
        }
        self._ledger.append(Record("evidence.exported", time.time(), {"packet": self.packet, **digests}))
        self._ledger.commit()

    def close(self) -> None:
        """Let go of the writer."""
        self._ledger.close()


def export(
    directory: Path,
    asked: Asked,
    settings: Settings | None,
    *,
    wait: float = 15.0,
    ring: KeyRing | None = None,
) -> tuple[str, bytes]:
    """(packet id, zip). With `settings` the export is recorded and signed; without, it is made from a copy.

    `ring` opens sealed payloads; in the packet they are as plain as others.

    Raises EvidenceError, LedgerUnavailableError, CheckpointError, RecordError and OSError; then nothing was made.
    """
    mapping = load_controls(asked.controls)
    packet = f"evd_{secrets.token_hex(8)}"
    custody = Custody(settings, asked, packet) if settings is not None else None
    try:
        if custody is not None:
            custody.wait_for_checkpoint(directory, wait)
        files, facts = _collect(directory, asked, custody, settings, mapping, packet, ring)
        manifest = build_manifest(facts, files)
        files["manifest.json"] = manifest
        if custody is not None:
            files["manifest.note"] = sign_manifest(manifest, packet, custody.signer)
        data = build_zip(files)
        if custody is not None:
            custody.finish(data, manifest)
    finally:
        if custody is not None:
            custody.close()
    return packet, data


def load_controls(wanted: Iterable[str] = ()) -> dict[str, Any]:
    """The mapping, all of it or the controls that are asked for. Raises EvidenceError."""
    text = resources("extproc.ledger.evidence").joinpath("controls.json").read_text("utf-8")
    mapping: dict[str, Any] = json.loads(text)
    names = [name for name in wanted if name]
    known = {control["id"]: control for control in mapping["controls"]}
    unknown = [name for name in names if not any(_covers(title, name) for title in known)]
    if unknown:
        raise EvidenceError(f"no control {', '.join(unknown)}; there are {', '.join(known)}")
    if names:
        mapping["controls"] = [known[one] for one in known if any(_covers(one, name) for name in names)]
    return mapping


def _covers(title: str, name: str) -> bool:
    """`5.12` is part of `5.12 / 5.13`, `5.26` of `5.25 - 5.27`."""
    if name == title or name in title.split(" / "):
        return True
    low, dash, high = title.partition(" - ")
    if not dash:
        return False
    try:
        first, wanted, last = ([int(part) for part in one.split(".")] for one in (low, name, high))
    except ValueError:
        return False
    return first <= wanted <= last


def _collect(
    directory: Path,
    asked: Asked,
    custody: Custody | None,
    settings: Settings | None,
    mapping: Mapping[str, Any],
    packet: str,
    ring: KeyRing | None,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """All files but the manifest, and the manifest's facts."""
    notes = read_notes(directory, asked.since, asked.until)
    cut = Cut(asked.since, asked.until, notes.before, notes.after)
    shown = about_target(asked.target, holds_of(directory, asked.target)) if asked.target else lambda _: True
    found = cut_ledger(directory, cut, shown, custody.writer if custody is not None else "")
    shelf = PayloadShelf(Payloads(directory, ring), asked.payload_limit)
    lines = cut.period
    lines = [
        before[0] for before in (found.policy_before, found.settings_before) if before is not None
    ] + lines
    last = shelf.read(found.policy_last, "sources") if found.policy_last is not None else None
    seed = asked.seed or (sha256(notes.last_raw).hexdigest() if notes.last_raw else packet)
    tables = build_tables(
        Period(
            lines=lines,
            exchanges=join(cut.period),
            read=shelf.read,
            seed=seed,
            sample_size=asked.sample,
            checkpoints=notes.clock,
            counts=cut.counts,
            rules=granted(sources_of(last), settings),
        )
    )
    key = own_key(directory)
    facts: dict[str, Any] = {
        "packet": packet,
        "created": _now(),
        "generator": f"extproc {version('extproc')}",
        "scope": {
            "from": asked.since,
            "to": asked.until,
            "target": asked.target,
            "controls": list(asked.controls),
        },
        "reason": asked.reason,
        "sample": {"seed": seed, "size": asked.sample},
        "payloads_left_out": shelf.left_out,
        "ledger_key": key,
        "custody": {"writer": custody.writer, "seq": custody.seq, "uid": os.getuid()}
        if custody is not None
        else None,
    }
    files = table_files(tables)
    files["ledger/records.jsonl"] = b"".join(raw + b"\n" for _, raw in cut.shown)
    files["ledger/hidden.jsonl"] = json_lines(cut.hidden)
    files["ledger/proof.json"] = json.dumps(cut.proof(), indent=1).encode() + b"\n"
    files["ledger/checkpoints.log"] = b"".join(raw + b"\n" for raw in notes.kept)
    files["ledger/payloads.jsonl"] = json_lines(shelf.rows())
    files["controls.json"] = json.dumps(mapping, indent=1).encode() + b"\n"
    files["verify.py"] = VERIFIER.read_bytes()
    command = f"python3 verify.py --key {shlex.quote(key or 'NAME+ID+BASE64')}"
    files["README.txt"] = _README.format(packet=packet, command=command).encode()
    page = render_page(_shown_facts(facts), tables, mapping, command)
    files["index.html"] = page.encode("utf-8", "replace")
    return files, facts


def own_key(directory: Path) -> str:
    """The public key that lies in the ledger; empty if there is none, or something else."""
    try:
        return str(parse_key((directory / PUBLIC_KEY).read_text("ascii")))
    except (OSError, ValueError, NoteError):
        return ""


def granted(sources: Mapping[str, str], settings: Settings | None) -> list[tuple[str, str, str]]:
    """(policy/rule, target, effect) of every rule in policy texts; a selector becomes the targets it matches."""
    rules: list[tuple[str, str, str]] = []
    for text in sources.values():
        try:
            document = yaml.safe_load(text)
            name, target = document["metadata"]["name"], document["target"]
            found = [(str(rule["name"]), dict(rule["then"])) for rule in document["rules"]]
        except (yaml.YAMLError, KeyError, TypeError, ValueError):
            continue
        targets = [str(target)] if isinstance(target, str) else _selected(target, settings)
        rules += [(f"{name}/{rule}", one, _effect(then)) for one in targets for rule, then in found]
    return rules


def _selected(selector: Any, settings: Settings | None) -> list[str]:
    found = selector if isinstance(selector, dict) else {}
    labels, kind = dict(found.get("labels", {})), str(found.get("kind", ""))
    known = settings.targets if settings is not None else ()
    names = [
        target.name
        for target in known
        if labels.items() <= dict(target.labels).items() and kind in ("", target.kind)
    ]
    words = ([f"kind={kind}"] if kind else []) + [f"{name}={value}" for name, value in sorted(labels.items())]
    return names or [" ".join(words)]


def _effect(then: Mapping[str, Any]) -> str:
    return next((effect for effect in ("deny", "hold", "allow") if effect in then), "none")


def _shown_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    scope, custody = facts["scope"], facts["custody"]
    return {
        "packet": facts["packet"],
        "period": f"{scope['from']} to {scope['to']} (UTC)",
        "target": scope["target"] or "all",
        "controls": ", ".join(scope["controls"]) or "all",
        "asked for": facts["reason"] or "no reason given",
        "made": f"{facts['created']} by {facts['generator']}",
        "exported by": f"uid {custody['uid']}, record {custody['writer']}:{custody['seq']}"
        if custody
        else "a copy",
        "ledger key": facts["ledger_key"],
        "sample seed": facts["sample"]["seed"],
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


_README = """\
Evidence packet {packet}

index.html               for reading and printing
tables/*.csv, *.jsonl    every table of the page, whole
ledger/records.jsonl     the records, byte for byte as they were written
ledger/hidden.jsonl      hashes of records in between that are not shown
ledger/proof.json        what shows that these are all records of the period
ledger/checkpoints.log   signed checkpoints
ledger/payloads.jsonl    what was kept of requests, answers and approvals, masked
controls.json            the controls and what each number on the page is computed from
manifest.json, .note     every file's hash, signed

To check it, with Python 3.9 or newer and nothing else:

    {command}

Take the key from a source that is not this packet. The sample can be drawn again: it is the exchanges with the
smallest SHA-256 over seed and decision id (both in manifest.json and tables/exchanges.jsonl).
"""
