"""One record as one line of canonical JSON, and its hash (docs/ledger.md, section 2)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from hashlib import sha256
from typing import Any, Final

import orjson

from extproc.domain.errors import ExtprocError
from extproc.domain.nouns import noun
from extproc.domain.record import Checked

VERSION: Final = 1
ZERO_HASH: Final = "0" * 64
MAX_LINE: Final = 1 << 20
"""Bytes of the longest line, its newline included."""

ENVELOPE: Final = ("v", "writer", "seq", "prev", "at", "kind")
RESERVED: Final = (*ENVELOPE, "payloads")

_WRITER: Final = re.compile(r"[a-z0-9][a-z0-9_]*(?:-[a-z0-9]+)*\Z")
_KIND: Final = re.compile(r"[a-z][a-z0-9_.]{0,63}\Z")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z\Z")
_kinds: Final[set[str]] = set()
"""Kinds that were written before."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CANONICAL: Final = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_STRICT_INTEGER
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


class RecordError(ExtprocError):
    """A record that cannot be written: a float, a reserved name, text that is no Unicode, too long.

    The text names the record's kind and the fault, never a value.
    """


@noun(slots=True, init=False, unsafe_hash=True)
class PayloadPlace:
    """What a line says about a payload: its commitment (hex), its length in bytes and where it lies.

    `sealed` is the digest (hex) of its entry if it is encrypted, else empty.
    """

    commitment: Final[str]
    size: Final[int]
    ref: Final[str]
    sealed: Final[str]

    def __init__(self, commitment: str, size: int, ref: str, sealed: str = "") -> None:
        self.commitment = commitment
        self.size = size
        self.ref = ref
        self.sealed = sealed


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read back. `hash` is hex; `fields` holds everything but the envelope and the payloads."""

    writer: str
    seq: int
    prev: str
    at: str
    kind: str
    hash: str
    fields: Mapping[str, Any]
    payloads: Mapping[str, PayloadPlace] = field(default_factory=dict)

    @property
    def at_us(self) -> int:
        """When it happened, in microseconds since 1970."""
        return parse_time(self.at)


class Chain:
    """Where a writer stands: the next sequence number and the hash before it.

    `encode` moves it forward; `mark` and `rewind` take it back to what is durable.
    """

    __slots__ = ("_begin", "_second", "_second_text", "prev", "seq", "writer")

    def __init__(self, writer: str, seq: int = 0, prev: str = ZERO_HASH) -> None:
        self.writer = check_writer_id(writer)
        self._begin = f'{{"v":{VERSION},"writer":"{writer}","seq":'
        self.seq = seq
        self.prev = prev
        self._second = 0
        self._second_text = _second_text(0)

    def encode(
        self,
        kind: str,
        at: float,
        fields: Mapping[str, Any],
        payloads: Mapping[str, PayloadPlace] | None = None,
    ) -> bytes:
        """The record's line without its newline. Raises RecordError and then stays where it was."""
        return self.encode_at(kind, _to_micros(at), fields, payloads)

    def encode_at(
        self,
        kind: str,
        micros: int,
        fields: Mapping[str, Any],
        payloads: Mapping[str, PayloadPlace] | None = None,
    ) -> bytes:
        """`encode`, with the time in microseconds since 1970."""
        body = encode_fields(kind, fields)
        second = micros // 1_000_000
        if second != self._second:
            self._second_text = _second_text(second)
            self._second = second
        fraction = str(1_000_000 + micros % 1_000_000)[1:]
        head = (
            f'{self._begin}{self.seq},"prev":"{self.prev}","at":"{self._second_text}.{fraction}Z","kind":"{kind}",'
        ).encode()
        if payloads:
            inner = body[1:-1] + b"," if len(body) > 2 else b""
            line = b'%b%b"payloads":%b}' % (head, inner, _encode_payloads(payloads))
        elif len(body) > 2:
            line = body.replace(b"{", head, 1)  # its first byte; in one go, for a line is copied often enough
        else:
            line = head[:-1] + b"}"
        if len(line) >= MAX_LINE:
            raise RecordError(f"{kind}: the line has {len(line)} bytes, more than {MAX_LINE - 1}")
        self.prev = sha256(line).hexdigest()
        self.seq += 1
        return line

    def mark(self) -> tuple[int, str]:
        """Where it stands, for `rewind`."""
        return self.seq, self.prev

    def rewind(self, mark: tuple[int, str]) -> None:
        """Forget what was encoded since."""
        self.seq, self.prev = mark


def encode_fields(kind: str, fields: Mapping[str, Any]) -> bytes:
    """The fields as a canonical JSON object. Raises RecordError."""
    if kind not in _kinds:
        if _KIND.match(kind) is None:
            raise RecordError("a record's kind must match [a-z][a-z0-9_.]*")
        if len(_kinds) < 256:
            _kinds.add(kind)
    plain: dict[str, Any] = fields if type(fields) is dict else dict(fields)
    for name in RESERVED:
        if name in plain:
            raise RecordError(f"{kind}: a field has a reserved name")
    try:
        _check_dict(kind, plain)
        return orjson.dumps(plain, option=_CANONICAL)
    except (TypeError, RecursionError) as trouble:
        raise RecordError(f"{kind}: {_without_values(trouble)}") from None


def parse_line(line: bytes) -> Line:
    """Read a line without its newline. Raises RecordError if it is no record; the chain is not checked."""
    if len(line) >= MAX_LINE:
        raise RecordError("longer than a line may be")
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise RecordError("not JSON") from None
    if not isinstance(values, dict) or tuple(values)[:6] != ENVELOPE:
        raise RecordError("the envelope is not v, writer, seq, prev, at, kind")
    version, writer, seq, prev, at, kind = (values.pop(name) for name in ENVELOPE)
    if version != VERSION or type(version) is not int:
        raise RecordError("unknown format version")
    if type(seq) is not int or seq < 0 or not _is_text(writer, prev, at, kind):
        raise RecordError("a member of the envelope has the wrong type")
    if not is_hash(prev) or _KIND.match(kind) is None:
        raise RecordError("prev or kind is malformed")
    parse_time(at)
    payloads = _parse_payloads(values.pop("payloads", {}))
    return Line(writer, seq, prev, at, kind, sha256(line).hexdigest(), values, payloads)


def canonical(line: Line) -> bytes:
    """The bytes this record must have had. Raises RecordError if its fields could not be written."""
    chain = Chain(line.writer, line.seq, line.prev)
    micros = parse_time(line.at)
    return chain.encode_at(line.kind, micros, line.fields, line.payloads)


def format_time(at: float) -> str:
    """Unix seconds as RFC 3339 in UTC with microseconds. Raises RecordError outside years 1970 to 9999."""
    second, fraction = divmod(_to_micros(at), 1_000_000)
    return f"{_second_text(second)}.{fraction:06d}Z"


def parse_time(text: str) -> int:
    """Microseconds since 1970 of a time as `format_time` writes it. Raises RecordError."""
    try:
        if _TIME.match(text) is None:
            raise ValueError
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise RecordError("the time is not RFC 3339 in UTC with microseconds") from None
    return (moment - _EPOCH) // timedelta(microseconds=1)


def new_writer_id(role: str, now: float, random: bytes) -> str:
    """`<role>-<UTC start time>-<hex>`: names sort as starts do. `random` gives the last eight digits."""
    stamp = format_time(now).replace("-", "").replace(":", "").replace(".", "").lower()
    return check_writer_id(f"{role}-{stamp}-{random[:4].hex()}")


def role_of(writer: str) -> str:
    """The part of a writer id that outlives a restart."""
    return writer.split("-", 1)[0]


def is_writer_id(name: str) -> bool:
    """Could this name a writer?"""
    return len(name) <= 96 and _WRITER.match(name) is not None


def check_writer_id(name: str) -> str:
    """Raises RecordError unless `name` can be a writer's."""
    if not is_writer_id(name):
        raise RecordError("a writer id must match [a-z0-9][a-z0-9_]*(-[a-z0-9]+)*, at most 96 characters")
    return name


def is_hash(value: object) -> bool:
    """64 lower-case hexadecimal digits."""
    return isinstance(value, str) and len(value) == 64 and not value.strip("0123456789abcdef")


_SCALARS: Final = frozenset((str, int, bool, type(None)))


def _check_dict(kind: str, values: dict[str, Any]) -> None:
    # orjson would write floats (and NaN as null) without a word
    for value in values.values():
        shape = type(value)
        if not (shape is str or shape is int or value is None or shape is Checked or shape is bool):
            _check(kind, value)


def _check(kind: str, value: Any) -> None:
    shape = type(value)
    if shape is dict:
        _check_dict(kind, value)
    elif shape is list:
        each: list[Any] = value
        for part in each:
            _check(kind, part)
    elif shape is tuple:
        for part in value:
            _check(kind, part)
    elif shape is float:
        raise RecordError(f"{kind}: holds a float")
    elif shape is str or shape is int or value is None or shape is Checked or shape is bool:
        return
    elif not _is_plain_enum(value):
        raise RecordError(f"{kind}: holds a {shape.__name__}")


def _is_plain_enum(value: object) -> bool:
    return isinstance(value, Enum) and type(value.value) in _SCALARS


def _encode_payloads(payloads: Mapping[str, PayloadPlace]) -> bytes:
    plain = {
        name: {"commitment": place.commitment, "ref": place.ref, "size": place.size}
        | ({"sealed": place.sealed} if place.sealed else {})
        for name, place in payloads.items()
    }
    return orjson.dumps(plain, option=_CANONICAL)


def _parse_payloads(value: object) -> dict[str, PayloadPlace]:
    if not isinstance(value, dict):
        raise RecordError("payloads is no object")
    places: dict[str, PayloadPlace] = {}
    for name, place in value.items():
        if not isinstance(place, dict) or place.keys() - {"sealed"} != {"commitment", "ref", "size"}:
            raise RecordError("a payload is not commitment, ref, size")
        commitment, ref, size = place["commitment"], place["ref"], place["size"]
        sealed = place.get("sealed")
        if not is_hash(commitment) or not isinstance(ref, str) or type(size) is not int or size < 0:
            raise RecordError("a payload's commitment, ref or size is malformed")
        if "sealed" in place and not is_hash(sealed):
            raise RecordError("a payload's digest is malformed")
        places[name] = PayloadPlace(commitment, size, ref, sealed or "")
    return places


def _is_text(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


def _to_micros(at: float) -> int:
    try:
        return int(at * 1_000_000 + 0.5)
    except (ValueError, OverflowError):
        raise RecordError("the time is no number") from None


def _second_text(second: int) -> str:
    if not 0 <= second < 253_402_300_800:
        raise RecordError("the time lies outside the years 1970 to 9999")
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:19]


def _without_values(trouble: Exception) -> str:
    if isinstance(trouble, RecursionError) or "ecursion" in str(trouble):
        return "nested too deep"
    if "53-bit" in str(trouble):
        return "holds an integer beyond 53 bits"
    if "surrogates" in str(trouble):
        return "holds text that is no Unicode"
    return "holds something that is no JSON value"
