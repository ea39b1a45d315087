"""The request head, read so that policy and upstream cannot disagree about it.

A path, method or header that a lenient server might read in a second way is refused (`ProtocolError`), because
a rule would otherwise judge one request while another one runs.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import unquote_to_bytes

from extproc.domain.errors import ProtocolError
from extproc.domain.nouns import noun
from extproc.domain.request import Headers


def _visible(without: str) -> str:
    """ASCII from ! to ~, but for these."""
    return "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in without)


_ALNUM: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TOKEN: Final = _ALNUM + "!#$%&'*+.^_`|~-"  # RFC 9110
_PLAIN: Final = _ALNUM + "/._~!$&'()*+,=:@-"
"""What a path is made of that has no escapes (RFC 3986), but for the semicolon."""
_PATH: Final = _visible('"#;?\\^`{}')
"""Path characters of RFC 3986 plus a few that are harmless."""
_QUERY: Final = _visible('"#')
_AUTHORITY: Final = _visible("/\\@?#")
_LONGEST_METHOD: Final = 32
_ESCAPE: Final = re.compile(r"%(..)?", re.DOTALL)

SINGLE: Final = (
    ":method",
    ":path",
    ":authority",
    ":scheme",
    "host",
    "content-type",
    "content-length",
    "content-encoding",
)
"""Fields that may appear once: a second one is read by some servers and not by others."""

OVERRIDES: Final = frozenset(
    {
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
        "x-original-url",
        "x-original-uri",
        "x-rewrite-url",
        "x-forwarded-uri",
    }
)
"""Fields that make some frameworks run another method or path than the one that was judged."""


@noun(slots=True, init=False, unsafe_hash=True)
class RequestLine:
    """Method, authority and path as policy sees them. `path` is raw; `url_path` is percent-decoded once."""

    method: Final[str]
    scheme: Final[str]
    host: Final[str]
    path: Final[str]
    url_path: Final[str]
    query: Final[str]
    upgrade: Final[bool]

    def __init__(
        self, method: str, scheme: str, host: str, path: str, url_path: str, query: str, upgrade: bool
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.host = host
        self.path = path
        self.url_path = url_path
        self.query = query
        self.upgrade = upgrade


def read_request_line(headers: Headers) -> RequestLine:
    """The request line of one request. Raises ProtocolError with a stable code (RFC 9110, RFC 9112, RFC 3986)."""
    if headers.has_repeats:
        for name in SINGLE:
            if name in headers and len(headers.all(name)) > 1:
                raise ProtocolError("duplicate-header", f"The header {name} appears more than once.")
    for name in headers.names:
        if name not in _harmless:
            _check_override(name)
    method = headers.get(":method")
    if not 0 < len(method) <= _LONGEST_METHOD or not _is_made_of(_TOKEN, method):
        raise ProtocolError("invalid-method", "The request method is not a token.")
    host = headers.get(":authority")
    if not host or not _is_made_of(_AUTHORITY, host):
        raise ProtocolError("invalid-authority", "The request has no usable authority.")
    if "host" in headers and headers.get("host") != host:
        raise ProtocolError("authority-mismatch", "Host and authority name different hosts.")
    upgrade = method == "CONNECT" or "upgrade" in headers
    if method == "CONNECT" and ":path" not in headers:
        return RequestLine(method, headers.get(":scheme"), host, "", "", "", upgrade)
    raw = headers.get(":path")
    path, mark, query = raw.partition("?") if "?" in raw else (raw, "", "")
    url_path = path if _is_plain(path) else _decode_path(path, method)
    if mark and not _is_made_of(_QUERY, query):
        raise ProtocolError("invalid-query", "The query has characters that must be percent-encoded.")
    return RequestLine(method, headers.get(":scheme"), host, raw, url_path, query, upgrade)


def _is_made_of(characters: str, text: str) -> bool:
    """Whether it holds nothing else. A pattern would say the same, and bring its machinery into the cache."""
    return not text.strip(characters)


def _is_plain(path: str) -> bool:
    """The common case: no escapes, no dot first in a segment, no empty segment, so nothing to look at twice."""
    return path.startswith("/") and _is_made_of(_PLAIN, path) and "//" not in path and "/." not in path


_harmless: Final[set[str]] = set()
"""Names seen before that override nothing."""
_MOST_HARMLESS: Final = 512


def _check_override(name: str) -> None:
    # CGI-style servers read an underscore as a dash
    if name.replace("_", "-") in OVERRIDES:
        raise ProtocolError("override-header", "A header that overrides method or path is not accepted here.")
    if len(_harmless) < _MOST_HARMLESS and len(name) <= 64:
        _harmless.add(name)


def _decode_path(path: str, method: str) -> str:
    """Percent-decode once, refusing what a second reader could see as another path."""
    if path == "*" and method == "OPTIONS":
        return path
    if not path.startswith("/") or not _is_made_of(_PATH, path):
        raise ProtocolError("ambiguous-path", "The path has characters that must be percent-encoded.")
    for escape in _ESCAPE.finditer(path):
        pair = escape.group(1)
        try:
            byte = int(pair, 16) if pair and pair.isascii() and pair.isalnum() else -1
        except ValueError:
            byte = -1
        if byte < 0:
            raise ProtocolError("ambiguous-path", "The path has a broken percent escape.")
        if byte in b"/\\%;?#" or byte < 0x20 or byte == 0x7F:
            raise ProtocolError(
                "ambiguous-path", "The path hides a separator or control character in an escape."
            )
    try:
        decoded = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError("ambiguous-path", "The path is not UTF-8 once decoded.") from None
    _check_segments(decoded)
    if not decoded.isascii():
        # some servers normalise: full-width dots and slashes become real ones (Unicode NFKC)
        folded = unicodedata.normalize("NFKC", decoded)
        if any(folded.count(mark) > decoded.count(mark) for mark in "/\\%;?#"):
            raise ProtocolError("ambiguous-path", "The path hides a separator in a look-alike character.")
        _check_segments(folded)
    return decoded


def _check_segments(path: str) -> None:
    segments = path.split("/")[1:]
    if any(segment in (".", "..") for segment in segments) or "" in segments[:-1]:
        raise ProtocolError("ambiguous-path", "The path has empty or dot segments.")


def query_params(query: str) -> dict[str, list[str]]:
    """Decoded query parameters by name, every value in order (application/x-www-form-urlencoded)."""
    params: dict[str, list[str]] = {}
    for pair in query.split("&"):
        if not pair:
            continue
        name, _, value = pair.partition("=")
        params.setdefault(_unquote(name), []).append(_unquote(value))
    return params


def _unquote(text: str) -> str:
    raw = unquote_to_bytes(text.replace("+", " "))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError("invalid-query", "The query is not UTF-8 once decoded.") from None


def check_override_param(query: str) -> None:
    """Refuse `_method` as a query parameter: some frameworks run it instead of the method that was judged."""
    if "method" in query.lower() or "%" in query:
        # some servers split at a semicolon too (HTML 4.01 appendix B.2.2)
        for name in query_params(query.replace(";", "&")):
            if name.strip().lower() == "_method":
                raise ProtocolError("override-parameter", "The parameter _method is not accepted here.")
