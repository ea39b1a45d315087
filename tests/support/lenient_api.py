"""A vulnerable API: it takes a request in every way that some real framework would, and does the worst of them.

Three effects are forbidden by the policy under test: a payment of 1000 or more, a deleted customer, and the
keys under `/admin/keys`. Each reading below is one that shipped in some server or framework.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
import zlib
from collections.abc import Iterator
from email.message import Message
from enum import StrEnum
from urllib.parse import parse_qsl, urlsplit

from tests.support.lenient_json import Pairs, read_documents
from tests.support.replies import Reply, json_reply
from tests.support.upstream import SeenRequest

HOST = "api.example"
LIMIT = 1000
MAX_BODY = 1 << 20

METHOD_HEADERS = ("x-http-method-override", "x-http-method", "x-method-override")
URL_HEADERS = ("x-original-url", "x-rewrite-url", "x-original-uri", "x-forwarded-uri")


class Effect(StrEnum):
    """What must never happen under the policy."""

    PAYMENT = "payment"
    DELETE = "delete"
    KEYS = "keys"


class LenientApi:
    """The handler of an `Upstream`. Effects add up until `reset`."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.payments: list[float] = []
        self.handled = 0

    def reset(self) -> None:
        """Forget everything that happened."""
        self.effects.clear()
        self.payments.clear()
        self.handled = 0

    def __call__(self, seen: SeenRequest) -> Reply:
        self.handled += 1
        types = [part.strip() for value in headers(seen, "content-type") for part in value.split(",")]
        texts = list(dict.fromkeys(read_texts(seen.body, codings(seen), types))) if seen.body else []
        forms = [pair for text in texts for pair in read_form(text, types)]
        queries = [pair for target in targets(seen) for pair in read_query(target)]
        for method in methods(seen, [*queries, *forms]):
            for path in paths(seen):
                if (answer := self._act(method, path, texts, types, [*queries, *forms])) is not None:
                    return answer
        return json_reply({"path": seen.path})

    def _act(
        self, method: str, path: str, texts: list[str], types: list[str], pairs: list[tuple[str, str]]
    ) -> Reply | None:
        if path == "/admin/keys" and method in ("GET", "HEAD"):
            self.effects.append(Effect.KEYS)
            return json_reply({"keys": ["AKIAIOSFODNN7EXAMPLE"]})
        if method == "DELETE" and re.fullmatch(r"/customers(/[^/]+)?", path):
            self.effects.append(Effect.DELETE)
            return json_reply({"deleted": path})
        if path == "/payments" and method in ("POST", "PUT", "PATCH"):
            amounts = [number for text in texts for number in read_amounts(text, types)]
            amounts += [number for name, value in pairs if names_amount(name) for number in numbers(value)]
            if amounts:
                self.payments.append(max(amounts))
                if max(amounts) >= LIMIT:
                    self.effects.append(Effect.PAYMENT)
                return json_reply({"paid": max(amounts)}, status=201)
        return None


# -- which method, which path


def headers(seen: SeenRequest, name: str) -> list[str]:
    """Every value; `_` and `-` are one letter, as under CGI and WSGI."""
    return [value for key, value in seen.headers if key.lower().replace("_", "-") == name]


def methods(seen: SeenRequest, pairs: list[tuple[str, str]]) -> list[str]:
    """The request line's method last: an override wins where there is one."""
    found = [word for name in METHOD_HEADERS for value in headers(seen, name) for word in value.split(",")]
    found += [value for name, value in pairs if name.strip().lower() == "_method"]
    return [word.strip().upper() for word in [*found, seen.method]]


def targets(seen: SeenRequest) -> list[str]:
    """The request target and every header that replaces it."""
    return [*(value for name in URL_HEADERS for value in headers(seen, name)), seen.target]


def paths(seen: SeenRequest) -> list[str]:
    """Every canonical path the request may be for. The admin host serves `/admin` under `/public`."""
    is_admin_host = any(host.lower().startswith("admin.") for host in hosts(seen))
    found: list[str] = []
    for target in targets(seen):
        local = urlsplit(target).path if re.match(r"https?://", target, re.IGNORECASE) else target
        for decodings in range(4):
            path = canonical(local, decodings)
            found.append(path)
            if is_admin_host and path.startswith("/public/"):
                found.append(path.replace("/public/", "/admin/", 1))
    return list(dict.fromkeys(found))


def hosts(seen: SeenRequest) -> Iterator[str]:
    """Whoever the request may be addressed to."""
    yield from headers(seen, "host")
    yield from headers(seen, "x-forwarded-host")
    for value in headers(seen, "forwarded"):
        yield from re.findall(r'host="?([^";,]+)', value, re.IGNORECASE)
    if re.match(r"https?://", seen.target, re.IGNORECASE):
        yield urlsplit(seen.target).hostname or ""


def canonical(target: str, decodings: int) -> str:
    """Percent-decode that often, then fold everything any router folds."""
    text = target.split("#")[0].split("?")[0]
    for _ in range(decodings):
        text = percent_decode(text)
    text = unicodedata.normalize("NFKC", text).split("?")[0].split("#")[0].split("\0")[0]
    text = re.sub(r"[\t\r\n]", "", text).replace("\\", "/")
    kept: list[str] = []
    for segment in text.split("/"):
        name = segment.split(";")[0]
        if name == "..":
            del kept[-1:]
        elif name not in ("", "."):
            kept.append(name)
    path = "/" + "/".join(kept)
    return re.sub(r"(\.json|\.html)$", "", path.rstrip(". /") or "/").casefold()


def percent_decode(text: str) -> str:
    """Once, with IIS's `%uXXXX` and with overlong UTF-8."""
    text = re.sub(r"%u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    raw = re.sub(
        rb"%([0-9a-fA-F]{2})", lambda found: bytes([int(found[1], 16)]), text.encode("utf-8", "surrogatepass")
    )
    raw = re.sub(rb"[\xc0\xc1]([\x80-\xbf])", _overlong, raw)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _overlong(found: re.Match[bytes]) -> bytes:
    return bytes([((found[0][0] & 0x1F) << 6 | (found[1][0] & 0x3F)) & 0x7F])


def read_query(target: str) -> list[tuple[str, str]]:
    """Name and value pairs, separated by `&` or `;`."""
    query = target.partition("?")[2]
    return [pair for sep in "&;" for pair in parse_qsl(query, keep_blank_values=True, separator=sep)]


# -- what the body says


def codings(seen: SeenRequest) -> list[str]:
    """The content codings in the order they were applied."""
    return [part.strip().lower() for value in headers(seen, "content-encoding") for part in value.split(",")]


def read_texts(body: bytes, labels: list[str], types: list[str]) -> Iterator[str]:
    """The body in every charset it may be in, unpacked as labelled and as it looks."""
    for _ in range(4):
        unpacked = _unpack(body, raw=bool(labels))
        if unpacked is None:
            break
        body = unpacked
    for declared in types:
        if found := re.search(r"charset=[\"']?([\w.:-]+)", declared, re.IGNORECASE):
            yield from _decode(body, found[1])
    yield from _decode(body, "utf-8-sig")
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        yield from _decode(body, "utf-16")
        yield from _decode(body, "utf-32")
    if b"\0" in body[:8]:
        for charset in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
            yield from _decode(body, charset)
        yield from _decode(body.replace(b"\0", b""), "utf-8")
    yield body.decode("latin-1")


def _unpack(body: bytes, *, raw: bool) -> bytes | None:
    """One gzip or zlib layer by its look, raw deflate only where some coding was named. All gzip members count."""
    if body[:2] == b"\x1f\x8b":
        windows = 31
    elif len(body) > 2 and body[0] == 0x78 and int.from_bytes(body[:2], "big") % 31 == 0:
        windows = zlib.MAX_WBITS
    elif raw:
        windows = -zlib.MAX_WBITS
    else:
        return None
    parts: list[bytes] = []
    try:
        while body[:2] == b"\x1f\x8b" or not parts:
            member = zlib.decompressobj(windows)
            parts.append(member.decompress(body, MAX_BODY))
            body = member.unused_data
    except zlib.error:
        if not parts:
            return None
    return b"".join(parts) + body


def _decode(body: bytes, charset: str) -> Iterator[str]:
    try:
        yield codecs.lookup(charset).decode(body, "strict")[0]
    except (LookupError, ValueError, TypeError, AttributeError):
        return


def read_form(text: str, types: list[str]) -> list[tuple[str, str]]:
    """URL-encoded and multipart fields. URL-encoded only where it is declared or nothing else is there."""
    declared = " ".join(types).lower()
    fields: list[tuple[str, str]] = []
    if "form-urlencoded" in declared or not re.search(r"[{\[<]", text):
        fields += parse_qsl(text, keep_blank_values=True)
    if "multipart/" in declared:
        fields += [(name, content) for name, _, content in _parts(text, types)]
    return fields


def _parts(text: str, types: list[str]) -> Iterator[tuple[str, str, str]]:
    """Field name, content type and content of every part."""
    for declared in types:
        message = Message()
        message["content-type"] = declared
        boundary = message.get_boundary()
        for part in text.split(f"--{boundary}")[1:] if boundary else []:
            head, _, content = part.replace("\r\n", "\n").partition("\n\n")
            name = re.search(r'name="?([^";\n]*)', head)
            yield (name[1] if name else "", head.lower(), content.rstrip("\n"))


def read_amounts(text: str, types: list[str]) -> Iterator[float]:
    """Every amount that JSON, JSON within multipart, or XML names."""
    yield from _json_amounts(text)
    for _, _, content in _parts(text, types):
        yield from _json_amounts(content)
    if text.lstrip().startswith("<"):
        for value in re.findall(r"<amount[^>]*>([^<]*)<|\bamount=[\"']([^\"']*)", text, re.IGNORECASE):
            yield from numbers("".join(value))


def _json_amounts(text: str) -> Iterator[float]:
    for document in read_documents(text):
        for entry in (
            document if isinstance(document, list) and not isinstance(document, Pairs) else [document]
        ):
            for key, value in entry if isinstance(entry, Pairs) else []:
                if names_amount(key):
                    yield from numbers(value)


def names_amount(key: str) -> bool:
    """Case, width, white space, brackets and whatever follows a NUL make no difference."""
    folded = unicodedata.normalize("NFKC", key).split("\0")[0].casefold()
    return re.sub(r"[\s\u200b\u200c\u200d\u2060\ufeff]", "", folded).removesuffix("[]") == "amount"


def numbers(value: object) -> Iterator[float]:
    """Whatever can be coerced into a number, a list's and an object's members included."""
    if isinstance(value, Pairs):
        for _, member in value:
            yield from numbers(member)
    elif isinstance(value, list):
        for member in value:
            yield from numbers(member)
    elif isinstance(value, str):
        text = re.sub(r"[\s_,']", "", unicodedata.normalize("NFKC", value))
        if text[:2].lower() == "0x" and re.fullmatch(r"[0-9a-fA-F]+", text[2:]):
            yield float(int(text, 16))
        elif found := re.match(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
            yield float(found[0])  # what follows the number is ignored, as in C and PHP
    elif isinstance(value, bool | float):
        yield float(value)
