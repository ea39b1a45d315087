"""Header blocks to heads. HPACK is the `hpack` library's; here it is asked as seldom as possible.

We announce a header table of size 0. Once the peer has acknowledged that, its dynamic table is empty for good, a
field's bytes always mean the same, and whole blocks and single fields can be kept. (Decoding the block of an
ordinary call with a traceparent takes the library 140 µs; of its ten fields nine are as in the call before.)
"""

from __future__ import annotations

import logging

import hpack
from hpack.exceptions import HPACKError

from extproc.protocols.h2.head import CallHead, MalformedError, build_head, check_field

logging.getLogger("hpack").setLevel(logging.WARNING)  # it formats every field for its debug log

_BLOCKS = 256
_FIELDS = 1024
_KEPT_BYTES = 512
"""Longer fields and blocks of many fields are not worth keeping."""
_DEFAULT_TABLE = 4096

Field = tuple[str, str]


class CompressionError(Exception):
    """The block can not be decoded: the whole connection is lost (COMPRESSION_ERROR, RFC 9113 section 4.3)."""


class HeaderListTooLargeError(Exception):
    """More than we said we take; the decoder is still in step with the peer."""


class HeaderDecoder:
    """One connection's decoder."""

    __slots__ = ("_blocks", "_decoder", "_fields", "_largest", "_static")

    def __init__(self, largest: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=largest)
        self._largest = largest
        self._static = False
        self._blocks: dict[bytes, CallHead] = {}
        self._fields: dict[bytes, Field] = {}

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
        known = self._fields
        found: list[Field] = []
        malformed: MalformedError | None = None
        position, end, size = 0, len(block), 0
        while position < end:
            stop = field_end(block, position)
            part = block[position:stop]
            position = stop
            field = known.get(part)
            if field is None:
                if part[0] & 0xE0 == 0x20:
                    # a table size update: 0 is the only size allowed, and only before the first field
                    if part != b"\x20" or found:
                        raise CompressionError("a table size that was not offered")
                    continue
                ((name, value),) = self._library(part)
                try:
                    field = check_field(name, value)
                except MalformedError as error:
                    # what follows may not even decode, which is worse
                    malformed = error
                    continue
                if len(part) <= _KEPT_BYTES:
                    if len(known) >= _FIELDS:
                        known.clear()
                    known[part] = field
            size += len(field[0]) + len(field[1]) + 32
            if size > self._largest:
                raise HeaderListTooLargeError
            found.append(field)
        if malformed is not None:
            raise malformed
        return found

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
        if first & 0xC0 == 0x40:
            mask = 0x3F
        elif first & 0xE0 == 0x20:
            return _after_integer(block, position, 0x1F)
        else:
            mask = 0x0F
        # the name, by index or as a string, and then the value
        named = first & mask
        position = _after_integer(block, position, mask) if named else _after_string(block, position + 1)
        position = _after_string(block, position)
    except IndexError:
        raise CompressionError("a header field cut short") from None
    if position > len(block):
        raise CompressionError("a header field cut short")
    return position


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
