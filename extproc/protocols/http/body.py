"""Bodies: content codings undone within a limit, JSON read so that no second reader can see another value."""

from __future__ import annotations

import json
import re
import unicodedata
import zlib
from typing import Any, NoReturn

from extproc.domain.errors import ProtocolError
from extproc.domain.recurring import recurring

CODINGS = ("gzip", "x-gzip", "deflate")
UTF8 = ("", "utf-8", "utf8")
"""Charset parameters that mean UTF-8 for JSON (RFC 8259 §8.1)."""
MAX_JSON_DEPTH = 64


def decode(body: bytes, content_encoding: str, limit: int) -> bytes:
    """Undo one gzip or deflate coding (RFC 9110 §8.4). Any other coding, or two, raises ProtocolError 415.

    The result never exceeds `limit` bytes; a bomb raises ProtocolError 413 after at most that much work.
    """
    coding = content_encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in CODINGS:
        raise ProtocolError("unsupported-coding", "This content coding cannot be inspected.", status=415)
    if coding == "deflate":
        # RFC 9110 means the zlib format; some peers send raw deflate, recognisable by its first byte
        windows = zlib.MAX_WBITS if body[:1] and body[0] & 0x0F == 8 else -zlib.MAX_WBITS
    else:
        windows = zlib.MAX_WBITS | 16
    if coding == "deflate" and windows > 0 and _is_raw_deflate(body, limit):
        raise ProtocolError("broken-coding", "The body can be read as two kinds of deflate.")
    inflater = zlib.decompressobj(windows)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error:
        raise ProtocolError("broken-coding", "The body does not decode as its content coding says.") from None
    if len(plain) > limit:
        raise ProtocolError("body-too-large", "The decoded body is over the limit.", status=413)
    if not inflater.eof or inflater.unused_data:
        # a second gzip member or trailing bytes: readers disagree whether they belong to the body
        raise ProtocolError("broken-coding", "The coded body is cut short or has trailing bytes.")
    return plain


def _is_raw_deflate(body: bytes, limit: int) -> bool:
    """Whether a reader that expects raw deflate finds a whole stream in a body that starts like zlib's, or more
    than `limit` bytes of one."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return len(inflater.decompress(body, limit + 1)) > limit or inflater.eof
    except zlib.error:
        return False


@recurring
def readable_codings(accept_encoding: str) -> str:
    """What is left of an Accept-Encoding once every coding that we cannot undo is struck out (RFC 9110 §12.5.3).

    `gzip;q=0` means "not gzip"; weights are dropped, since at most two codings are left.
    """
    kept: list[str] = []
    for element in accept_encoding.lower().split(","):
        coding, *parameters = (part.strip() for part in element.split(";"))
        refused = any(_ZERO_WEIGHT.fullmatch(parameter) for parameter in parameters)
        if coding in ("gzip", "deflate") and not refused and coding not in kept:
            kept.append(coding)
    return ", ".join(kept) or "identity"


_ZERO_WEIGHT = re.compile(r"q\s*=\s*0(\.0{0,3})?")


def is_json(content_type: str) -> bool:
    """Whether the media type is JSON (`application/json` or a `+json` suffix, RFC 6839)."""
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/json" or media.endswith("+json")


def is_form(content_type: str) -> bool:
    """Whether the media type is an HTML form."""
    media = content_type.partition(";")[0].strip().lower()
    return media == "application/x-www-form-urlencoded"


def charset(content_type: str) -> str:
    """The charset parameter in lower case, "" when absent (RFC 9110 §8.3.2)."""
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower()
    return ""


def read_json(body: bytes, content_type: str) -> Any:
    """One JSON value (RFC 8259), UTF-8 only.

    Raises ProtocolError for anything lenient readers differ on: duplicate keys (also when they differ in case
    only: Go and others fold it), NaN, a byte order mark, other charsets, trailing text, deep nesting.
    """
    if not is_json(content_type) or "/" in content_type.partition(";")[2]:
        raise ProtocolError("not-json", "The body is not declared as JSON.", status=415)
    if charset(content_type) not in UTF8:
        raise ProtocolError("unsupported-charset", "JSON must be UTF-8.", status=415)
    if body[:3] == b"\xef\xbb\xbf":
        raise ProtocolError("invalid-json", "The JSON body starts with a byte order mark.")
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except ProtocolError:
        raise
    except RecursionError:
        raise ProtocolError("invalid-json", "The JSON body is nested too deeply.") from None
    except ValueError:
        raise ProtocolError("invalid-json", "The body is not valid JSON.") from None
    _check_depth(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs) or (len(made) > 1 and len({_folded(key) for key in made}) != len(made)):
        raise ProtocolError("duplicate-json-key", "A JSON object names the same key twice.")
    return made


def _folded(key: str) -> str:
    """A key as the most lenient reader might see it: without case, look-alikes, invisible or trailing parts."""
    if key.isascii() and key.isalnum():
        return key.lower()
    shown = unicodedata.normalize("NFKC", key.partition("\0")[0]).casefold()
    return "".join(letter for letter in shown if unicodedata.category(letter)[0] not in "CZ")


def _no_constant(_: str) -> NoReturn:
    raise ProtocolError("invalid-json", "NaN and Infinity are not JSON.")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        deeper: list[Any] = []
        for item in level:
            if type(item) is dict:
                deeper.extend(item.values())
            elif type(item) is list:
                deeper.extend(item)
        if not deeper:
            return
        level = deeper
    raise ProtocolError("invalid-json", "The JSON body is nested too deeply.")
