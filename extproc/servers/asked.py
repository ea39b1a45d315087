"""One message of Envoy's external processing, read from its bytes.

As with header maps (header_map.py), a message laid out as Envoy lays it out is cut up where it lies, and any other
goes to the general parser, which has the last word on what is a message at all.
"""

from __future__ import annotations

from typing import Final

from extproc.servers.wire import ext_proc_pb2 as pb

KINDS: Final = (
    "", "", "request_headers", "response_headers", "request_body", "response_body", "request_trailers",
    "response_trailers",
)  # fmt: skip
"""The part a message has, by its field number."""
METADATA_CONTEXT: Final = 8
ATTRIBUTES: Final = 9
PROTOCOL_CONFIG: Final = 11
BYTES: Final = 2
"""Wire type: a length and bytes."""
CONTENT_TAG: Final = 0x0A
"""Field 1 of every part: its header map, its body, its trailers."""
END_TAGS: Final = (0, 0, 0x18, 0x18, 0x10, 0x10, 0, 0)
"""`end_of_stream` of each part, by the field number of the part; trailers have none."""


class Asked:
    """A message of Envoy's. `kind` is the name of its request part, "" where it has none.

    `content` is that part's header map, body or trailers; `protocol_config` is None where it was not sent.
    """

    __slots__ = (
        "attributes", "content", "end_of_stream", "kind", "metadata_context", "observability_mode", "protocol_config",
    )  # fmt: skip

    def __init__(self) -> None:
        self.kind: str = ""
        self.content: bytes = b""
        self.end_of_stream: bool = False
        self.metadata_context: bytes = b""
        self.attributes: list[bytes] = []
        self.observability_mode: bool = False
        self.protocol_config: bytes | None = None


def read_asked(data: bytes) -> Asked:
    """Raises DecodeError for what is no message."""
    asked = Asked()
    at, end = 0, len(data)
    try:
        while at < end:
            tag = data[at]
            number = tag >> 3
            size, at = _length(data, at + 1)
            stop = at + size
            if tag & 7 != BYTES or stop > end or size < 0:
                return _read_any(data)
            if 2 <= number <= 7 and not asked.kind:
                asked.kind = KINDS[number]
                if at < stop and data[at] == CONTENT_TAG:
                    size, at = _length(data, at + 1)
                    after = at + size
                    if size < 0 or after > stop:
                        return _read_any(data)
                    asked.content = data[at:after]
                    at = after
                if at < stop:
                    if stop - at != 2 or data[at] != END_TAGS[number] or data[at + 1] != 1:
                        return _read_any(data)
                    asked.end_of_stream = True
            elif number == ATTRIBUTES:
                asked.attributes.append(data[at:stop])
            elif number == PROTOCOL_CONFIG and asked.protocol_config is None:
                asked.protocol_config = data[at:stop]
            elif number == METADATA_CONTEXT and not asked.metadata_context:
                asked.metadata_context = data[at:stop]
            else:
                return _read_any(data)
            at = stop
    except IndexError:
        return _read_any(data)
    return asked


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length of at most four bytes, or -1, and where it ends. Raises IndexError."""
    size = data[at]
    if size < 0x80:
        return size, at + 1
    size &= 0x7F
    shift = 7
    while shift < 28:
        at += 1
        more = data[at]
        size |= (more & 0x7F) << shift
        if more < 0x80:
            return size, at + 1
        shift += 7
    return -1, at


def _read_any(data: bytes) -> Asked:
    message = pb.Asked.FromString(data)
    asked = Asked()
    asked.metadata_context = message.metadata_context
    asked.attributes = list(message.attributes)
    asked.observability_mode = message.observability_mode
    if message.HasField("protocol_config"):
        asked.protocol_config = message.protocol_config
    kind = message.WhichOneof("request")
    if kind is None:
        return asked
    asked.kind = kind
    part = getattr(message, kind)
    if kind.endswith("_headers"):
        asked.content, asked.end_of_stream = part.headers, part.end_of_stream
    elif kind.endswith("_body"):
        asked.content, asked.end_of_stream = part.body, part.end_of_stream
    else:
        asked.content = part.trailers
    return asked
