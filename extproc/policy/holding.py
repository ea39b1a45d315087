"""The `hold` part of a rule: who must agree, how long everybody has, and demands that nobody could meet."""

from __future__ import annotations

from typing import cast

import re2

from extproc.domain.demand import BreakGlass, Quorum
from extproc.domain.quorum import PATTERN_OPTIONS
from extproc.domain.terms import SCOPES, GrantLimit, Scope
from extproc.policy import values
from extproc.policy.documents import Mapping, Node, Reader, Scalar
from extproc.policy.model import HoldSpec

_HOLD = (
    "approvers",
    "group",
    "wait",
    "expires",
    "use_within",
    "grant",
    "reason",
    "reason_pattern",
    "resumable",
    "allow_agents",
    "break_glass",
    "conflict_groups",
)

MAX_WAIT = 3600.0
"""Envoy waits for one answer at most this long (`max_message_timeout`)."""
MAX_EXPIRES = 30 * 86400.0
DEFAULT_WAIT = 30.0
DEFAULT_EXPIRES = 86400.0
DEFAULT_USE_WITHIN = 3600.0
DEFAULT_REVIEW = 86400.0
SHORTEST_REVIEW = 60.0
MAX_QUORUM = 50
MAX_GROUPS = 50
MAX_USES = 10_000


def read_hold(reader: Reader, node: Node, this: str) -> HoldSpec | None:
    top = values.mapping(reader, node, _HOLD, f"{this}: hold")
    if top is None:
        return None
    parts = top.items
    expires = _duration(reader, parts, "expires", this, DEFAULT_EXPIRES, MAX_EXPIRES)
    wait = _duration(reader, parts, "wait", this, min(DEFAULT_WAIT, expires), MAX_WAIT)
    use_within = _duration(reader, parts, "use_within", this, DEFAULT_USE_WITHIN, MAX_EXPIRES)
    if wait > expires:
        reader.problem(
            top.keys.get("wait", top.mark),
            f"{this}: wait ({values.spoken(wait)}) is longer than expires ({values.spoken(expires)})",
        )
    for key, seconds in (("expires", expires), ("use_within", use_within)):
        if seconds <= 0:
            reader.problem(
                top.keys.get(key, top.mark), f"{this}: with {key}: 0 no approval could ever be used"
            )
    reason = values.text(reader, parts["reason"], f"{this}: reason", empty=True) if "reason" in parts else ""
    return HoldSpec(
        quorums=_approvers(reader, top, this),
        wait=wait,
        expires=expires,
        use_within=use_within,
        grant=_grant(reader, parts.get("grant"), this),
        reason=reason or "",
        resumable=_truth(reader, parts, "resumable", this),
        allow_agents=_truth(reader, parts, "allow_agents", this),
        reason_pattern=_pattern(reader, parts.get("reason_pattern"), f"{this}: reason_pattern"),
        break_glass=_break_glass(reader, parts["break_glass"], f"{this}: break_glass")
        if "break_glass" in parts
        else None,
        conflict_groups=_groups(reader, parts["conflict_groups"], f"{this}: conflict_groups")
        if "conflict_groups" in parts
        else (),
    )


def _groups(reader: Reader, node: Node, what: str) -> tuple[str, ...]:
    """`[oncall, leads]`: at least one name of a group, each once, sorted."""
    listed = values.items(reader, node, what)
    groups = {values.text(reader, each, what, most=256) for each in listed} - {None, ""}
    if not groups:
        reader.problem(node.mark, f"{what}: names no group")
    elif len(groups) > MAX_GROUPS:
        reader.problem(node.mark, f"{what}: at most {MAX_GROUPS} groups")
    return tuple(sorted(map(str, groups)))


def _break_glass(reader: Reader, node: Node, what: str) -> BreakGlass | None:
    """`{groups: [oncall], review_within: 24h}`: whose people may let their own request go in an emergency."""
    top = values.mapping(reader, node, ("groups", "review_within"), what)
    if top is None:
        return None
    groups: tuple[str, ...] = ()
    if "groups" in top.items:
        groups = _groups(reader, top.items["groups"], f"{what}: groups")
    else:
        reader.problem(top.mark, f"{what}: without groups nobody could ever use it")
    within = _duration(reader, top.items, "review_within", what, DEFAULT_REVIEW, MAX_EXPIRES)
    if within < SHORTEST_REVIEW:
        reader.problem(top.keys["review_within"], f"{what}: review_within is a minute or more")
    return BreakGlass((groups,), within)


def _pattern(reader: Reader, node: Node | None, what: str) -> str:
    """A regular expression (RE2: no text takes it long) that every approval's reason must match somewhere."""
    found = values.text(reader, node, what, most=200) if node is not None else None
    if node is None or not found:
        return ""
    try:
        re2.compile(found, PATTERN_OPTIONS)
    except re2.error as error:
        shown = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        reader.problem(node.mark, f"{what} is no regular expression: {shown}")
        return ""
    return found


def _duration(
    reader: Reader, parts: dict[str, Node], key: str, this: str, default: float, most: float
) -> float:
    if key not in parts:
        return default
    found = values.duration(reader, parts[key], f"{this}: {key}", most)
    return default if found is None else found


def _truth(reader: Reader, parts: dict[str, Node], key: str, this: str) -> bool:
    return bool(values.truth(reader, parts[key], f"{this}: {key}")) if key in parts else False


def _approvers(reader: Reader, top: Mapping, this: str) -> tuple[Quorum, ...]:
    """`approvers: {all_of: [{group, count}]}`, `approvers: {group, count}` or `group: name`."""
    node = top.items.get("approvers")
    short = top.items.get("group")
    if node is None and short is None:
        reader.problem(top.mark, f"{this}: a hold without approvers could never be approved")
        return ()
    if node is not None and short is not None:
        reader.problem(top.keys["group"], f"{this}: approvers and group say the same; keep one")
    if node is None:
        assert short is not None  # noqa: S101
        group = values.text(reader, short, f"{this}: group", most=256)
        return (Quorum(group),) if group else ()
    found = values.mapping(reader, node, ("all_of", "group", "count"), f"{this}: approvers")
    if found is None:
        return ()
    if "all_of" not in found.items:
        return _distinct(reader, [node], this)
    for extra in ("group", "count"):
        if extra in found.items:
            reader.problem(found.keys[extra], f"{this}: {extra} stands inside all_of")
    parts = values.items(reader, found.items["all_of"], f"{this}: all_of")
    if not parts:
        reader.problem(found.keys["all_of"], f"{this}: a hold without approvers could never be approved")
    return _distinct(reader, parts, this)


def _distinct(reader: Reader, nodes: list[Node], this: str) -> tuple[Quorum, ...]:
    quorums: dict[str, Quorum] = {}
    for node in nodes:
        found = values.mapping(reader, node, ("all_of", "group", "count"), f"{this}: approvers")
        if found is None:
            continue
        if "group" not in found.items:
            reader.problem(found.mark, f"{this}: approvers: group is missing")
            continue
        group = values.text(reader, found.items["group"], f"{this}: group", most=256)
        count: int | None = 1
        if "count" in found.items:
            count = values.whole(reader, found.items["count"], f"{this}: count", 1, MAX_QUORUM)
        if group in quorums:
            reader.problem(found.mark, f'{this}: the group "{group}" is named twice')
        elif group is not None and count is not None:
            quorums[group] = Quorum(group, count)
    return tuple(quorums[group] for group in sorted(quorums))


def _grant(reader: Reader, node: Node | None, this: str) -> GrantLimit:
    """`grant: {max: {for, uses, scope}}`; without it an approval lets exactly one request go."""
    if node is None or (isinstance(node, Scalar) and node.text == "once"):
        return GrantLimit()
    outer = values.mapping(reader, node, ("max",), f"{this}: grant")
    limit = (
        values.mapping(reader, outer.items.get("max"), ("for", "uses", "scope"), f"{this}: grant.max")
        if outer
        else None
    )
    if limit is None:
        if outer is not None and "max" not in outer.items:
            reader.problem(node.mark, f"{this}: grant is {{max: {{for, uses, scope}}}}")
        return GrantLimit()
    parts = limit.items
    duration = values.duration(reader, parts["for"], f"{this}: for", MAX_EXPIRES) if "for" in parts else 0.0
    uses = values.whole(reader, parts["uses"], f"{this}: uses", 1, MAX_USES) if "uses" in parts else 1
    scope = values.one_of(reader, parts["scope"], SCOPES, f"{this}: scope") if "scope" in parts else "exact"
    if duration is None or uses is None or scope is None:
        return GrantLimit()
    grant = GrantLimit(duration, uses, cast(Scope, scope))
    if duration < 1 and (grant.uses > 1 or grant.scope != "exact"):
        why = "needs a duration: for" if duration <= 0 else "is for a second at least"
        reader.problem(limit.mark, f"{this}: a grant of more than one request {why}")
    elif grant.is_once and (duration > 0 or grant.scope != "exact"):
        reader.problem(
            limit.mark, f"{this}: uses counts the held request itself, so a grant needs uses of 2 or more"
        )
    return grant
