"""A small real HTTP API with personal data: what the demo puts behind Envoy.

It wants an `x-api-key` that no agent holds (extproc adds it), echoes data in its errors as real APIs do,
and keeps a list of the requests it really received. Run it alone with `python -m extproc.demo.api --port 8080`.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import hmac
import json
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from extproc.demo.people import CUSTOMERS, KEYS, is_valid_iban

KEY_HEADER = "x-api-key"
CREDENTIAL_HEADERS = frozenset({KEY_HEADER, "authorization", "proxy-authorization", "cookie"})
MAX_BODY = 1 << 20
MAX_SEEN = 10_000
EVENT_GAP = 0.15
"""Seconds between two events of `/export`."""


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """One request as it arrived. Header names in lower case; `target` is path and query as sent."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header given in lower case."""
        return next((value for key, value in self.headers if key == name), None)

    def to_log(self) -> dict[str, Any]:
        """A line for people: credentials appear as present, never with their value."""
        return {
            "method": self.method,
            "target": self.target,
            "headers": {
                name: "(present)" if name in CREDENTIAL_HEADERS else value for name, value in self.headers
            },
            "body_bytes": len(self.body),
        }


class CustomersApi:
    """The data and the handlers. One per run; nothing is kept on disk.

    `on_request` is told of every request before it is answered, whether its key was right or not.
    """

    def __init__(self, api_key: str, *, on_request: Callable[[SeenRequest], None] | None = None) -> None:
        if not api_key:
            raise ValueError("the demo API needs a key")
        self._key = api_key.encode()
        self._on_request = on_request
        self.customers: dict[int, dict[str, Any]] = {}
        self.payments: list[dict[str, Any]] = []
        self.seen: list[SeenRequest] = []
        self.reset()

    def reset(self) -> None:
        """Back to the first day: all customers, no payments, nothing seen."""
        self.customers = {row["id"]: copy.deepcopy(row) for row in CUSTOMERS}
        self.payments.clear()
        self.seen.clear()

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/healthz", _healthz, methods=["GET"]),
                Route("/customers", self._list_customers, methods=["GET"]),
                Route("/customers/{id}", self._show_customer, methods=["GET"]),
                Route("/customers/{id}", self._delete_customer, methods=["DELETE"]),
                Route("/payments", self._list_payments, methods=["GET"]),
                Route("/payments", self._pay, methods=["POST"]),
                Route("/export", self._export, methods=["GET"]),
                Route("/admin/keys", _list_keys, methods=["GET"]),
                Route("/slow", _slow, methods=["GET"]),
            ],
            middleware=[
                Middleware(_Door, api=self),
                Middleware(GZipMiddleware, minimum_size=256, compresslevel=6),
            ],
        )

    def remember(self, seen: SeenRequest) -> None:
        """Keep what arrived, up to a bound."""
        if len(self.seen) < MAX_SEEN:
            self.seen.append(seen)
        if self._on_request is not None:
            self._on_request(seen)

    def accepts_key(self, presented: str | None) -> bool:
        """The key is the right one; compared in constant time."""
        return presented is not None and hmac.compare_digest(presented.encode("latin-1"), self._key)

    async def _list_customers(self, request: Request) -> Response:
        return JSONResponse({"customers": list(self.customers.values())})

    async def _show_customer(self, request: Request) -> Response:
        found = self._customer(request.path_params["id"])
        return JSONResponse(found) if found is not None else self._no_customer(request.path_params["id"])

    async def _delete_customer(self, request: Request) -> Response:
        found = self._customer(request.path_params["id"])
        if found is None:
            return self._no_customer(request.path_params["id"])
        del self.customers[found["id"]]
        return JSONResponse({"deleted": found})

    async def _list_payments(self, request: Request) -> Response:
        return JSONResponse({"count": len(self.payments), "payments": self.payments})

    async def _pay(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            return _problem(400, "the body is not JSON")
        if not isinstance(body, dict):
            return _problem(400, "the body must be a JSON object")
        amount, currency, iban = body.get("amount"), body.get("currency"), body.get("to_iban")
        customer = self._customer(body.get("customer_id"))
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < 1e12:
            return _problem(422, "amount must be a number above 0", received=body)
        if not isinstance(currency, str) or len(currency) != 3:
            return _problem(422, "currency must have three letters", received=body)
        if not isinstance(iban, str) or not is_valid_iban(iban):
            return _problem(422, "to_iban has a wrong checksum", received=body)
        if customer is None:
            return _problem(422, "no such customer_id", received=body)
        number = len(self.payments) + 1
        payment = {
            "id": f"pay-{number:04d}",
            "number": number,
            "amount": amount,
            "currency": currency.upper(),
            "to_iban": iban,
            "customer_id": customer["id"],
            "receipt_to": customer["email"],
        }
        self.payments.append(payment)
        return JSONResponse(payment, status_code=201, headers={"location": f"/payments#{payment['id']}"})

    async def _export(self, request: Request) -> Response:
        rows = list(self.customers.values())

        async def events() -> AsyncIterator[str]:
            for row in rows:
                yield f"event: customer\nid: {row['id']}\ndata: {json.dumps(row)}\n\n"
                await asyncio.sleep(EVENT_GAP)
            yield f"event: end\ndata: {json.dumps({'rows': len(rows)})}\n\n"

        return StreamingResponse(
            events(), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    def _customer(self, wanted: object) -> dict[str, Any] | None:
        text = str(wanted)
        return self.customers.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 10 else None

    def _no_customer(self, wanted: str) -> Response:
        known = ", ".join(f"{row['id']} ({row['email']})" for row in self.customers.values())
        return _problem(404, f"no customer {wanted}; there are {known}")


class ApiServer:
    """The API on its own thread. `port` 0 takes any; `start` returns once it answers."""

    def __init__(self, api: CustomersApi, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.api = api
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, port))
        self._server = uvicorn.Server(_uvicorn_config(api.app(), logging.WARNING))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="demo-api", daemon=True
        )

    @property
    def address(self) -> str:
        """`host:port` it listens on."""
        host, port = self._socket.getsockname()[:2]
        return f"{host}:{port}"

    def start(self) -> ApiServer:
        """Listen. Connections made from now on are served."""
        self._socket.listen(128)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving and free the port."""
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(timeout=10)
        self._socket.close()

    def __enter__(self) -> ApiServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Door:
    """Remembers what arrived and turns away what lacks the key."""

    def __init__(self, app: ASGIApp, api: CustomersApi) -> None:
        self._app = app
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/healthz":
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            await _problem(413, "the body is too large")(scope, receive, send)
            return
        query: bytes = scope["query_string"]
        seen = SeenRequest(
            method=scope["method"],
            target=(scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
            + (f"?{query.decode('latin-1')}" if query else ""),
            headers=tuple(
                (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
            ),
            body=body,
        )
        self._api.remember(seen)
        if not self._api.accepts_key(seen.header(KEY_HEADER)):
            await _problem(401, f"send a valid {KEY_HEADER}")(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)


async def _read(receive: Receive) -> bytes | None:
    """The whole body, or None when it is over the limit."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY:
            return None
        parts.append(chunk)
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    first = True

    async def replay() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


async def _healthz(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _list_keys(request: Request) -> Response:
    return JSONResponse({"keys": list(KEYS)})


async def _slow(request: Request) -> Response:
    """Answers after `?seconds=` (2 by default, 30 at most)."""
    try:
        seconds = min(30.0, max(0.0, float(request.query_params.get("seconds", "2"))))
    except ValueError:
        return _problem(400, "seconds must be a number")
    await asyncio.sleep(seconds)
    return JSONResponse({"waited_ms": round(seconds * 1000)})


def _problem(status: int, detail: str, **more: object) -> JSONResponse:
    return JSONResponse({"status": status, "detail": detail, **more}, status_code=status)


def _uvicorn_config(app: ASGIApp, level: int) -> uvicorn.Config:
    return uvicorn.Config(
        app, log_level=level, access_log=False, lifespan="off", server_header=False, timeout_keep_alive=75
    )


def main() -> None:
    """Serve until stopped. The key comes from `CUSTOMERS_API_KEY`, never from the command line."""
    parser = argparse.ArgumentParser(description="The demo API: customers and payments.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seen", type=Path, help="append one JSON line for each request to this file")
    options = parser.parse_args()
    key = os.environ.get("CUSTOMERS_API_KEY", "")
    if not key:
        parser.error("set CUSTOMERS_API_KEY to the key that callers must send")

    def note(seen: SeenRequest) -> None:
        with options.seen.open("a", encoding="utf-8") as file:
            file.write(json.dumps(seen.to_log()) + "\n")

    api = CustomersApi(key, on_request=note if options.seen else None)
    config = _uvicorn_config(api.app(), logging.INFO)
    config.host, config.port = options.host, options.port
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
