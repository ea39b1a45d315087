"""A small OpenID Connect issuer for the demo and the tests: discovery, key set, tokens, and mistakes on request.

It listens on the loopback only, signs whatever it is told to, and authenticates nobody;
who logs in at it (`logins.py`) says who they are.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from extproc.demo.logins import AUTHORIZE_PATH, TOKEN_PATH, Logins
from extproc.demo.pages import Page, b64

DISCOVERY_PATH = "/.well-known/openid-configuration"
KEYS_PATH = "/keys"
MAX_FORM = 64 << 10

SigningKey = RSAKey | ECKey | OKPKey


class Issuer:
    """Signs tokens and publishes its keys. Usable without a network; `start` or `with` makes it listen.

    `issuer` is the name in its tokens; by default the URL it would listen on, and a fixed name when it has no port.
    One key per algorithm is made at once; the first algorithm is the default of `token`.
    """

    def __init__(
        self,
        *,
        algorithms: Sequence[str] = ("RS256", "ES256", "EdDSA"),
        issuer: str = "",
        audience: str = "customers-api",
        host: str = "127.0.0.1",
        port: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.audience = audience
        self.now = clock
        self.hits: Counter[str] = Counter()
        """Requests by path, the unknown ones included."""
        self.pages: dict[str, Page] = {}
        """Answers that replace the usual ones, by path."""
        self.logins: Logins | None = None
        """Who can log in here, if anybody can."""
        self._server: _Server | None = None
        if port is not None:
            self._server = _Server((host, port), self)
        url = f"http://{host}:{self._server.server_port}" if self._server else "https://issuer.test"
        self.issuer = issuer or url
        self.url = url
        self._thread: threading.Thread | None = None
        self._published: dict[str, tuple[str, SigningKey]] = {}
        self._current: dict[str, str] = {}
        for alg in algorithms:
            self.rotate(alg)
        self._default = algorithms[0]

    # ---- keys ----

    def rotate(self, alg: str = "") -> str:
        """Publish a new key for `alg` and sign with it from now on; the old one stays published. Returns its kid."""
        alg = alg or self._default
        key = make_key(alg)
        kid = f"{alg.lower()}-{key.thumbprint()[:8]}"
        self._published = {
            **self._published,
            kid: (alg, key),
        }  # replaced, not changed: the server thread reads it
        self._current[alg] = kid
        return kid

    def withdraw(self, kid: str) -> None:
        """Stop publishing `kid`. If it was signing, the newest other key of its algorithm signs, or a new one."""
        alg, _ = self._published[kid]
        self._published = {name: entry for name, entry in self._published.items() if name != kid}
        if self._current[alg] == kid:
            others = [name for name, entry in self._published.items() if entry[0] == alg]
            if others:
                self._current[alg] = others[-1]
            else:
                self.rotate(alg)

    def kid(self, alg: str = "") -> str:
        """The kid that signs for `alg` now."""
        return self._current[alg or self._default]

    def key(self, alg: str = "") -> SigningKey:
        """The private key that signs for `alg` now."""
        return self._published[self.kid(alg)][1]

    def jwks(self) -> dict[str, Any]:
        """The published key set."""
        return {
            "keys": [
                {**key.as_dict(private=False), "kid": kid, "use": "sig", "alg": alg}
                for kid, (alg, key) in self._published.items()
            ]
        }

    def jwks_bytes(self) -> bytes:
        """The published key set as it goes over the wire."""
        return json.dumps(self.jwks()).encode()

    # ---- tokens ----

    def claims(
        self,
        sub: str | None = "alice",
        *,
        aud: str | Sequence[str] | None = "",
        groups: Sequence[str] | None = None,
        kind: str | None = None,
        lifetime: float = 300,
        **claims: Any,
    ) -> dict[str, Any]:
        """A full set of claims. What is None is left out, `aud` "" means the issuer's own; `claims` add or replace."""
        now = int(self.now())
        full: dict[str, Any] = {
            "iss": self.issuer,
            "sub": sub,
            "aud": self.audience if aud == "" else aud,
            "exp": now + int(lifetime),
            "iat": now,
            "jti": uuid.uuid4().hex,
            "groups": list(groups) if groups is not None else None,
            "kind": kind,
        }
        full.update(claims)
        return {name: value for name, value in full.items() if value is not None}

    def token(
        self,
        sub: str | None = "alice",
        *,
        alg: str = "",
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A signed token; the keywords are those of `claims`. `header` adds or replaces members, None leaves out."""
        alg = alg or self._default
        full: dict[str, Any] = {"alg": alg, "kid": self.kid(alg), "typ": "JWT", **(header or {})}
        full = {name: value for name, value in full.items() if value is not None}
        return self.sign(full, self.claims(sub, **claims), alg=alg)

    def sign(
        self,
        header: Mapping[str, Any] | bytes,
        payload: Mapping[str, Any] | bytes,
        *,
        alg: str = "",
        key: SigningKey | None = None,
    ) -> str:
        """Sign exactly this: mappings become JSON, bytes stay as they are, however wrong."""
        alg = alg or self._default
        signing_input = f"{b64(_as_bytes(header))}.{b64(_as_bytes(payload))}"
        signature = JWSRegistry.algorithms[alg].sign(signing_input.encode(), key or self.key(alg))
        return f"{signing_input}.{b64(signature)}"

    # ---- network ----

    def start(self) -> Self:
        """Listen, on a thread of its own. RuntimeError when it was made without a port."""
        if self._server is None:
            raise RuntimeError("an Issuer listens only when it is given a port (0 picks a free one)")
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="issuer", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop listening. Answers that wait for a gate are let go first."""
        for page in self.pages.values():
            if page.gate is not None:
                page.gate.set()
        if self._server is not None:
            if self._thread is not None:
                self._server.shutdown()
                self._thread.join()
                self._thread = None
            self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def discovery(self) -> dict[str, Any]:
        """The discovery document (OpenID Connect Discovery 1.0, section 3)."""
        return {
            "issuer": self.issuer,
            "jwks_uri": self.url + KEYS_PATH,
            "authorization_endpoint": self.url + AUTHORIZE_PATH,
            "token_endpoint": self.url + TOKEN_PATH,
            "code_challenge_methods_supported": ["S256"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted(self._current),
        }

    def page(self, path: str) -> Page:
        """What `path` is answered with."""
        if path in self.pages:
            return self.pages[path]
        if path == DISCOVERY_PATH:
            return Page(body=json.dumps(self.discovery()).encode())
        if path == KEYS_PATH:
            return Page(body=self.jwks_bytes())
        parts = urlsplit(path)
        if self.logins is not None and parts.path == AUTHORIZE_PATH:
            return self.logins.authorize(parts.query)
        return Page(404, b'{"error": "not_found"}')

    def posted(self, path: str, form: str) -> Page:
        """What a form sent to `path` is answered with."""
        if path in self.pages:
            return self.pages[path]
        if self.logins is not None and urlsplit(path).path == AUTHORIZE_PATH:
            return self.logins.chosen(form)
        if self.logins is not None and path == TOKEN_PATH:
            return self.logins.token(form)
        return Page(404, b'{"error": "not_found"}')

    def log_people_in(self, people: Mapping[str, Mapping[str, Any]]) -> Logins:
        """From now on these people, claims by subject, can log in at clients that are added to the answer."""
        self.logins = Logins(people, lambda who, claims: self.token(who, lifetime=3600, **claims), self.now)
        return self.logins


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], issuer: Issuer) -> None:
        super().__init__(address, _Handler)
        self.issuer = issuer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self.server.issuer.hits[self.path] += 1
        self._answer(self.server.issuer.page(self.path))

    def do_POST(self) -> None:
        self.server.issuer.hits[self.path] += 1
        form = self.rfile.read(min(int(self.headers.get("content-length", "0")), MAX_FORM))
        self._answer(self.server.issuer.posted(self.path, form.decode("utf-8", "replace")))

    def _answer(self, page: Page) -> None:
        if page.gate is not None:
            page.gate.wait(30)
        try:
            self.send_response(page.status)
            for name, value in page.headers:
                self.send_header(name, value)
            self.send_header("content-length", str(len(page.body)))
            self.end_headers()
            self.wfile.write(page.body)
        except ConnectionError:
            self.close_connection = True  # the client lost patience, as some tests have it do

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the demo's terminal tells its own story."""


def make_key(alg: str) -> SigningKey:
    """A new private key that fits `alg`."""
    if alg.startswith(("RS", "PS")):
        return RSAKey.generate_key(2048)
    if alg.startswith("ES"):
        return ECKey.generate_key({"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[alg])
    return OKPKey.generate_key("Ed25519")


def _as_bytes(part: Mapping[str, Any] | bytes) -> bytes:
    return part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()
