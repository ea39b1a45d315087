"""Signs what the ledger says, and refuses to sign anything that is no extension of what it signed before.

It runs as a process of its own and alone holds the key (docs/ledger.md, section 5).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from extproc.adapters.checkpoint_key import write_public_key
from extproc.adapters.clock_state import kernel_clock
from extproc.adapters.ledger_reader import (
    ALARM,
    CHECKPOINTS,
    CHUNK,
    PUBLIC_KEY,
    TailError,
    WriterTail,
    is_running,
    list_writers,
)
from extproc.domain.errors import ConfigError, StoreUnavailableError
from extproc.ledger.checkpoint import (
    Alarm,
    Checkpoint,
    CheckpointError,
    Clock,
    Lineage,
    WriterHead,
    parse_checkpoint,
    writers_root,
)
from extproc.ledger.lines import ZERO_HASH, format_time
from extproc.ledger.merkle import Tree
from extproc.ledger.note import Note, NoteError, NoteKey, Signer, iter_notes, parse_note, sign_note

SIGN_EVERY = 1.0
"""Seconds between checkpoints while records arrive."""
SIGN_AFTER = 10_000
"""Records after which a checkpoint is signed at once."""
POLL = 0.2
"""Seconds between two looks at the files."""
IDLE_LOOK = 25
"""Looks between two checks of a writer whose process has ended."""

log = structlog.get_logger(__name__)


class ForkError(StoreUnavailableError):
    """The checkpoint log itself is not ours or was changed: nothing can be signed after it."""


class Change(Protocol):
    """Where a new signing key comes from (see `checkpoint_key.KeyChange`)."""

    def following(self) -> Signer | None: ...

    def finish(self) -> None: ...


class _Counted(msgspec.Struct):
    """The few members the counts need; everything else in the line is only checked to be JSON."""

    kind: str
    degraded: list[msgspec.Raw] = msgspec.field(default_factory=list)
    response: msgspec.Raw = msgspec.Raw(b"")


class _Inspected(msgspec.Struct):
    inspected: str = ""


@dataclass(slots=True)
class _Writer:
    """One writer as far as it was read and found good."""

    tail: WriterTail
    size: int = 0
    head: str = ZERO_HASH
    tree: Tree = field(default_factory=Tree)
    fresh: list[bytes] = field(default_factory=list)
    signed: int = 0
    due: list[WriterHead] = field(default_factory=list)
    """Trees signed before this process started, smallest first: they must come out again."""
    alarm: Alarm | None = None
    ended: bool = False

    def root(self) -> str:
        """The root over all records read so far."""
        self.tree.extend(self.fresh)
        self.fresh.clear()
        return self.tree.root().hex()


class Checkpointer:
    """Reads every writer's lines, recomputes every hash, signs checkpoints.

    Raises ForkError from the constructor if the checkpoint log cannot be continued with this key.
    """

    def __init__(
        self,
        directory: Path,
        signer: Signer,
        *,
        clock: Callable[[], float] = time.time,
        clock_state: Callable[[], Clock] = kernel_clock,
        exported: Callable[[], int | None] = lambda: None,
        sign_every: float = SIGN_EVERY,
        sign_after: int = SIGN_AFTER,
        change: Change | None = None,
    ) -> None:
        """`exported` tells how many spans the exporter has delivered, if anybody knows."""
        self._change = change
        self._directory = directory
        self._signer = signer
        self._clock = clock
        self._clock_state = clock_state
        self._exported = exported
        self._sign_every = sign_every
        self._sign_after = sign_after
        self._writers: dict[str, _Writer] = {}
        self._counts = {"degraded": 0, "intent": 0, "opaque": 0, "outcome": 0}
        self._lineage = Lineage()
        self._looks = 0
        self._last_signed = 0.0
        self._full = True
        self._new_alarms = False
        self._unreadable: set[str] = set()
        self._has_handed_over = False
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log_path = directory / CHECKPOINTS
        self._log_fd = self._open_log()
        self._log_size = 0
        try:
            self._take_up_log()
        except BaseException:
            os.close(self._log_fd)
            raise
        if not self._has_handed_over or not (directory / PUBLIC_KEY).exists():
            write_public_key(directory / PUBLIC_KEY, self._signer.key)

    @property
    def alarms(self) -> list[Alarm]:
        """Writers that are refused."""
        return [writer.alarm for writer in self._writers.values() if writer.alarm is not None]

    @property
    def pending(self) -> int:
        """Good records that no checkpoint covers yet."""
        return sum(
            max(0, writer.size - writer.signed) for writer in self._writers.values() if writer.alarm is None
        )

    @property
    def signed_bytes(self) -> int:
        """Size of the checkpoint log, all of it whole and on disk; may be asked from another thread."""
        return self._log_size

    def look(self) -> bool:
        """Read what was added. True if there is more to read at once."""
        self._looks += 1
        try:
            present = list_writers(self._directory)
        except OSError:
            present = []
        for name in present:
            if name not in self._writers:
                self._writers[name] = _Writer(WriterTail(self._directory / name))
        more = False
        for name, writer in self._writers.items():
            if writer.alarm is None and (not writer.ended or self._looks % IDLE_LOOK == 1):
                try:
                    more |= self._read(name, writer)
                except OSError as failure:
                    if name not in self._unreadable:
                        log.error("ledger.unreadable", writer=name, error=failure.strerror)
                    self._unreadable.add(name)
                else:
                    self._unreadable.discard(name)
        return more

    def sign_if_due(self) -> Checkpoint | None:
        """Sign if enough time has passed or enough records came, and anything changed."""
        now = self._clock()
        pending = self.pending
        if not pending and not self._new_alarms and self._following() is None:
            return None
        waited = abs(now - self._last_signed) >= self._sign_every  # abs: the clock may be set back
        return self.sign() if waited or pending >= self._sign_after else None

    def sign(self) -> Checkpoint | None:
        """Sign everything read so far. None while a tree signed earlier has not come out again.

        Raises CheckpointError, and signs nothing, if what it was told does not make a readable checkpoint.
        """
        if any(writer.due and writer.alarm is None for writer in self._writers.values()):
            return None
        now = self._clock()
        if now < self._last_signed:
            log.warning("checkpointer.clock_set_back", seconds=round(self._last_signed - now, 3))
        heads = dict(self._lineage.heads)
        moved: dict[str, WriterHead] = {}
        for name, writer in self._writers.items():
            if writer.size > writer.signed and writer.alarm is None:
                moved[name] = WriterHead(name, writer.size, writer.root(), writer.head)
        heads |= moved
        following = self._following()
        listed = heads if self._full else moved
        counts = dict(self._counts)
        exported = self._exported()
        if exported is not None:
            counts["exported"] = exported
        checkpoint = Checkpoint(
            origin=self._signer.key.name,
            number=self._lineage.number + 1,
            previous=self._lineage.digest,
            time=format_time(now),
            heads=tuple(listed[name] for name in sorted(listed)),
            writers=len(heads),
            writers_root=writers_root(heads.values()),
            records=sum(head.size for head in heads.values()),
            full=self._full,
            clock=self._clock_state(),
            counts=counts,
            alarms=tuple(sorted(self.alarms, key=lambda alarm: alarm.writer)),
            next_key=following.key if following is not None else None,
        )
        text = checkpoint.to_text()
        if parse_checkpoint(text) != checkpoint:
            raise CheckpointError("a checkpoint that does not read back is not signed")
        raw = sign_note(text, self._signer, *([following] if following is not None else []))
        self._append(raw)
        self._lineage.follow(raw, checkpoint)
        if following is not None:
            self._take_over(following)
        for name in moved:
            self._writers[name].signed = moved[name].size
        self._full = self._new_alarms = False
        self._last_signed = now
        return checkpoint

    def run(self, stop: threading.Event) -> int:
        """Work until `stop`; 1 if anything was refused or could not be written, else 0."""
        trouble = False
        while True:
            stopping = stop.is_set()
            try:
                more = self.look()
                self.sign() if stopping and self.pending else self.sign_if_due()
                trouble = bool(self._unreadable)
            except ForkError as refusal:
                log.critical("checkpointer.refused", error=str(refusal))
                self.close()
                return 1
            except OSError as failure:
                if not trouble:
                    log.error("checkpointer.unavailable", error=failure.strerror)
                trouble, more = True, False
            if stopping and not more:
                break
            if not more:
                stop.wait(POLL)
        self.close()
        return 1 if self.alarms or trouble else 0

    def close(self) -> None:
        """Let go of all files."""
        for writer in self._writers.values():
            writer.tail.close()
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1

    def _read(self, name: str, writer: _Writer) -> bool:
        running = is_running(self._directory / name)
        try:
            lines = writer.tail.read(CHUNK)
        except TailError as trouble:
            self._refuse(name, writer, trouble.code)
            return False
        for line in lines:
            digest = self._check(name, writer, line.data)
            if digest is None:
                self._refuse(name, writer, "altered")
                return False
            writer.fresh.append(digest)
            writer.size += 1
            writer.head = digest.hex()
            if writer.due and writer.due[0].size == writer.size:
                due = writer.due.pop(0)
                if due.head != writer.head or due.root != writer.root():
                    self._refuse(name, writer, "rewritten")
                    return False
        if writer.due and not lines:
            self._refuse(name, writer, "truncated")
        writer.ended = not running and not lines
        if writer.ended:
            writer.tail.close()  # thousands of ended writers must not keep thousands of files open
        return bool(lines)

    def _check(self, name: str, writer: _Writer, line: bytes) -> bytes | None:
        """The record's hash if it is the one that was due, else None. Counts it."""
        start = f'{{"v":1,"writer":"{name}","seq":{writer.size},"prev":"{writer.head}","at":"'.encode()
        if not line.startswith(start):
            return None
        try:
            seen = _decode_counted(line)
            counts = self._counts
            if seen.kind == "intent":
                counts["intent"] += 1
                counts["degraded"] += bool(seen.degraded)
            elif seen.kind == "outcome":
                counts["outcome"] += 1
                inspected = _decode_inspected(seen.response).inspected if seen.response else ""
                counts["opaque"] += inspected in ("opaque", "uninspected")
        except msgspec.MsgspecError:
            return None
        return sha256(line).digest()

    def _refuse(self, name: str, writer: _Writer, code: str) -> None:
        """Freeze the writer where it was last good, and say so loudly."""
        writer.alarm = Alarm(name, writer.size, code)
        writer.tail.close()
        self._new_alarms = True
        log.critical("ledger.refused", writer=name, seq=writer.size, code=code)
        alarms = [{"writer": a.writer, "seq": a.seq, "code": a.code} for a in self.alarms]
        shown = {"at": format_time(self._clock()), "refused": alarms}
        with suppress(OSError):  # the next checkpoint and the exit status say it as well
            (self._directory / ALARM).write_text(json.dumps(shown, indent=1) + "\n", "ascii")

    def _following(self) -> Signer | None:
        """The key that is to take over with the next checkpoint, if one was asked for and can be had."""
        try:
            return self._change.following() if self._change is not None else None
        except ConfigError as trouble:
            log.error("checkpointer.key_change", error=str(trouble))
            return None

    def _take_over(self, following: Signer) -> None:
        """A checkpoint that hands over to this key is on disk."""
        self._signer, self._has_handed_over = following, True
        if self._change is not None:
            self._change.finish()
        log.info("checkpointer.key_changed", key=str(following.key))

    def _open_log(self) -> int:
        """Open and lock the checkpoint log: two checkpointers would fork it. Raises ForkError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._log_path, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise ForkError("another checkpointer is at work on this ledger") from None
        return fd

    def _take_up_log(self) -> None:
        """Follow our own checkpoints to the last; what they signed must come out again."""
        whole = 0
        torn = False
        strange = -1  # the latest checkpoint that this key did not sign
        begun = -1  # the checkpoint that handed over to this key
        handed: NoteKey | None = None
        with self._log_path.open("rb") as file:
            for raw, complete in iter_notes(iter(lambda: file.read(CHUNK), b"")):
                if not complete:
                    torn = True
                    break
                whole += len(raw) + 1
                note, checkpoint = self._follow(raw)
                is_ours = note.is_signed_by(self._signer.key)
                if not is_ours:
                    strange = checkpoint.number
                if checkpoint.next_key is not None:
                    handed = checkpoint.next_key
                    self._has_handed_over = True
                    if is_ours and handed == self._signer.key:
                        begun = checkpoint.number
        if strange > begun:  # what came before a handover to our key is vouched for by its hash
            raise ForkError(f"checkpoint {strange} cannot be continued: not signed with this key")
        if handed is not None and handed != self._signer.key:
            following = self._following()
            if following is None or following.key != handed:
                raise ForkError(f"the last key change went to {handed}, which is not this key")
            self._take_over(following)
        if torn:
            self._set_torn_aside(whole)
        self._log_size = whole
        for name, head in self._lineage.heads.items():
            self._writers[name].signed = head.size

    def _follow(self, raw: bytes) -> tuple[Note, Checkpoint]:
        try:
            note = parse_note(raw)
            checkpoint = parse_checkpoint(note.text)
            self._lineage.follow(raw, checkpoint)
        except (NoteError, CheckpointError) as trouble:
            number = self._lineage.number + 1
            raise ForkError(f"checkpoint {number} cannot be continued: {trouble}") from None
        for head in checkpoint.heads:
            writer = self._writers.get(head.writer)
            if writer is None:
                writer = self._writers[head.writer] = _Writer(WriterTail(self._directory / head.writer))
            if not writer.due or writer.due[-1].size < head.size:
                writer.due.append(head)
        return note, checkpoint

    def _set_torn_aside(self, whole: int) -> None:
        """A crash cut the last note: keep its bytes beside the log, and go on after the last whole one."""
        stamp = format_time(self._clock()).replace(":", "")
        with self._log_path.open("rb") as file:
            file.seek(whole)
            self._log_path.with_name(f"checkpoints.torn-{stamp}").write_bytes(file.read())
        os.ftruncate(self._log_fd, whole)
        log.warning("checkpointer.torn", kept=f"checkpoints.torn-{stamp}")

    def _append(self, raw: bytes) -> None:
        """Add a note and have it on disk. Raises OSError, and ForkError if the log is not as we left it."""
        try:
            status = self._log_path.stat()
        except FileNotFoundError:
            raise ForkError("the checkpoint log is gone") from None
        if status.st_ino != os.fstat(self._log_fd).st_ino or status.st_size != self._log_size:
            raise ForkError("somebody else changed the checkpoint log")
        data = raw + b"\n"
        try:
            if os.write(self._log_fd, data) != len(data):
                raise OSError(errno.ENOSPC, "short write")
            os.fsync(self._log_fd)
        except OSError:
            os.ftruncate(self._log_fd, self._log_size)
            raise
        self._log_size += len(data)


_decode_counted = msgspec.json.Decoder(_Counted).decode
_decode_inspected = msgspec.json.Decoder(_Inspected).decode


def exported_count(cursor: Path) -> int | None:
    """How many spans the exporter has delivered, from its cursor file; None if nobody knows."""
    try:
        state: Mapping[str, object] = json.loads(cursor.read_bytes())
        count = state.get("exported")
    except (OSError, ValueError, AttributeError):
        return None
    return count if type(count) is int and count >= 0 else None
