"""Copies of closed segments and checkpoints in an object store, each written once and read back.

The store's own retention (object lock) keeps them from everybody, us included. What is there already is known from
its listing, so an interrupted shipping goes on where it stopped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from extproc.adapters.file_lock import locked
from extproc.adapters.ledger_reader import (
    CHECKPOINTS,
    CHUNK,
    is_running,
    list_segments,
    list_writers,
    payload_segment_name,
)
from extproc.domain.errors import ExtprocError
from extproc.ledger.checkpoint import parse_checkpoint
from extproc.ledger.note import iter_notes, parse_note

FOLDER = "checkpoints"
LOCK = "ship.lock"
"""Two that ship at once would cut the checkpoint log differently, and store it twice."""
NOTES_IN_OBJECT = 8 << 20
"""Bytes of checkpoints in one object, roughly."""
_RANGE = re.compile(rf"{FOLDER}/([0-9]{{12}})-([0-9]{{12}})\.log\Z")


class ShippingError(ExtprocError):
    """The store cannot be used, or holds something else under a name of ours."""


class Store(Protocol):
    """Where copies go."""

    def names(self) -> dict[str, int]:
        """Everything there, with sizes. Raises ShippingError."""

    def create(self, name: str, data: bytes) -> bool:
        """Write it unless it is there; False if it is. Raises ShippingError."""

    def read(self, name: str) -> bytes:
        """Raises ShippingError."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """One object and its SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(slots=True)
class Result:
    """What was done. `different` are names under which the store holds other bytes than we do."""

    shipped: list[Shipped] = field(default_factory=list)
    present: int = 0
    different: list[str] = field(default_factory=list)


def ship(
    directory: Path, store: Store, *, payloads: bool, everything: bool, done: Callable[[Shipped], None]
) -> Result:
    """Ship what is closed and not there yet; `done` is called for each object that was read back.

    `everything` compares what was there already byte by byte, else by size. Raises ShippingError, which says so if
    another shipping is at work on this ledger, and OSError.
    """
    try:
        with locked(directory / LOCK, wait=False):
            return _ship(directory, store, payloads, everything, done)
    except BlockingIOError:
        raise ShippingError("another shipping of this ledger is at work") from None


def _ship(
    directory: Path, store: Store, payloads: bool, everything: bool, done: Callable[[Shipped], None]
) -> Result:
    result = Result()
    there = store.names()
    for name, path in closed_files(directory, payloads=payloads):
        if name in there:
            _compare(store, name, path.read_bytes(), there[name], result, everything=everything)
        else:
            _put(store, name, path.read_bytes(), result, done)
    for name, data in _checkpoint_objects(directory, there):
        if name in there:
            _compare(store, name, data, there[name], result, everything=everything)
        else:
            _put(store, name, data, result, done)
    return result


def closed_files(directory: Path, *, payloads: bool) -> Iterator[tuple[str, Path]]:
    """Object name and file of every segment that nobody writes any more. Raises OSError."""
    for writer in list_writers(directory):
        segments = list_segments(directory / writer)
        closed = segments[:-1] if is_running(directory / writer) else segments
        for segment in closed:
            yield f"{writer}/{segment.path.name}", segment.path
            beside = segment.path.with_name(payload_segment_name(segment.first))
            if payloads and beside.exists():
                yield f"{writer}/{beside.name}", beside


def _checkpoint_objects(directory: Path, there: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The checkpoint log as objects `<first number>-<last number>.log`; those that are there keep their borders."""
    known = {int(found[1]): int(found[2]) for name in there if (found := _RANGE.match(name)) is not None}
    log = directory / CHECKPOINTS
    if not log.exists():
        return
    data, first, last = b"", -1, -1
    with log.open("rb") as file:
        for raw, whole in iter_notes(iter(lambda: file.read(CHUNK), b"")):
            if not whole:
                break
            number = parse_checkpoint(parse_note(raw).text).number
            if first < 0:
                first = number
            data, last = data + raw + b"\n", number
            end = known.get(first)
            if end == last or (end is None and (len(data) >= NOTES_IN_OBJECT or last + 1 in known)):
                yield f"{FOLDER}/{first:012d}-{last:012d}.log", data
                data, first = b"", -1
    if data:
        yield f"{FOLDER}/{first:012d}-{last:012d}.log", data


def _put(store: Store, name: str, data: bytes, result: Result, done: Callable[[Shipped], None]) -> None:
    if not store.create(name, data) and store.read(name) != data:
        result.different.append(name)  # somebody was quicker
        return
    if store.read(name) != data:
        raise ShippingError(f"{name}: what was read back is not what was written")
    shipped = Shipped(name, len(data), sha256(data).hexdigest())
    done(shipped)
    result.shipped.append(shipped)


def _compare(store: Store, name: str, data: bytes, size: int, result: Result, *, everything: bool) -> None:
    if size != len(data) or (everything and store.read(name) != data):
        result.different.append(name)
    else:
        result.present += 1


class ObjectStore:
    """S3, GCS, Azure or a folder, by obstore. Credentials come from the environment, as each cloud names them."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        """`s3://bucket/prefix`, `gs://…`, `az://…` or `file:///folder`. Raises ShippingError."""
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise ShippingError("shipping needs obstore: pip install 'extproc[ship]'") from None
        self._obstore: Any = obstore
        given: dict[str, Any] = dict(options or {})
        if url.startswith("s3"):
            given.setdefault("checksum_algorithm", "sha256")  # a bucket with object lock wants one
        if url.startswith("file:"):
            given["mkdir"] = True
        try:
            self._store: Any = from_url(url, **given)
        except Exception as failure:
            raise ShippingError(f"{url}: {_first_line(failure)}") from None

    def names(self) -> dict[str, int]:
        try:
            return {
                str(meta["path"]): int(meta["size"])
                for batch in self._obstore.list(self._store)
                for meta in batch
            }
        except Exception as failure:
            raise ShippingError(f"the store cannot be listed: {_first_line(failure)}") from None

    def create(self, name: str, data: bytes) -> bool:
        try:
            self._obstore.put(self._store, name, data, mode="create", use_multipart=False)
        except self._obstore.exceptions.AlreadyExistsError:
            return False
        except Exception as failure:
            raise ShippingError(f"{name}: cannot be written: {_first_line(failure)}") from None
        return True

    def read(self, name: str) -> bytes:
        try:
            return bytes(self._obstore.get(self._store, name).bytes())
        except Exception as failure:
            raise ShippingError(f"{name}: cannot be read: {_first_line(failure)}") from None


def _first_line(failure: Exception) -> str:
    return (str(failure).splitlines() or [type(failure).__name__])[0][:300]
