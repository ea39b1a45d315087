"""Header blocks to heads. HPACK is the `hpack` library's; here it is asked as seldom as possible.

We announce a header table of size 0. Once the peer has acknowledged that, its dynamic table is empty for good, a
field's bytes always mean the same, and what was decoded can be kept: whole blocks, the fields of the block before,
names. (The block of an ordinary call takes the library 140 µs, and a traceparent makes every block a new one.)
"""

from __future__ import annotations

import logging
from typing import Final

import hpack
from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman

from extproc.protocols.h2.head import CallHead, MalformedError, build_head, check_field

logging.getLogger("hpack").setLevel(logging.WARNING)  # it formats every field for its debug log

_BLOCKS: Final = 256
_FIELDS: Final = 256
_KEPT_NAME: Final = 64
_KEPT_BYTES: Final = 512
"""Longer names and fields are not worth keeping."""

Field = tuple[str, str]


class CompressionError(Exception):
    """The block can not be decoded: the whole connection is lost (COMPRESSION_ERROR, RFC 9113 section 4.3)."""


class HeaderListTooLargeError(Exception):
    """More than we said we take; the decoder is still in step with the peer."""


class HeaderDecoder:
    """One connection's decoder."""

    __slots__ = ("_before", "_blocks", "_decoder", "_largest", "_names", "_static")

    def __init__(self, largest: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=largest)
        self._largest = largest
        self._static = False
        self._blocks: dict[bytes, CallHead] = {}
        self._before: list[tuple[bytes, Field]] = []
        """Encoded and decoded fields of the block before."""
        self._names: dict[bytes, bytes] = {}
        """Names by their encoding, first byte included."""

    def forbid_table(self) -> None:
        """The peer acknowledged table size 0. Its next block says so itself (RFC 7541 section 4.2)."""
        self._decoder.max_allowed_table_size = 0

    @property
    def may_skip(self) -> bool:
        """A block may go undecoded without getting out of step."""
        return self._static

    def head(self, block: bytes) -> CallHead:
        """The call that `block` starts. Raises CompressionError, HeaderListTooLargeError, MalformedError."""
        if self._static:
            head = self._blocks.get(block)
            if head is not None:
                return head
        head = build_head(self.fields(block))
        if self._static and len(block) <= _KEPT_BYTES * 4:
            if len(self._blocks) >= _BLOCKS:
                self._blocks.clear()
            self._blocks[block] = head
        return head

    def fields(self, block: bytes) -> list[Field]:
        """Every field, checked. Raises CompressionError, HeaderListTooLargeError, MalformedError."""
        if not self._static:
            found = [check_field(name, value) for name, value in self._library(block)]
            table = self._decoder.header_table
            if self._decoder.max_allowed_table_size == 0:
                # the library raised unless the peer shrank its table, so nothing can be left in it
                if table.maxsize != 0 or table.dynamic_entries:
                    raise CompressionError("the dynamic table is not empty")
                self._static = True
            return found
        return self._static_fields(block)

    def _static_fields(self, block: bytes) -> list[Field]:
        """Walk along the block before: of the fields of two calls all but one or two are the same bytes.

        No field's encoding begins another's, so a block that goes on with the bytes of a field has that field there.
        """
        before = self._before
        seen: list[tuple[bytes, Field]] = []
        found: list[Field] = []
        position, end, index, known = 0, len(block), 0, len(before)
        malformed: MalformedError | None = None
        while position < end:
            if index < known:
                entry = before[index]
                index += 1
                if block.startswith(entry[0], position):
                    position += len(entry[0])
                    seen.append(entry)
                    found.append(entry[1])
                    continue
            stop = field_end(block, position)
            part = block[position:stop]
            position = stop
            if part[0] & 0xE0 == 0x20:
                # a table size update: 0 is the only size allowed, and only before the first field
                if part != b"\x20" or found:
                    raise CompressionError("a table size that was not offered")
                continue
            try:
                field = self._field(part)
            except MalformedError as error:
                malformed = error  # what follows may not even decode, which is worse
                continue
            if len(part) <= _KEPT_BYTES:
                seen.append((part, field))
            found.append(field)
            if len(found) * 32 > self._largest:
                raise HeaderListTooLargeError
        if sum([len(name) + len(value) for name, value in found]) + 32 * len(found) > self._largest:
            raise HeaderListTooLargeError
        if malformed is not None:
            raise malformed
        if len(seen) <= _FIELDS:
            self._before = seen
        return found

    def _field(self, part: bytes) -> Field:
        """One field; its name, mostly, was seen before. Raises CompressionError, MalformedError."""
        if part[0] & 0x80:  # all of it by index
            return check_field(*self._library(part)[0])
        split = name_end(part)
        name = self._names.get(part[:split])
        if name is not None and part[split] & 0x80:
            try:
                return check_field(name, decode_huffman(part[after_length(part, split) :]))
            except HPACKError:
                raise CompressionError("a header field that does not decode") from None
        name, value = self._library(part)[0]
        if split <= _KEPT_NAME:
            if len(self._names) >= _FIELDS:
                self._names.clear()
            self._names[part[:split]] = name
        return check_field(name, value)

    def _library(self, block: bytes) -> list[tuple[bytes, bytes]]:
        try:
            return list(self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError:
            if self._static:
                raise HeaderListTooLargeError from None
            raise CompressionError("a header list too large, and the decoder is out of step") from None
        except (HPACKError, IndexError, ValueError):
            raise CompressionError("a header block that does not decode") from None


def field_end(block: bytes, position: int) -> int:
    """Where the field at `position` ends (RFC 7541 section 6). Raises CompressionError if it is cut short."""
    try:
        first = block[position]
        if first & 0x80:
            return _after_integer(block, position, 0x7F)
        if first & 0xE0 == 0x20:
            return _after_integer(block, position, 0x1F)
        position = _after_string(block, name_end(block, position))
    except IndexError:
        raise CompressionError("a header field cut short") from None
    if position > len(block):
        raise CompressionError("a header field cut short")
    return position


def name_end(block: bytes, position: int = 0) -> int:
    """Where the value of a literal field begins."""
    first = block[position]
    mask = 0x3F if first & 0x40 else 0x0F
    named = first & mask  # by index; else the name is a string
    return _after_integer(block, position, mask) if named else _after_string(block, position + 1)


def after_length(block: bytes, position: int) -> int:
    """Where the bytes of a string literal begin (section 5.2)."""
    return _after_integer(block, position, 0x7F)


def _after_string(block: bytes, position: int) -> int:
    length = block[position] & 0x7F
    if length < 0x7F:
        return position + 1 + length
    stop = _after_integer(block, position, 0x7F)
    shift = 0
    for index in range(position + 1, stop):
        length += (block[index] & 0x7F) << shift
        shift += 7
    return stop + length


def _after_integer(block: bytes, position: int, mask: int) -> int:
    if block[position] & mask != mask:
        return position + 1
    for index in range(position + 1, position + 6):
        if block[index] < 0x80:
            return index + 1
    raise CompressionError("an integer too long")


__all__ = [
    "CallHead",
    "CompressionError",
    "HeaderDecoder",
    "HeaderListTooLargeError",
    "MalformedError",
    "field_end",
]
