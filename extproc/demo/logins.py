"""Login at the demo's issuer: OpenID Connect's code flow with PKCE, where choosing who you are is all it takes."""

from __future__ import annotations

import hashlib
import html
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from extproc.demo.pages import Page, b64

AUTHORIZE_PATH = "/authorize"
TOKEN_PATH = "/token"
CODE_LIFE = 60.0
HTML = (("content-type", "text/html; charset=utf-8"), ("cache-control", "no-store"))


@dataclass(frozen=True, slots=True)
class Client:
    """Who may ask for logins, and where people are sent back to, exactly."""

    client_id: str
    redirect_uri: str
    audience: str
    """Of its access tokens."""


@dataclass(frozen=True, slots=True)
class _Code:
    person: str
    nonce: str
    challenge: str
    client: Client
    at: float


@dataclass
class Logins:
    """`people` are claims by subject; `sign` makes a token of claims."""

    people: Mapping[str, Mapping[str, Any]]
    sign: Callable[[str, Mapping[str, Any]], str]
    now: Callable[[], float]
    clients: dict[str, Client] = field(default_factory=dict)
    _codes: dict[str, _Code] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_client(self, client: Client) -> None:
        """Let this one ask."""
        self.clients[client.client_id] = client

    def authorize(self, query: str) -> Page:
        """The page on which somebody says who they are (RFC 6749 §4.1.1)."""
        asked = dict(parse_qsl(query))
        if self._client(asked) is None:
            return _refused("This client is not known here, or it wants people sent to another place.")
        hidden = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in asked.items()
        )
        buttons = "".join(
            f'<p><button name="person" value="{html.escape(name)}">{html.escape(name)}</button> '
            f"{html.escape(', '.join(claims.get('groups', ())))}</p>"
            for name, claims in self.people.items()
        )
        return Page(200, _page(f"<h1>Who are you?</h1><form method=post>{hidden}{buttons}</form>"), HTML)

    def chosen(self, form: str) -> Page:
        """Back to the client with a code (RFC 6749 §4.1.2)."""
        asked = dict(parse_qsl(form))
        client = self._client(asked)
        if client is None:
            return _refused("This client is not known here, or it wants people sent to another place.")
        person = asked.get("person", "")
        if (
            person not in self.people
            or asked.get("response_type") != "code"
            or asked.get("code_challenge_method") != "S256"
            or not asked.get("code_challenge")
        ):
            back = {"error": "invalid_request", "state": asked.get("state", "")}
        else:
            code = secrets.token_urlsafe(24)
            with self._lock:
                self._codes[code] = _Code(
                    person, asked.get("nonce", ""), asked["code_challenge"], client, self.now()
                )
            back = {"code": code, "state": asked.get("state", "")}
        return Page(303, b"", (("location", f"{client.redirect_uri}?{urlencode(back)}"),))

    def token(self, form: str) -> Page:
        """Tokens for a code, once, for whoever has the verifier (RFC 7636 §4.6)."""
        asked = dict(parse_qsl(form))
        with self._lock:
            code = self._codes.pop(asked.get("code", ""), None)
        verifier = asked.get("code_verifier", "")
        if (
            code is None
            or asked.get("grant_type") != "authorization_code"
            or asked.get("client_id") != code.client.client_id
            or asked.get("redirect_uri") != code.client.redirect_uri
            or self.now() > code.at + CODE_LIFE
            or b64(hashlib.sha256(verifier.encode()).digest()) != code.challenge
        ):
            return Page(400, b'{"error": "invalid_grant"}')
        client = code.client
        claims = {"kind": "human", **self.people[code.person], "azp": client.client_id}
        given = {
            "token_type": "Bearer",
            "expires_in": 3600,
            "access_token": self.sign(code.person, {**claims, "aud": client.audience}),
            "id_token": self.sign(code.person, {**claims, "aud": client.client_id, "nonce": code.nonce}),
        }
        return Page(
            200,
            json.dumps(given).encode(),
            (("content-type", "application/json"), ("cache-control", "no-store")),
        )

    def _client(self, asked: Mapping[str, str]) -> Client | None:
        client = self.clients.get(asked.get("client_id", ""))
        return client if client is not None and asked.get("redirect_uri") == client.redirect_uri else None


def _refused(why: str) -> Page:
    return Page(400, _page(f"<h1>Not here</h1><p>{html.escape(why)}</p>"), HTML)


def _page(body: str) -> bytes:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Demo issuer</title>'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:10vh auto;padding:0 1rem}"
        "button{font:inherit;font-weight:600;padding:.5rem 1.25rem}</style>"
        f"<p>The demo's issuer. It believes whatever you say.</p>{body}</html>"
    ).encode()
