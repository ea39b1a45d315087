"""What a content type says about a body: its format and its charset. Nothing is guessed from the bytes alone."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Literal

from extproc.domain.errors import MaskingError
from extproc.domain.recurring import recurring

Format = Literal["json", "json-lines", "json-seq", "form", "markup", "text", "unknown"]


@dataclass(frozen=True, slots=True)
class ContentType:
    """A parsed content type. `charset` is "" when none is declared."""

    format: Format
    charset: str


@recurring
def parse_content_type(value: str) -> ContentType:
    """Read a content-type header (RFC 9110 §8.3.1). Anything ambiguous is `unknown`, never a guess.

    Raises MaskingError("charset") when two different charsets are declared.
    """
    media, _, parameters = value.partition(";")
    media = media.strip().lower()
    if not media:
        return ContentType("text" if not value.strip() else "unknown", "")
    if _MEDIA.fullmatch(media) is None:
        return ContentType("unknown", "")
    charsets = {(quoted or token).strip().lower() for quoted, token in _CHARSET.findall(f";{parameters}")}
    if len(charsets) > 1:
        raise MaskingError("charset", "the content type declares two charsets")
    return ContentType(_format(media), charsets.pop() if charsets else "")


def _format(media: str) -> Format:
    known = _FORMATS.get(media)
    if known is not None:
        return known
    if media.endswith("+json"):
        return "json"
    if media.endswith("+json-seq"):
        return "json-seq"
    if media.startswith("image/"):
        return "unknown"  # image/svg+xml may embed encoded pictures
    if media.endswith("+xml"):
        return "markup"
    if media.endswith("+yaml"):
        return "text"
    return "text" if media.startswith("text/") else "unknown"


def to_utf8(data: bytes, charset: str, *, is_json: bool) -> tuple[bytes, str, bytes]:
    """The body in UTF-8 without its byte order mark, the codec to go back by ("" for none), and the mark.

    Raises MaskingError("charset") for what is not decodable as declared, or not declared and not UTF-8.
    """
    name = _CODECS.get(charset)
    if name is None:
        raise MaskingError("charset", "the body's charset cannot be inspected")
    if name == "utf-8":
        mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
        body = data[len(mark) :] if mark else data
        # JSON is decoded after its syntax check; NUL in JSON or text means UTF-16 or worse
        if b"\0" in body:
            raise MaskingError("charset", "the body is not UTF-8")
        if not is_json and not body.isascii():
            _decode(body, "utf-8")
        return body, "", mark
    mark = b""
    if name == "utf-16" or name == "utf-32":
        name, mark = _by_mark(data, name)
    else:
        known = _MARKS.get(name, b"")
        mark = known if known and data.startswith(known) else b""
    text = _decode(data[len(mark) :], name)
    if not name.startswith("utf") and "\0" in text:
        raise MaskingError("charset", "the body is not in its declared charset")
    return text.encode("utf-8"), name, mark


def from_utf8(data: bytes, codec: str, mark: bytes) -> bytes:
    """Back to the charset the body came in; a replacement text it cannot spell gets question marks."""
    return mark + (data if not codec else data.decode("utf-8").encode(codec, "replace"))


def _decode(data: bytes, codec: str) -> str:
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        raise MaskingError("charset", "the body is not in its declared charset") from None


def _by_mark(data: bytes, family: str) -> tuple[str, bytes]:
    for name in (f"{family}-le", f"{family}-be"):
        if data.startswith(_MARKS[name]):
            return name, _MARKS[name]
    raise MaskingError("charset", "the body's byte order is not known")


_MEDIA = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")
_CHARSET = re.compile(r';\s*charset\s*=\s*(?:"([^"]*)"|([^\s;"]*))', re.IGNORECASE)
_FORMATS: dict[str, Format] = {
    "application/json": "json",
    "text/json": "json",
    "application/x-json": "json",
    "application/manifest+json": "json",
    "application/x-ndjson": "json-lines",
    "application/ndjson": "json-lines",
    "application/jsonl": "json-lines",
    "application/x-jsonlines": "json-lines",
    "application/json-lines": "json-lines",
    "application/jsonlines": "json-lines",
    "application/stream+json": "json-lines",
    "application/json-seq": "json-seq",
    "application/x-www-form-urlencoded": "form",
    "text/html": "markup",
    "text/xml": "markup",
    "application/xml": "markup",
    "application/xhtml+xml": "markup",
    "application/javascript": "text",
    "application/x-javascript": "text",
    "application/ecmascript": "text",
    "application/yaml": "text",
    "application/x-yaml": "text",
    "application/toml": "text",
    "application/sql": "text",
    "application/graphql": "text",
    "application/csv": "text",
    "text/event-stream": "unknown",
    "multipart/form-data": "unknown",
}
_CODECS = {
    "": "utf-8",
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "utf-8",
    "ascii": "utf-8",
    "iso-8859-1": "iso-8859-1",
    "iso8859-1": "iso-8859-1",
    "latin1": "iso-8859-1",
    "latin-1": "iso-8859-1",
    "iso-8859-15": "iso-8859-15",
    "windows-1252": "windows-1252",
    "cp1252": "windows-1252",
    "utf-16": "utf-16",
    "utf-16le": "utf-16-le",
    "utf-16be": "utf-16-be",
    "utf-32": "utf-32",
    "utf-32le": "utf-32-le",
    "utf-32be": "utf-32-be",
}
_MARKS = {
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}
for _name in (*_CODECS.values(), "latin-1"):
    codecs.lookup(_name)  # codecs are imported on first use: have that happen now
