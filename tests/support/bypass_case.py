"""How a case of the bypass corpus is written down."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from tests.support.lenient_api import HOST, Effect
from tests.support.raw_http import build_request

Headers = Iterable[tuple[str, str]]

JSON = ("Content-Type", "application/json")
GZIP = ("Content-Encoding", "gzip")
SMALL = b'{"amount": 5, "currency": "EUR"}'
BIG = b'{"amount": 5000, "currency": "EUR"}'


@dataclass(frozen=True, slots=True)
class BypassCase:
    """One trick. `family` groups what one guard must stop."""

    id: str
    build: Callable[..., bytes]
    """`build(headers=())` -> raw HTTP/1.1 request; the headers are added to the case's own."""
    effect: Effect

    @property
    def family(self) -> str:
        """The part of the id before the colon."""
        return self.id.partition(":")[0]


def request(
    method: str,
    target: str,
    own: Headers = (),
    body: bytes | None = None,
    host: str | None = HOST,
    headers: Headers = (),
) -> bytes:
    """What `BypassCase.build` calls: `headers` come before the case's `own`."""
    return build_request(method, target, [*headers, *own], body, host=host)


def case(
    id: str,
    effect: Effect,
    method: str,
    target: str,
    own: Headers = (),
    body: bytes | None = None,
    host: str | None = HOST,
) -> BypassCase:
    """Any request with any effect."""
    return BypassCase(id, partial(request, method, target, tuple(own), body, host), effect)


def pay(id: str, body: bytes | str, *own: tuple[str, str], target: str = "/payments") -> BypassCase:
    """A POST of JSON unless headers say otherwise; the effect is a payment over the limit."""
    data = body.encode() if isinstance(body, str) else body
    return case(id, Effect.PAYMENT, "POST", target, own or (JSON,), data)


def keys(id: str, target: str, *own: tuple[str, str], host: str | None = HOST) -> BypassCase:
    """A GET that reads the keys."""
    return case(id, Effect.KEYS, "GET", target, own, host=host)


def delete(id: str, target: str, *own: tuple[str, str], method: str = "GET") -> BypassCase:
    """A request that deletes customers."""
    return case(id, Effect.DELETE, method, target, own)


def framed(id: str, own: Headers, payload: bytes, *, line: str = "POST /payments HTTP/1.1") -> BypassCase:
    """The header block is written as it stands: lengths, codings and line ends included."""

    def build(headers: Headers = ()) -> bytes:
        fields = [("Host", HOST), *headers, *own]
        head = "\r\n".join([line, *(f"{name}:{value}" for name, value in fields)])
        return head.encode("latin-1") + b"\r\n\r\n" + payload

    return BypassCase(id, build, Effect.PAYMENT)


def multipart(name: str, more: str, content: str) -> str:
    """A form of one part with boundary `b`; `more` are further header lines of the part."""
    return f"--b\r\nContent-Disposition: form-data; name={name}\r\n{more}\r\n{content}\r\n--b--\r\n"
