"""What stands around every page: the host it may be asked by, fixed headers, forms that only our own pages can send."""

from __future__ import annotations

import hmac
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from extproc.servers.approvals_problems import ProblemError

MAX_FORM = 32 << 10
"""Bytes of a form; the longest reason, every character escaped, still fits."""
MAX_FIELDS = 300

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "same-origin",  # with `no-referrer` browsers hide the origin of our own forms, too
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""On every answer: nothing inline, nothing from elsewhere, in nobody's frame, kept by no cache."""

DEFAULT_PORTS = {"https": 443, "http": 80}


def origin_of(url: str) -> str:
    """The origin as browsers write it (RFC 6454 §6.2): in lower case, without the scheme's own port."""
    parts = urlsplit(url.lower())
    suffix = f":{DEFAULT_PORTS[parts.scheme]}"
    return f"{parts.scheme}://{parts.netloc.removesuffix(suffix)}"


class Fence:
    """Answers only under the name in `url`, so that no other name can be made to lead here (DNS rebinding)."""

    def __init__(self, app: ASGIApp, url: str) -> None:
        self._app = app
        parts = urlsplit(origin_of(url))
        self._hosts = {parts.netloc}
        if parts.port is None:
            self._hosts.add(f"{parts.netloc}:{DEFAULT_PORTS[parts.scheme]}")
        self._headers = dict(HEADERS)
        if parts.scheme == "https":
            self._headers["strict-transport-security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    if name != "cache-control" or name not in headers:
                        headers[name] = value
            await send(message)

        if Headers(scope=scope).get("host", "").lower() not in self._hosts:
            await PlainTextResponse("Not here.\n", 421)(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)


def from_our_page(request: Request, origin: str) -> bool:
    """What browsers say of where a request comes from; silence is left to the form's own proof."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    told = request.headers.get("origin", origin)
    return site in ("same-origin", "none") and told.lower() == origin


async def form_of(request: Request) -> dict[str, list[str]]:
    """The fields of a posted form. Raises ProblemError: unsupported_type, too_large, bad_form."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise ProblemError(415, "unsupported_type", "Send the form as a browser does")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_FORM:
            raise ProblemError(413, "too_large", "The form is too large", headers={"connection": "close"})
    try:
        pairs = parse_qsl(
            data.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(data),
            errors="strict",
            max_num_fields=MAX_FIELDS,
        )
    except ValueError:
        raise ProblemError(400, "bad_form", "The form cannot be read") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value.replace("\r\n", "\n"))  # as HTML forms send line ends
    return fields


def one(fields: dict[str, list[str]], name: str) -> str:
    """The value of a field that may be there once. Raises ProblemError("bad_form")."""
    values = fields.get(name, [""])
    if len(values) != 1:
        raise ProblemError(400, "bad_form", "The form cannot be read")
    return values[0]


def check_csrf(fields: dict[str, list[str]], expected: str) -> None:
    """Raises ProblemError("stale_form")."""
    if not hmac.compare_digest(one(fields, "csrf").encode(), expected.encode()):
        raise ProblemError(
            403, "stale_form", "This form is too old", "Open the page again; nothing was done."
        )


def local_path(text: str) -> str:
    """Where to go after a login: a path of ours, else the beginning."""
    if not text.startswith("/") or text[:2] in ("//", "/\\") or len(text) > 500:
        return "/"
    parts = urlsplit(text)
    if parts.scheme or parts.netloc or not text.isascii() or not text.isprintable():
        return "/"
    return text
