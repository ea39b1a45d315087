"""The approvals API to test with: a desk of known tokens, a ledger in memory, and every answer checked against
the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

import httpx2
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from starlette.applications import Starlette

from extproc.domain.errors import LedgerUnavailableError, TokenError
from extproc.domain.grant import ApprovalStore
from extproc.domain.principal import Principal
from extproc.domain.record import Record
from extproc.servers.approvals_api import create_app
from tests.support.holds import AGENT, ANNA, AUDIENCE, BERT, CLEO, CLIENT, NOW, OLGA, principal

OPENAPI: dict[str, Any] = json.loads(resources.files("extproc.servers").joinpath("openapi.json").read_text())
REGISTRY: Registry[Any] = Registry().with_resource(
    "urn:openapi", Resource.from_contents(OPENAPI, default_specification=DRAFT202012)
)

TOKENS: dict[str, Principal] = {
    "agent": AGENT,
    "other-agent": principal("agent-8", "sre", kind="agent"),
    "anna": ANNA,
    "bert": BERT,
    "cleo": CLEO,
    "alias": principal("agent-owner", "sre", person=AGENT.person),
    "same-subject": principal(AGENT.subject, "sre", person="somebody@people.test"),
    "stranger": principal("stranger"),
    "olga": OLGA,
    "auditor": principal("aud", "auditors"),
    "operator": principal("op", "operators"),
    "data-path": principal("anna", "sre", audience=("customers-api",)),
    "wrong-client": principal("anna", "sre", client_id="some-agent-runtime"),
    "no-client": principal("anna", "sre", client_id=""),
    "auditing-robot": principal("robot", "auditors", "operators", kind="service"),
}


class Desk:
    """An approvals API over `store`, with what it recorded. `ledger_down` makes every record fail."""

    def __init__(self, store: ApprovalStore, **options: Any) -> None:
        options.setdefault("authenticate", self.authenticate)
        self.store = store
        self.now = NOW
        self.records: list[Record] = []
        self.ledger_down = False
        self.app: Starlette = create_app(
            store,
            audience=AUDIENCE,
            clients=[CLIENT],
            record=self.record,
            now=lambda: self.now,
            **options,
        )

    async def authenticate(self, token: str) -> Principal:
        if token not in TOKENS:
            raise TokenError("bad_signature", f"never quote {len(token)} characters")
        return TOKENS[token]

    def record(self, record: Record) -> None:
        if self.ledger_down:
            raise LedgerUnavailableError("disk full")
        self.records.append(record)

    def kinds(self) -> list[str]:
        return [record.kind for record in self.records]

    async def call(
        self, token: str, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> httpx2.Response:
        sent = {"authorization": f"Bearer {token}"} if token else {}
        transport = httpx2.ASGITransport(self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://approvals") as client:
            response = await client.request(method, path, headers={**sent, **(headers or {})}, **options)
        conforms(response)
        return response

    async def get(self, token: str, path: str, **options: Any) -> httpx2.Response:
        return await self.call(token, "GET", path, **options)

    async def act(
        self, token: str, hold_id: str, action: str, reason: str = "looks right"
    ) -> httpx2.Response:
        return await self.call(token, "POST", f"/v1/holds/{hold_id}/{action}", json={"reason": reason})


def refused(response: httpx2.Response, status: int, code: str) -> None:
    """A problem with that code."""
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"


def template_of(path: str) -> str:
    """The documented path behind an actual one."""
    parts = path.split("/")
    if len(parts) >= 4 and parts[2] in ("holds", "grants", "locks"):
        parts[3] = f"{{{parts[2][:-1]}_id}}"
    return "/".join(parts)


def conforms(response: httpx2.Response) -> None:
    """The status is documented for this operation and the body has the documented shape."""
    path = template_of(response.request.url.path)
    operation = OPENAPI["paths"].get(path, {}).get(response.request.method.lower())
    if operation is None:
        assert response.status_code in (404, 405)
        where = "#/components/responses/NotFound"
    else:
        documented = operation["responses"][str(response.status_code)]
        where = documented.get("$ref") or "#/" + "/".join(
            part.replace("~", "~0").replace("/", "~1")
            for part in (
                "paths", path, response.request.method.lower(), "responses", str(response.status_code)
            )
        )  # fmt: skip
    kind = response.headers["content-type"].replace("/", "~1")
    schema = {"$ref": f"urn:openapi{where}/content/{kind}/schema"}
    Draft202012Validator(schema, registry=REGISTRY).validate(response.json())
