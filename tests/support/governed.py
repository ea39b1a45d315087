"""A governance for unit tests: real rules, real maskers, a principal that is simply believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extproc.domain.errors import TokenError
from extproc.domain.mask import MaskSpec
from extproc.domain.principal import Principal
from extproc.domain.request import Headers, RequestHead
from extproc.domain.steps import BodyMode, BodyModes, NeedKeys
from extproc.masking import ENTITIES, MaskSecrets, compile_masker
from extproc.masking.literal_stream import build_literals
from extproc.masking.literals import literal_forms
from extproc.pipeline import Credential, Governance, HttpExchange, TargetPlan
from extproc.policy import PolicySource, TargetInfo, load_policies

SECRETS = MaskSecrets(hash_salt=b"s" * 32, hmac_key=b"k" * 32)
CREDENTIAL = "upstream-key-1234567890"
NOW = 1_800_000_000.0
ALICE = Principal("https://issuer", "alice", "agent", "alice@example.com", groups=("readers",))


class Believes:
    """Takes the `authorization` header's text as the name of a known principal."""

    def __init__(self, **principals: Principal) -> None:
        self.principals = {"alice": ALICE, **principals}
        self.keys_missing = False

    def identify(self, headers: Headers, metadata: Mapping[str, Any], now: float) -> Principal | NeedKeys:
        if self.keys_missing:
            return NeedKeys("corp")
        principal = self.principals.get(headers.get("authorization"))
        if principal is None:
            raise TokenError("missing", "no bearer token was presented")
        return principal

    def identify_token(self, token: str, now: float) -> Principal | NeedKeys:
        return self.identify(Headers((("authorization", token),)), {}, now)

    def challenge(self, error: Exception | None) -> str:
        return 'Bearer realm="test"'


def governance(policy: str, *, identifier: Believes | None = None, **plan: Any) -> Governance:
    """One target `api` under `policy` (its `rules:` and on; the head is added)."""
    text = f"apiVersion: extproc/v1\nkind: Policy\nmetadata: {{name: t}}\ntarget: api\n{policy}"
    policies = load_policies([PolicySource("t.yaml", text)], {"api": TargetInfo("http", {})})
    record = MaskSpec("record", entities=tuple(ENTITIES), operator="replace")
    literals = [CREDENTIAL] if "credential" in plan else []

    def masker_for(names: tuple[str, ...]):
        return compile_masker([policies.masks[name] for name in names], SECRETS, literals=literals)

    target = TargetPlan(
        name="api",
        kind="http",
        labels={},
        rules=policies.for_target("api"),
        record_masker=compile_masker([record], SECRETS, literals=literals),
        masker_for=masker_for,
        **plan,
    )
    return Governance(
        targets={"api": target},
        identifier=identifier or Believes(),
        policy_digest=policies.digest,
        binding_key=b"b" * 32,
        record_key=b"r" * 32,
    )


def denying() -> Governance:
    """A governance that lets nothing through, for tests in which nothing is judged."""
    return governance("default: deny\nrules: []\n")


def credential() -> Credential:
    """What the upstream wants to see."""
    return Credential("x-api-key", CREDENTIAL, build_literals(literal_forms(CREDENTIAL)))


def head(
    method: str = "GET",
    path: str = "/",
    *more: tuple[str, str],
    end: bool = True,
    who: str = "alice",
    target: str = "api",
) -> RequestHead:
    """A request head as the server builds it."""
    pseudo = ((":method", method), (":path", path), (":authority", "api.example"), (":scheme", "http"))
    proof = (("authorization", who),) if who else ()
    return RequestHead(target=target, headers=Headers((*pseudo, *proof, *more)), end_of_stream=end)


class Ids:
    """Predictable ids."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, size: int) -> str:
        self.count += 1
        return f"{self.count:0{size * 2}x}"


def exchange(gov: Governance, request: str = "BUFFERED", response: str = "BUFFERED") -> HttpExchange:
    """A fresh exchange under `gov`, with the body modes Envoy would have in force."""
    return HttpExchange(lambda: gov, Ids(), BodyModes(BodyMode[request], BodyMode[response]), NOW)


def response(code: int = 200, *more: tuple[str, str], media: str = "application/json") -> Headers:
    """Response headers."""
    return Headers(((":status", str(code)), ("content-type", media), *more))
