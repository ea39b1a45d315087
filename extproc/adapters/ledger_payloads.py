"""Reading payloads back: found, compared with what their lines say, and opened if they are sealed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from extproc.adapters.ledger_reader import read_payload_entry
from extproc.ledger.lines import Line
from extproc.ledger.payloads import HEADER_SIZE, check_entry, key_offset_of, parse_header, parse_ref
from extproc.ledger.sealing import (
    KEY_ENTRY_SIZE,
    KeyRing,
    Place,
    is_erased_key,
    is_key_entry,
    key_segment_of,
    open_sealed,
)


class FoundPayload(NamedTuple):
    """`state` is `good`, or says why there is no body: `missing`, `erased`, `mismatch`, `malformed`,
    `sealed` (no keys were given, or the key segment is not here), `unknown-key`, `wrong-key`, `key-missing`."""

    state: str
    body: bytes = b""
    salt: bytes = b""


class Payloads:
    """The payloads of a ledger's directory; `ring` opens those that are sealed. Nothing here raises."""

    def __init__(self, directory: Path, ring: KeyRing | None = None) -> None:
        self._directory = directory
        self._ring = ring

    def read(self, line: Line, name: str) -> FoundPayload:
        """The payload that a record names."""
        place = line.payloads.get(name)
        entry = read_payload_entry(self._directory, line.writer, place.ref, place.size) if place else None
        header = parse_header(entry) if entry is not None else None
        if place is None or entry is None:
            return FoundPayload("missing")
        state = check_entry(entry, place.size, place.commitment, place.sealed)
        if state == "sealed":
            return self._open(line, name, entry)
        if state == "good" and header is not None:
            return FoundPayload(state, entry[HEADER_SIZE:], header.salt)
        return FoundPayload(state)

    def opened(self, line: Line, name: str, entry: bytes) -> str:
        """What comes of opening a sealed payload whose entry was checked; for the verifier."""
        return self._open(line, name, entry).state

    def _open(self, line: Line, name: str, entry: bytes) -> FoundPayload:
        place = line.payloads[name]
        found = parse_ref(place.ref)
        if found is None:
            return FoundPayload("missing")
        path = self._directory / line.writer / key_segment_of(found[0])
        if not path.exists():
            return FoundPayload("sealed")  # a copy without keys
        if self._ring is None:
            return FoundPayload(_look_at_key(path, entry))
        whole = Place(line.writer, line.seq, name, found[0], place.commitment)
        return FoundPayload(*open_sealed(entry, lambda offset: _read_key(path, offset), whole, self._ring))


def _look_at_key(path: Path, entry: bytes) -> str:
    header = parse_header(entry)
    offset = key_offset_of(header) if header is not None else None
    if offset is None:
        return "mismatch"
    key_entry = _read_key(path, offset)
    if is_erased_key(key_entry):
        return "erased"
    return "sealed" if is_key_entry(key_entry) else "key-missing"


def _read_key(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(KEY_ENTRY_SIZE)
    except OSError:
        return b""
