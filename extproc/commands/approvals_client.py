"""The approvals API as its clients on this machine see it: one call, one answer, or one of two errors."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from extproc.domain.errors import ExtprocError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class RefusedError(ExtprocError):
    """The API said no. `code` is its stable code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UnreachableError(ExtprocError):
    """The API did not answer, or answered that it cannot work now."""


class AddressError(ExtprocError):
    """The API's address is not one we would send a token to."""


class ApprovalsClient:
    """Calls of one person. `api` is `unix:PATH`, `https://HOST` or, on this machine only, `http://HOST`."""

    def __init__(self, api: str, token: str, ca: Path | None = None) -> None:
        transport, base = _transport(api, ca)
        self._client = httpx2.Client(
            transport=transport,
            base_url=base,
            headers={"authorization": f"Bearer {token}", "accept": "application/json"},
            trust_env=False,  # a proxy from the environment would see the token
            follow_redirects=False,
        )

    def list(
        self,
        states: tuple[str, ...] = (),
        *,
        reviews: tuple[str, ...] = (),
        mine: bool = False,
        limit: int = 100,
        wait: int = 0,
        since: int = 0,
    ) -> dict[str, Any]:
        """`{"holds": […], "more": …, "news": …}`"""
        query: list[tuple[str, str | int]] = [("state", state) for state in states]
        query += [("review", state) for state in reviews]
        query += [("limit", limit), ("wait", wait), ("since", since)]
        if mine:
            query.append(("requester", "me"))
        return self._call("GET", "/v1/holds", "holds", params=query, timeout=wait + 15)

    def show(self, hold_id: str, *, wait: int = 0) -> dict[str, Any]:
        return self._call(
            "GET", f"/v1/holds/{quote(hold_id, safe='')}", "view", params={"wait": wait}, timeout=wait + 15
        )

    def compare(self, hold_id: str) -> dict[str, Any]:
        """What is another in it than in the last of its kind that was approved."""
        return self._call("GET", f"/v1/holds/{quote(hold_id, safe='')}/compared", "differences", timeout=15)

    def act(
        self, hold_id: str, action: str, reason: str, *, grant: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Approve, deny, withdraw, revoke or break-glass; the hold then. `grant` is what an approval gives."""
        path = f"/v1/holds/{quote(hold_id, safe='')}/{action}"
        body: dict[str, Any] = {"reason": reason} | ({"grant": dict(grant)} if grant else {})
        return self._call("POST", path, "view", json=body, timeout=15)

    def review(self, hold_id: str, justified: bool, reason: str) -> dict[str, Any]:
        """Say what was found about an emergency; the hold as it stands then."""
        path = f"/v1/holds/{quote(hold_id, safe='')}/review"
        return self._call("POST", path, "view", json={"justified": justified, "reason": reason}, timeout=15)

    def grants(self, states: tuple[str, ...] = (), *, mine: bool = False, limit: int = 100) -> dict[str, Any]:
        """`{"grants": […], "more": …}`"""
        query: list[tuple[str, str | int]] = [("state", state) for state in states]
        query.append(("limit", limit))
        if mine:
            query.append(("requester", "me"))
        return self._call("GET", "/v1/grants", "grants", params=query, timeout=15)

    def grant(self, grant_id: str) -> dict[str, Any]:
        return self._call("GET", f"/v1/grants/{quote(grant_id, safe='')}", "terms", timeout=15)

    def revoke_grant(self, grant_id: str, reason: str) -> dict[str, Any]:
        path = f"/v1/grants/{quote(grant_id, safe='')}/revoke"
        return self._call("POST", path, "terms", json={"reason": reason}, timeout=15)

    def locks(self) -> dict[str, Any]:
        """`{"locks": […]}`"""
        return self._call("GET", "/v1/locks", "locks", timeout=15)

    def lock(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Lock somebody; the lock as it is in force."""
        return self._call("POST", "/v1/locks", "workers", json=dict(asked), timeout=15)

    def unlock(self, lock_id: str, reason: str) -> dict[str, Any]:
        """Remove a lock; the lock as it was."""
        path = f"/v1/locks/{quote(lock_id, safe='')}/remove"
        return self._call("POST", path, "workers", json={"reason": reason}, timeout=15)

    def reload_policy(self, reason: str) -> dict[str, Any]:
        """Load the policies again; `{"status": "ok", "policy": …, "before": …}` when they are in force."""
        return self._call("POST", "/v1/policy/reload", "policy", json={"reason": reason}, timeout=75)

    def reload_settings(self, reason: str) -> dict[str, Any]:
        """Begin a rolling reload; `{"status": "rolling", "configuration": …, "changed": […]}`."""
        return self._call("POST", "/v1/settings/reload", "changed", json={"reason": reason}, timeout=75)

    def close(self) -> None:
        self._client.close()

    def _call(self, method: str, path: str, expected: str, **options: Any) -> dict[str, Any]:
        """The answer, which has the member `expected` if it comes from the approvals API."""
        try:
            response = self._client.request(method, path, **options)
            answer = response.json()
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise UnreachableError(f"the approvals API cannot be reached: {type(error).__name__}") from error
        except ValueError as error:  # not JSON: whatever answers there, it is not the approvals API
            raise UnreachableError("what answers there is not the approvals API") from error
        if not isinstance(answer, dict):
            raise UnreachableError("what answers there is not the approvals API")
        if response.is_success:
            if expected not in answer:
                raise UnreachableError("what answers there is not the approvals API")
            return answer
        message = _message(answer)
        if response.status_code >= 500:
            raise UnreachableError(message)
        raise RefusedError(str(answer.get("code", response.status_code)), message)


def _transport(api: str, ca: Path | None) -> tuple[httpx2.HTTPTransport, str]:
    if api.startswith("unix:"):
        path = api.removeprefix("unix:")
        path = path.removeprefix("//") if path.startswith("///") else path
        return httpx2.HTTPTransport(uds=path), "http://approvals"
    url = urlsplit(api)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise AddressError(
            "the API's address is unix:PATH, https://HOST or, on this machine, http://HOST:PORT"
        )
    if url.scheme == "http" and url.hostname not in LOOPBACK:
        raise AddressError("http would show the token to everybody on the way; use https")
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    return httpx2.HTTPTransport(verify=context, trust_env=False), f"{url.scheme}://{url.netloc}"


def _message(problem: Mapping[str, Any]) -> str:
    title, detail, code = (str(problem.get(name, "")) for name in ("title", "detail", "code"))
    text = f"{title}: {detail}" if detail else title
    return f"{text} ({code})" if code else text or json.dumps(dict(problem))
