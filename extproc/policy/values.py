"""Reading single values of a policy file: text, whole numbers, durations, names, header names.

Each function notes a problem at the value's place and returns None when the value cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from extproc.policy.documents import Mapping, Mark, Node, Reader, Scalar, Sequence
from extproc.policy.facts import suggestion

NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?")
CODE = re.compile(r"[a-z](?:[a-z0-9-]{0,62}[a-z0-9])?")
ENTITY = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110 5.6.2
_WHOLE = re.compile(r"-?[0-9]{1,9}")
_DURATION = re.compile(r"(?:[0-9]{1,7}(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_CONNECTION = """
connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding
upgrade host content-length authorization
"""
_UNTOUCHABLE = frozenset(_CONNECTION.split())
"""Hop-by-hop fields (RFC 9110 7.6.1), message framing, routing, and what carries credentials."""


def mapping(reader: Reader, node: Node | None, known: Collection[str], what: str) -> Mapping | None:
    """A mapping with known keys only."""
    if node is None:
        return None
    if isinstance(node, Scalar) and node.is_null:
        return Mapping({}, {}, node.mark)
    if not isinstance(node, Mapping):
        reader.problem(node.mark, f"{what} is a mapping")
        return None
    for key, mark in node.keys.items():
        if key not in known:
            reader.problem(mark, f'{what}: unknown key "{key}"{suggestion(key, tuple(known))}')
    return node


def items(reader: Reader, node: Node | None, what: str) -> list[Node]:
    if node is None:
        return []
    if isinstance(node, Sequence):
        return node.items
    reader.problem(node.mark, f"{what} is a list")
    return []


def text(reader: Reader, node: Node, what: str, *, most: int = 1000, empty: bool = False) -> str | None:
    """Readable text: no control characters but line ends and tabs."""
    if not isinstance(node, Scalar) or (node.is_null and not empty):
        reader.problem(node.mark, f"{what} is text")
        return None
    if node.is_null:
        return ""
    if len(node.text) > most:
        reader.problem(node.mark, f"{what} has more than {most} characters")
        return None
    if any((ord(char) < 32 and char not in "\n\t") or ord(char) == 127 for char in node.text):
        reader.problem(node.mark, f"{what} holds control characters")
        return None
    return node.text


def matching(reader: Reader, node: Node, pattern: re.Pattern[str], what: str, shape: str) -> str | None:
    found = text(reader, node, what)
    if found is not None and not pattern.fullmatch(found):
        reader.problem(node.mark, f"{what}: {shape}")
        return None
    return found


def name(reader: Reader, node: Node, what: str) -> str | None:
    return matching(reader, node, NAME, what, "letters, digits, dot, dash and underscore, at most 63")


def one_of(reader: Reader, node: Node, choices: Collection[str], what: str) -> str | None:
    found = text(reader, node, what)
    if found is not None and found not in choices:
        hint = suggestion(found, tuple(choices))
        reader.problem(node.mark, f'{what} is one of {", ".join(choices)}, not "{found[:40]}"{hint}')
        return None
    return found


def one_of_masks(reader: Reader, node: Node, masks: Collection[str], this: str) -> str | None:
    """The name of a mask that the file defines."""
    found = text(reader, node, f"{this}: mask")
    if found is not None and found not in masks:
        reader.problem(node.mark, f'{this}: unknown mask "{found[:63]}"{suggestion(found, tuple(masks))}')
        return None
    return found


def whole(reader: Reader, node: Node, what: str, least: int, most: int) -> int | None:
    if not isinstance(node, Scalar) or not node.is_plain or not _WHOLE.fullmatch(node.text):
        reader.problem(node.mark, f"{what} is a whole number")
        return None
    if not least <= int(node.text) <= most:
        reader.problem(node.mark, f"{what} is between {least} and {most}")
        return None
    return int(node.text)


def truth(reader: Reader, node: Node, what: str) -> bool | None:
    if isinstance(node, Scalar) and node.is_plain and node.text in ("true", "false"):
        return node.text == "true"
    reader.problem(node.mark, f"{what} is true or false")
    return None


def duration(reader: Reader, node: Node, what: str, most: float) -> float | None:
    """`90s`, `10m`, `1h30m`, `2d`; in seconds."""
    if not isinstance(node, Scalar) or not _DURATION.fullmatch(node.text):
        reader.problem(node.mark, f"{what} is a duration such as 90s, 10m, 24h or 7d")
        return None
    seconds = sum(int(count) * _SECONDS[unit] for count, unit in _DURATION_PART.findall(node.text))
    if seconds > most:
        reader.problem(node.mark, f"{what} is longer than {spoken(most)}")
        return None
    return seconds


def spoken(seconds: float) -> str:
    """Seconds as a file would say them."""
    for unit in ("d", "h", "m"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds // _SECONDS[unit])}{unit}"
    return f"{seconds:g}s"


def header_name(reader: Reader, mark: Mark, written: str, what: str) -> str | None:
    """A field name that a policy may change, in lower case."""
    lowered = written.lower()
    if lowered.startswith(":"):
        reader.problem(mark, f'{what}: "{written[:40]}" is a pseudo-header; policies change fields only')
    elif not _TOKEN.fullmatch(written):
        reader.problem(mark, f"{what}: not a header name")
    elif lowered in _UNTOUCHABLE:
        reader.problem(mark, f'{what}: "{lowered}" may not be changed by a policy')
    elif lowered.startswith("x-envoy-"):
        # x-envoy-retry-on and its like change what the proxy does with the request.
        reader.problem(mark, f'{what}: "{lowered}" steers the proxy and may not be changed by a policy')
    else:
        return lowered
    return None


def header_value(reader: Reader, node: Node, what: str) -> str | None:
    """RFC 9110 5.5: visible characters, spaces and tabs inside; nothing beyond Latin-1."""
    found = text(reader, node, what, most=4096)
    if found is None:
        return None
    if (
        found != found.strip(" \t")
        or "\n" in found
        or any(ord(char) > 255 or 127 <= ord(char) < 160 for char in found)
    ):
        reader.problem(node.mark, f"{what}: not a header value")
        return None
    return found
