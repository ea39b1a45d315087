"""What is measured: targets with their policies, and cases that send one kind of request to them.

A case is run in several setups over the same route shape: `bare` (no filter), `empty_grpcio` and `empty_lean` (a
processor that decides nothing, with the same number of messages, on either transport), `governed_grpcio` and
`governed_lean` (extproc), `two_workers` and, with more than two cores, `all_workers` (extproc on the lean transport,
each worker with as many connections as the one), `one_beside_bare` (one worker, while as many connections again ask
bare Envoy: the machine is then as busy as with two), `access_log` (`governed_lean` that Envoy's access log goes to).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.masking_bench import documents

Setup = Literal[
    "bare", "empty_grpcio", "empty_lean", "governed_grpcio", "governed_lean", "two_workers", "all_workers",
    "one_beside_bare", "access_log",
]  # fmt: skip
CORES = os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Service:
    """One `extproc serve`."""

    transport: Literal["lean", "grpcio"]
    workers: int = 1
    access_log: bool = False
    """Envoy tells it how each request ended, and it writes a third record."""
    beside_bare: bool = False
    """While it is measured, as many connections again ask bare Envoy. Only its processor's CPU says anything."""


EMPTY: Mapping[Setup, Literal["lean", "grpcio"]] = {"empty_grpcio": "grpcio", "empty_lean": "lean"}
"""Processors that decide nothing, by transport."""
SERVICES: Mapping[Setup, Service] = {
    "governed_lean": Service("lean"),
    "governed_grpcio": Service("grpcio"),
    "two_workers": Service("lean", 2),
    **({"all_workers": Service("lean", CORES)} if CORES > 2 else {}),
    "one_beside_bare": Service("lean", beside_bare=True),
    "access_log": Service("lean", access_log=True),
}
ALL: tuple[Setup, ...] = ("bare", *EMPTY, "governed_grpcio", "governed_lean")
WORKERS: tuple[Setup, ...] = tuple(setup for setup, service in SERVICES.items() if service.workers > 1)
MAIN: tuple[Setup, ...] = ("bare", "empty_grpcio", "governed_lean")
"""What `--quick` runs of most cases."""
ONE_OF_EACH: tuple[Setup, ...] = ("empty_grpcio", "empty_lean", "governed_lean")
CREDENTIAL = "bench-upstream-credential-51c9"
"""What extproc injects where a target has a credential; it opens nothing."""

SMALL = json.dumps(
    {"id": 42, "name": "customer number 42", "status": "active", "tags": ["a", "b"], "total": 12.5}
).encode()
NOTE = json.dumps(
    {"customer": 42, "kind": "note", "amount": 250, "text": "called back, all is well"}
).encode()


def _bodies() -> dict[str, bytes]:
    made = {"/small": SMALL}
    for label, size in (("1k", 1_000), ("20k", 20_000), ("1m", 1_000_000)):
        sized = documents(size)
        made[f"/clean-{label}"] = sized["clean"]
        made[f"/dirty-{label}"] = sized["dirty, every row"]
    return made


BODIES: Mapping[str, bytes] = _bodies()
"""What the upstream answers, by path."""


def rules(count: int, *, last: Mapping[str, Any], body: int = 0) -> list[dict[str, Any]]:
    """`count` rules of mixed kinds that are all evaluated; only `last` matches. `body` of them read the JSON body."""
    kinds = (
        'request.method == "DELETE" && request.url_path.startsWith("/area-{n}/")',
        'request.url_path.startsWith("/internal/{n}") && !("staff-{n}" in principal.groups)',
        '"x-area" in request.headers && request.headers["x-area"] == "{n}"',
        'target.labels["env"] == "prod-{n}" && principal.kind != "human"',
        'request.host == "old-{n}.example" || request.query.contains("debug={n}")',
    )
    made: list[dict[str, Any]] = []
    for n in range(count - 1):
        when = (
            f'request.json.kind == "payment-{n}" && request.json.amount > {1000 + n}'
            if n < body
            else kinds[n % len(kinds)].replace("{n}", str(n))
        )
        made.append({"name": f"rule-{n}", "when": when, "then": {"deny": {"message": "Not here."}}})
    return [*made, {"name": "last", **last}]


READ = {"when": 'request.method == "GET" && "readers" in principal.groups', "then": {"allow": {}}}
WRITE = {"when": 'request.method == "POST" && "readers" in principal.groups', "then": {"allow": {}}}
MASKED_READ = {**READ, "then": {"allow": {}, "mask": "pii"}}
HELD = {
    "when": 'request.method == "POST" && "readers" in principal.groups',
    "then": {"hold": {"group": "nobody", "wait": "14m"}},
}
NEVER = {"when": 'request.method == "GET"', "then": {"deny": {"message": "Nothing is read here."}}}
PII = {"pii": {"entities": ["EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE"], "operator": "replace"}}


@dataclass(frozen=True, slots=True)
class Target:
    """One target: its rules, what is kept of it, how many messages an exchange with it has."""

    rules: list[dict[str, Any]]
    messages: int
    masks: Mapping[str, Any] = field(default_factory=dict)
    mode: Literal["ext_proc", "ext_authz"] = "ext_proc"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def policy(self, name: str) -> dict[str, Any]:
        """The policy document of this target."""
        document: dict[str, Any] = {
            "apiVersion": "extproc/v1",
            "kind": "Policy",
            "metadata": {"name": name},
            "target": name,
            "default": "deny",
            "rules": self.rules,
        }
        if self.masks:
            document["masks"] = dict(self.masks)
        return document


KEPT = {
    "credential": {"header": "x-api-key", "value": {"env": "BENCH_CREDENTIAL"}},
    "record": {"request": "masked", "response": "masked"},
}

TARGETS: Mapping[str, Target] = {
    "read": Target(rules(20, last=READ), messages=2),
    "write": Target(rules(20, last=WRITE, body=4), messages=3),
    "kept": Target(rules(20, last=READ), messages=3, settings=KEPT),
    "masked": Target(rules(20, last=MASKED_READ), messages=3, masks=PII),
    "denied": Target(rules(20, last=NEVER), messages=1),
    "authz": Target(rules(20, last=READ), messages=1, mode="ext_authz"),
    "held": Target(rules(20, last=HELD), messages=3),
    "read-1": Target(rules(1, last=READ), messages=2),
    "read-200": Target(rules(200, last=READ), messages=2),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request. `in_quick`: part of `--quick`."""

    name: str
    target: str
    path: str
    about: str
    method: str = "GET"
    body: bytes | None = None
    status: int = 200
    setups: tuple[Setup, ...] = ALL
    in_quick: bool = True
    quick_setups: tuple[Setup, ...] = MAIN
    fresh_tokens: bool = False
    """Every request carries a token that was never seen before."""
    weight: int = 1
    """A round has this many times fewer requests: some take long."""


CASES: tuple[Case, ...] = (
    Case("get", "read", "/small", "small JSON GET, 20 rules, cached RS256 token, intent and outcome",
         setups=(*ALL, *WORKERS, "one_beside_bare", "access_log"), quick_setups=ALL),
    Case("post", "write", "/small", "small JSON POST, 20 rules, 4 of them over the body", "POST", NOTE),
    Case("kept", "kept", "/small", "GET with an injected credential, request and response kept masked"),
    Case("mask-dirty", "masked", "/dirty-1k", "GET whose 1 KB answer has an e-mail address in every row"),
    Case("deny", "denied", "/small", "GET denied by the last of 20 rules", status=403, setups=ALL[1:],
         quick_setups=("empty_grpcio", "governed_lean")),
    Case("authz", "authz", "/small", "small JSON GET through ext_authz, 20 rules"),
    Case("mask-clean", "masked", "/clean-1k", "the same mask over 1 KB with nothing to find", in_quick=False),
    Case("mask-dirty-20k", "masked", "/dirty-20k", "the same mask over 20 KB, every row dirty", in_quick=False,
         weight=2),
    Case("mask-clean-20k", "masked", "/clean-20k", "the same mask over 20 KB, nothing to find", in_quick=False,
         weight=2),
    Case("mask-dirty-1m", "masked", "/dirty-1m", "the same mask over 1 MB, every row dirty", in_quick=False,
         setups=ONE_OF_EACH, weight=40),
    Case("mask-clean-1m", "masked", "/clean-1m", "the same mask over 1 MB, nothing to find", in_quick=False,
         setups=ONE_OF_EACH, weight=40),
    Case("uncached", "read", "/small", "GET with a token never seen before", in_quick=False, fresh_tokens=True,
         setups=("empty_grpcio", "governed_grpcio", "governed_lean")),
    Case("rules-1", "read-1", "/small", "GET with 1 rule", in_quick=False, setups=ONE_OF_EACH),
    Case("rules-200", "read-200", "/small", "GET with 200 rules", in_quick=False, setups=ONE_OF_EACH),
)  # fmt: skip
