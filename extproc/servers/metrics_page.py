"""`GET /metrics`, on a listener of its own and never on the data path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def create_page(text: Callable[[], Awaitable[bytes]], content_type: str) -> Starlette:
    """The application. `text` gives the page anew for every request."""

    async def metrics(_: Request) -> Response:
        return Response(await text(), media_type=content_type, headers={"cache-control": "no-store"})

    return Starlette(routes=[Route("/metrics", metrics, methods=["GET"])])
