"""Short ways to write policies and requests in tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extproc.domain.decision import Phase, Ruling
from extproc.policy import PolicySet, PolicySource, RuleSet, TargetInfo, load_policies

TARGETS = {"api": TargetInfo("http", {"env": "test", "team": "blue"})}

HEAD = """apiVersion: extproc/v1
kind: Policy
metadata: {name: NAME}
target: api
default: DEFAULT
"""
MASKS = """masks:
  pii: {entities: [EMAIL_ADDRESS], operator: partial}
  cards: {paths: ["$..card"]}
"""
HOLD = "{group: finance, wait: 60s, expires: 1h, use_within: 10m}"


def rule(name: str, when: str, then: str, mode: str = "enforce") -> str:
    """One rule; `then` is YAML flow text."""
    return f"  - name: {name}\n    when: |-\n      {when}\n    mode: {mode}\n    then: {then}\n"


def text(*rules: str, name: str = "p", default: str = "deny") -> str:
    body = "rules:\n" + "".join(rules) if rules else "rules: []\n"
    return HEAD.replace("NAME", name).replace("DEFAULT", default) + body + MASKS


def policies(
    *texts: str, targets: Mapping[str, TargetInfo] = TARGETS, engine: str | None = None
) -> PolicySet:
    sources = [PolicySource(f"policies/{index}.yaml", body) for index, body in enumerate(texts)]
    return load_policies(sources, targets, engine=engine)


def rule_set(*rules: str, default: str = "deny", engine: str | None = None) -> RuleSet:
    return policies(text(*rules, default=default), engine=engine).for_target("api")


def request(**changed: Any) -> dict[str, object]:
    """Facts of one request; `None` leaves a fact out. `__` stands for the dot."""
    found: dict[str, object] = {
        "request.method": "POST",
        "request.url_path": "/x",
        "request.headers": {},
        "request.json": {"amount": 5},
        "principal.kind": "agent",
        "principal.groups": ("payments",),
        "response.code": 200,
        "response.json": {"ok": True},
    }
    for name, value in changed.items():
        dotted = name.replace("__", ".")
        if value is None:
            found.pop(dotted, None)
        else:
            found[dotted] = value
    return found


def judged(rules: RuleSet, facts: Mapping[str, object], *, response: bool = False) -> Ruling:
    """Through every phase, as the pipeline does it."""
    ruling = rules.judge(Phase.HEADERS, facts, None)
    if ruling.decision is None:
        ruling = rules.judge(Phase.BODY, facts, ruling)
    return rules.judge(Phase.RESPONSE, facts, ruling) if response else ruling
