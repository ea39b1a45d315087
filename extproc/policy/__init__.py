"""CEL rules in, one `Decision` out. `docs/policies.md` is the format."""

from __future__ import annotations

from extproc.policy.documents import PolicyLoadError, PolicySource, Problem
from extproc.policy.load import PolicyFile, PolicySet, TargetInfo, load_policies, named_targets
from extproc.policy.rules import Rule, RuleCount, RuleSet

__all__ = [
    "PolicyFile",
    "PolicyLoadError",
    "PolicySet",
    "PolicySource",
    "Problem",
    "Rule",
    "RuleCount",
    "RuleSet",
    "TargetInfo",
    "load_policies",
    "named_targets",
]
