"""Writing the ledger: append buffers, commit is one write, and a failure leaves whole lines only.

docs/ledger.md, sections 1, 3 and 4. One `LedgerWriter` belongs to one thread of one process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

from extproc.adapters.ledger_reader import (
    is_running,
    list_writers,
    payload_segment_name,
    read_end,
    segment_name,
)
from extproc.domain.errors import LedgerUnavailableError
from extproc.domain.record import Record
from extproc.ledger.lines import Chain, PayloadPlace, check_writer_id, format_time, role_of
from extproc.ledger.payloads import SALT_SIZE, build_entry, build_ref, commitment_of
from extproc.ledger.sealing import RANDOM_BYTES, KeyRing, Sealer, key_segment_of

Durability = Literal["process", "disk"]
SYNC_INTERVAL: Final = 0.05
"""Seconds between two fsyncs when durability is `process`."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The calls that can fail; tests replace them."""

    open: Callable[[str, int, int], int] = os.open
    write: Callable[[int, bytes], int] = os.write
    fsync: Callable[[int], None] = os.fsync
    truncate: Callable[[int, int], None] = os.ftruncate


class LedgerWriter:
    """One writer's lines and payloads.

    Raises LedgerUnavailableError wherever the files do not do what they must; then nothing that was appended
    since the last commit may be acted upon. `writer_id` changes if a segment breaks (docs/ledger.md, section 4).
    """

    def __init__(
        self,
        directory: Path,
        *,
        writer_id: str,
        clock: Callable[[], float],
        durability: Durability = "process",
        segment_bytes: int = 64 << 20,
        start_fields: Mapping[str, Any] | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        sync_interval: float | None = SYNC_INTERVAL,
        disk: Disk | None = None,
        ring: KeyRing | None = None,
    ) -> None:
        """`start_fields` are added to the `start` record. `sync_interval` None: only `sync()` syncs.

        With `ring` every payload is sealed.
        """
        self.writer_id = check_writer_id(writer_id)
        self.durability = durability
        self._first_id = writer_id
        self._directory = directory
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._start_fields = dict(start_fields or {})
        self._random = random_bytes
        self._disk = disk or Disk()
        self._ring = ring
        self._sealer: Sealer | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards the descriptors against the syncing thread
        self._held: list[int] = []
        self._line_fd = self._payload_fd = self._key_fd = -1
        self._line_size = self._payload_size = self._key_size = 0
        self._lines: list[bytes] = []
        self._entries: list[bytes] = []
        self._entry_bytes = 0
        self._keys: list[bytes] = []
        self._key_bytes = 0
        self._chain = Chain(writer_id)
        self._durable = self._chain.mark()
        self._trouble = _Trouble()
        self._broken = False
        self._sync_failure = ""
        self._doom: LedgerUnavailableError | None = None
        self._incarnation = 0
        self._segment_first = 0
        self._closed = False
        self._syncer: _Syncer | None = None
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open_writer(writer_id, self._find_predecessor())
            self.commit()
        except (OSError, LedgerUnavailableError) as failure:
            self._release()
            self._remove_if_empty(writer_id)
            raise LedgerUnavailableError(f"the ledger cannot be opened: {_name_of(failure)}") from failure
        if durability == "process" and sync_interval is not None:
            self._syncer = _Syncer(self.sync, sync_interval)

    @property
    def healthy(self) -> bool:
        """Did the last commit succeed?"""
        return not (self._broken or self._trouble.cause or self._sync_failure)

    def append(self, record: Record) -> None:
        """Buffer one record. Raises RecordError, and then this record was not buffered.

        When nothing can be written, `commit` raises.
        """
        if not self._lines and (self._broken or self._sync_failure or self._trouble.cause or self._closed):
            self._mend()
        if self._doom is not None:
            self._trouble.records += 1
            return
        self._append(record.kind, record.at, record.fields, record.payloads)

    def commit(self) -> None:
        """Hand everything buffered to the kernel (`process`) or the disk (`disk`) in one write of lines."""
        if self._doom is not None:
            doom, self._doom = self._doom, None
            raise doom
        if not self._lines:
            return
        if os.getpid() != self._pid:
            self.discard()
            raise LedgerUnavailableError("this process may not write this ledger")
        lines = b"\n".join((*self._lines, b""))
        try:
            if self._entries:
                self._write_entries()
        except OSError as failure:
            self._refuse(failure, b"")
            raise LedgerUnavailableError(f"payloads cannot be recorded: {_name_of(failure)}") from failure
        try:
            _write_whole(self._disk, self._line_fd, lines)
        except OSError as failure:
            self._refuse(failure, lines)
            raise LedgerUnavailableError(f"nothing can be recorded: {_name_of(failure)}") from failure
        self._line_size += len(lines)
        if self.durability == "disk":
            self._sync_commit()
        self._durable = self._chain.mark()
        self._lines.clear()
        if self._trouble.cause:
            self._trouble = _Trouble()
        if self._syncer is not None:
            self._syncer.wake()
        if self._line_size >= self._segment_bytes or self._payload_size >= self._segment_bytes:
            self._rotate()

    def discard(self) -> None:
        """Forget what was appended since the last commit."""
        self._doom = None
        self._chain.rewind(self._durable)
        self._forget()

    def sync(self) -> None:
        """fsync now. A failure makes the next append start over in a new writer."""
        with self._lock:
            copies = [os.dup(fd) for fd in (self._key_fd, self._payload_fd, self._line_fd) if fd >= 0]
        try:
            for fd in copies:
                self._disk.fsync(fd)
        except OSError as failure:
            self._sync_failure = _name_of(failure)
        finally:
            for fd in copies:
                os.close(fd)

    def close(self) -> None:
        """Write `stop`, sync, let go. Raises LedgerUnavailableError if `stop` could not be written."""
        if self._closed:
            return
        if self._syncer is not None:
            self._syncer.stop()
        try:
            self.append(Record("stop", self._clock(), {}))
            self.commit()
            self.sync()
        finally:
            self._closed = True
            self._release()

    def _append(self, kind: str, at: float, fields: Mapping[str, Any], payloads: Mapping[str, bytes]) -> None:
        if not payloads:
            self._lines.append(self._chain.encode(kind, at, fields))
            return
        seq = self._chain.seq
        places: dict[str, PayloadPlace] = {}
        entries: list[bytes] = []
        keys: list[bytes] = []
        offset = self._payload_size + self._entry_bytes
        key_offset = self._key_size + self._key_bytes
        segment = payload_segment_name(self._segment_first)
        if self._ring is not None and self._sealer is None:
            self._sealer = Sealer(self._ring, self.writer_id, segment)
        for name, payload in payloads.items():
            ref = build_ref(segment, offset)
            if self._sealer is not None:
                sealed = self._sealer.seal(payload, self._random(RANDOM_BYTES), key_offset, seq, name)
                entry = sealed.entry
                places[name] = PayloadPlace(sealed.commitment, len(payload), ref, sealed.digest)
                keys.append(sealed.key_entry)
                key_offset += len(sealed.key_entry)
            else:
                salt = self._random(SALT_SIZE)
                entry = build_entry(payload, salt)
                places[name] = PayloadPlace(commitment_of(payload, salt), len(payload), ref)
            entries.append(entry)
            offset += len(entry)
        self._lines.append(self._chain.encode(kind, at, fields, places))
        self._entries += entries
        self._entry_bytes = offset - self._payload_size
        self._keys += keys
        self._key_bytes = key_offset - self._key_size

    def _write_entries(self) -> None:
        name = payload_segment_name(self._segment_first)
        if self._keys:  # first: an entry whose key is not there could never be opened
            if self._key_fd < 0:
                fd = self._create(self.writer_id, key_segment_of(name))
                with self._lock:
                    self._key_fd = fd
            _write_whole(self._disk, self._key_fd, b"".join(self._keys))
            self._key_size += self._key_bytes
            self._keys.clear()
            self._key_bytes = 0
        if self._payload_fd < 0:
            fd = self._create(self.writer_id, name)
            with self._lock:
                self._payload_fd = fd
        _write_whole(self._disk, self._payload_fd, b"".join(self._entries))
        self._payload_size += self._entry_bytes
        self._entries.clear()
        self._entry_bytes = 0

    def _forget(self) -> None:
        """Nothing of this commit is left to be written."""
        self._lines.clear()
        self._entries.clear()
        self._entry_bytes = 0
        self._keys.clear()
        self._key_bytes = 0

    def _sync_commit(self) -> None:
        try:
            for fd in (self._key_fd, self._payload_fd, self._line_fd):
                if fd >= 0:
                    self._disk.fsync(fd)
        except OSError as failure:
            # after a failed fsync the kernel may have dropped the pages: this segment is not to be trusted
            first, last = self._durable[0], self._chain.seq - 1
            self._count_refusal(failure)
            self._trouble.keep(self.writer_id, first, last)
            self._durable = self._chain.mark()
            self._lines.clear()
            self._broken = True
            raise LedgerUnavailableError(f"nothing reaches the disk: {_name_of(failure)}") from failure

    def _refuse(self, failure: OSError, lines: bytes) -> None:
        """Count the refused commit, cut back to the last whole line, and stand where the file stands."""
        self._count_refusal(failure)
        self._chain.rewind(self._durable)
        self._forget()
        try:
            self._cut_beside()
            if lines:
                self._cut_lines(lines)
        except OSError:
            self._broken = True

    def _count_refusal(self, failure: OSError) -> None:
        trouble = self._trouble
        if not trouble.cause:
            trouble.cause, trouble.since = _name_of(failure), self._clock()
        trouble.commits += 1
        trouble.records += len(self._lines)

    def _cut_beside(self) -> None:
        for fd, size in ((self._key_fd, self._key_size), (self._payload_fd, self._payload_size)):
            if fd >= 0 and os.fstat(fd).st_size != size:
                self._disk.truncate(fd, size)

    def _cut_lines(self, lines: bytes) -> None:
        base = self._line_size
        reached = os.fstat(self._line_fd).st_size - base
        if not 0 <= reached <= len(lines):
            raise OSError(errno.EIO, "the segment has another size than was written")
        whole = lines.rfind(b"\n", 0, reached) + 1
        if os.pread(self._line_fd, whole, base) != lines[:whole]:
            raise OSError(errno.EIO, "the segment holds other bytes than were written")
        if reached != whole:
            self._disk.truncate(self._line_fd, base + whole)
        if whole:
            kept = lines[: whole - 1].split(b"\n")
            first = self._durable[0]
            self._chain.rewind((first + len(kept), sha256(kept[-1]).hexdigest()))
            self._durable = self._chain.mark()
            self._line_size = base + whole
            self._trouble.keep(self.writer_id, first, first + len(kept) - 1)

    def _rotate(self) -> None:
        try:
            fd = self._create(self.writer_id, segment_name(self._chain.seq))
        except OSError:
            return  # the old segment goes on growing; the next commit tries again
        if self.durability == "process":
            self.sync()
        self._swap_segment(fd, self._chain.seq)

    def _mend(self) -> None:
        """Before the first record of a commit, after trouble: open a new segment if need be, and say `gap`."""
        if self._doom is not None:
            return
        if self._closed:
            self._doom = LedgerUnavailableError("the ledger is closed")
            return
        if self._broken or self._sync_failure:
            try:
                self._start_over()
            except LedgerUnavailableError as failure:
                self._doom = failure
                return
        if self._trouble.cause:
            self._append("gap", self._clock(), self._trouble.fields(), {})

    def _start_over(self) -> None:
        """Go on as a new writer: the segment is broken, or what the disk holds is unknown."""
        if not self._trouble.cause:
            self._trouble.cause, self._trouble.since = self._sync_failure, self._clock()
        self._broken = True
        before, trouble = self.writer_id, self._trouble
        self._incarnation += 1
        try:
            self._open_writer(f"{self._first_id}-r{self._incarnation}", before)
            self._trouble = _Trouble()  # told by the first commit after this one
            self.commit()
        except (OSError, LedgerUnavailableError) as failure:
            self._broken = True
            trouble.commits += 1
            if self.writer_id != before:
                os.close(self._held.pop())
            if self.writer_id == before or self._remove_if_empty(self.writer_id):
                self._incarnation -= 1
            self.writer_id = before
            raise LedgerUnavailableError(f"no new segment can be opened: {_name_of(failure)}") from failure
        finally:
            self._trouble = trouble

    def _open_writer(self, writer_id: str, predecessor: str | None) -> None:
        """Create directory and first segment, and buffer the `start` record. Raises OSError."""
        fields: dict[str, Any] = {
            **self._start_fields,
            "role": role_of(writer_id),
            "durability": self.durability,
        }
        if predecessor is not None:
            fields |= self._describe(predecessor)
        home = self._directory / writer_id
        home.mkdir(mode=0o700)
        lock = fd = -1
        try:
            lock = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)  # readers that probe let go at once
            fd = self._create(writer_id, segment_name(0))
            _sync_directory(self._disk, self._directory)
        except OSError:
            for opened in (lock, fd):
                if opened >= 0:
                    os.close(opened)
            self._remove_if_empty(writer_id)
            raise
        self._held.append(lock)
        self._swap_segment(fd, 0)
        self.writer_id = writer_id
        self._chain = Chain(writer_id)
        self._durable = self._chain.mark()
        self._broken = False
        self._sync_failure = ""
        self._append("start", self._clock(), fields, {})

    def _find_predecessor(self) -> str | None:
        role = role_of(self.writer_id)
        earlier = [w for w in list_writers(self._directory) if role_of(w) == role and w != self.writer_id]
        return earlier[-1] if earlier else None

    def _describe(self, predecessor: str) -> dict[str, Any]:
        # this one's own broken segments are held by it too, and written no more; asked before the end is read
        running = not self._held and is_running(self._directory / predecessor)
        try:
            end = read_end(self._directory / predecessor)
        except OSError:
            seq, head = self._durable
            known = {"head": head, "seq": seq - 1, "writer": predecessor, "unreadable": True}
            return {"predecessor": known}
        named: dict[str, Any] = {"head": end.head, "seq": end.seq, "writer": predecessor}
        if not end.readable:
            named["unreadable"] = True
        if running:
            named["running"] = True
        fields: dict[str, Any] = {"predecessor": named}
        if end.torn_bytes and not running:  # what a living writer has not finished yet is not torn
            fields["torn"] = {
                "bytes": end.torn_bytes,
                "digest": end.torn_digest,
                "offset": end.offset,
                "segment": end.segment,
                "writer": predecessor,
            }
        return fields

    def _create(self, writer_id: str, name: str) -> int:
        home = self._directory / writer_id
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = self._disk.open(str(home / name), flags, 0o600)
        try:
            _sync_directory(self._disk, home)
        except OSError:
            os.close(fd)
            (home / name).unlink()
            raise
        return fd

    def _swap_segment(self, line_fd: int, first: int) -> None:
        with self._lock:
            for old in (self._line_fd, self._payload_fd, self._key_fd):
                if old >= 0:
                    os.close(old)
            self._line_fd, self._payload_fd, self._key_fd = line_fd, -1, -1
        self._line_size = self._payload_size = self._key_size = 0
        self._sealer = None  # its keys are those of a segment
        self._segment_first = first

    def _release(self) -> None:
        self._swap_segment(-1, 0)
        for lock in self._held:
            os.close(lock)
        self._held.clear()

    def _remove_if_empty(self, writer_id: str) -> bool:
        """Leave no litter behind a start that failed before its first record."""
        home = self._directory / writer_id
        try:
            first = home / segment_name(0)
            if first.exists() and first.stat().st_size == 0:
                first.unlink()
            home.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


class _Trouble:
    """What the next `gap` record will say."""

    __slots__ = ("cause", "commits", "kept", "records", "since")

    def __init__(self) -> None:
        self.cause = ""
        self.since = 0.0
        self.commits = 0
        self.records = 0
        self.kept: list[dict[str, Any]] = []

    def keep(self, writer: str, first: int, last: int) -> None:
        """These records stand although their commit was refused."""
        if self.kept and self.kept[-1]["writer"] == writer and self.kept[-1]["last"] == first - 1:
            self.kept[-1]["last"] = last
        else:
            self.kept.append({"first": first, "last": last, "writer": writer})

    def fields(self) -> dict[str, Any]:
        """The `gap` record's fields."""
        fields: dict[str, Any] = {
            "refused_commits": self.commits,
            "refused_records": self.records,
            "since": format_time(self.since),
            "cause": self.cause,
        }
        if self.kept:
            fields["kept"] = [dict(kept) for kept in self.kept]
        return fields


class _Syncer:
    """Calls `sync` at most once per interval, and only after something was written."""

    def __init__(self, sync: Callable[[], None], interval: float) -> None:
        self._sync = sync
        self._interval = interval
        self._work = threading.Event()
        self._is_due = False
        """Cleared after `_work` and before the sync, so that what is written later always asks for another."""
        self._stop = threading.Event()
        self._syncing = threading.Thread(target=self._run, name="ledger-sync", daemon=True)
        self._syncing.start()

    def wake(self) -> None:
        """Something was written."""
        if not self._is_due:
            self._is_due = True
            self._work.set()

    def stop(self) -> None:
        """End after what is under way."""
        self._stop.set()
        self._work.set()
        self._syncing.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._work.wait()
            if self._stop.wait(self._interval):
                return
            self._work.clear()
            self._is_due = False
            self._sync()


def _write_whole(disk: Disk, fd: int, data: bytes) -> None:
    """Exactly one write; less than everything is a failure."""
    written = disk.write(fd, data)
    if written != len(data):
        raise OSError(errno.ENOSPC, "short write")


def _sync_directory(disk: Disk, directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        disk.fsync(fd)
    finally:
        os.close(fd)


def _name_of(failure: BaseException) -> str:
    """`ENOSPC`, not a path."""
    if isinstance(failure, OSError) and failure.errno is not None:
        return errno.errorcode.get(failure.errno, "EIO")
    if isinstance(failure.__cause__, OSError):
        return _name_of(failure.__cause__)
    return type(failure).__name__
