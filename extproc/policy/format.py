"""The policy file format: a document becomes a `FileSpec`, and every structural mistake is noted with its place."""

from __future__ import annotations

from typing import cast

from extproc.domain.decision import HeaderChange, RecordDetail
from extproc.domain.mask import MaskSpec, OperatorName
from extproc.policy import values
from extproc.policy.documents import Mapping, Mark, Node, PolicySource, Problem, Reader, Scalar, read_document
from extproc.policy.facts import KINDS
from extproc.policy.holding import read_hold
from extproc.policy.model import DenySpec, FileSpec, Mode, RuleSpec, qualified

API_VERSION = "extproc/v1"
MAX_RULES = 500
MAX_RISK = 1000

_FILE = ("apiVersion", "kind", "metadata", "target", "default", "rules", "masks")
_RULE = ("name", "when", "mode", "then")
_THEN = ("allow", "deny", "hold", "mask", "record", "risk", "headers")
_MASK = ("columns", "paths", "entities", "operator", "replacement", "keep_last")
_OPERATORS = ("keep", "partial", "hash", "hmac", "replace", "null", "redact")
_DETAILS = ("none", "masked")


def read_file(source: PolicySource) -> tuple[FileSpec | None, list[Problem]]:
    """What the file says, and what is wrong with it. The spec is None where too little can be understood."""
    reader = Reader(source)
    node = read_document(reader)
    spec = _file(reader, node) if node is not None else None
    return spec, reader.problems


def _file(reader: Reader, node: Node) -> FileSpec | None:
    top = values.mapping(reader, node, _FILE, "a policy file")
    if top is None:
        return None
    _exactly(reader, top, "apiVersion", API_VERSION)
    _exactly(reader, top, "kind", "Policy")
    name, name_mark = _metadata(reader, top)
    target, kind, labels, target_mark = _target(reader, top)
    default = (
        values.one_of(reader, top.items["default"], ("deny", "allow"), "default")
        if "default" in top.items
        else None
    )
    masks = _masks(reader, top.items.get("masks"), name)
    rules = _rules(reader, top, masks)
    return FileSpec(
        source=reader.source,
        name=name,
        name_mark=name_mark,
        target=target,
        kind=kind,
        labels=labels,
        target_mark=target_mark,
        default_allow=default == "allow",
        rules=rules,
        masks=masks,
    )


def _exactly(reader: Reader, top: Mapping, key: str, wanted: str) -> None:
    node = top.items.get(key)
    if node is None:
        reader.problem(top.mark, f"{key}: {wanted} is missing")
    elif not isinstance(node, Scalar) or node.text != wanted:
        reader.problem(node.mark, f"{key} is {wanted}")


def _metadata(reader: Reader, top: Mapping) -> tuple[str, Mark]:
    found = values.mapping(reader, top.items.get("metadata"), ("name", "description"), "metadata")
    if found is None or "name" not in found.items:
        if found is not None or "metadata" not in top.items:
            reader.problem(found.mark if found else top.mark, "metadata: {name: …} is missing")
        return "", top.mark
    if "description" in found.items:
        values.text(reader, found.items["description"], "description", most=10_000, empty=True)
    node = found.items["name"]
    return values.name(reader, node, "the policy's name") or "", node.mark


def _target(reader: Reader, top: Mapping) -> tuple[str, str, dict[str, str], Mark]:
    node = top.items.get("target")
    if node is None:
        reader.problem(top.mark, "target is missing: a target's name or {labels: {…}}")
        return "", "", {}, top.mark
    if isinstance(node, Scalar):
        return values.name(reader, node, "target") or "", "", {}, node.mark
    selector = values.mapping(reader, node, ("labels", "kind"), "target")
    labels: dict[str, str] = {}
    found = selector.items.get("labels") if selector else None
    if isinstance(found, Mapping):
        for key, value in found.items.items():
            wanted = values.text(reader, value, f"label {key[:40]}", most=256, empty=True)
            if wanted is not None:
                labels[key] = wanted
    if selector is not None and not labels:
        reader.problem(node.mark, "a target selector names at least one label: {labels: {key: value}}")
    kind = ""
    if selector is not None and "kind" in selector.items:
        kind = values.one_of(reader, selector.items["kind"], KINDS, "kind") or ""
    return "", kind, labels, node.mark


def _rules(reader: Reader, top: Mapping, masks: dict[str, MaskSpec]) -> tuple[RuleSpec, ...]:
    nodes = values.items(reader, top.items.get("rules"), "rules")
    if len(nodes) > MAX_RULES:
        reader.problem(top.keys["rules"], f"more than {MAX_RULES} rules in one file")
        return ()
    found: list[RuleSpec] = []
    names: dict[str, int] = {}
    for node in nodes:
        rule = _rule(reader, node, masks)
        if rule is None:
            continue
        if rule.name in names:
            reader.problem(
                rule.mark, f'rule "{rule.name}" is here a second time (first at line {names[rule.name]})'
            )
        names.setdefault(rule.name, rule.mark.line)
        found.append(rule)
    return tuple(found)


def _rule(reader: Reader, node: Node, masks: dict[str, MaskSpec]) -> RuleSpec | None:
    top = values.mapping(reader, node, _RULE, "a rule")
    if top is None:
        return None
    if "name" not in top.items:
        reader.problem(top.mark, "a rule needs a name")
        return None
    name = values.name(reader, top.items["name"], "a rule's name")
    if name is None:
        return None
    this = f'rule "{name}"'
    when = top.items.get("when")
    if not isinstance(when, Scalar) or not when.text.strip() or when.is_null:
        reader.problem(when.mark if when else top.mark, f"{this}: when is a CEL condition")
        return None
    mode = (
        values.one_of(reader, top.items["mode"], ("enforce", "shadow"), f"{this}: mode")
        if "mode" in top.items
        else None
    )
    if "then" not in top.items:
        reader.problem(top.mark, f"{this}: then is missing")
        return None
    then = values.mapping(reader, top.items["then"], _THEN, f"{this}: then")
    if then is None:
        return None
    return _then(
        reader, then, masks, this, RuleSpec(name, when, cast(Mode, mode or "enforce"), top.items["name"].mark)
    )


def _then(reader: Reader, then: Mapping, masks: dict[str, MaskSpec], this: str, rule: RuleSpec) -> RuleSpec:
    parts = then.items
    effects = [key for key in ("allow", "deny", "hold") if key in parts]
    if len(effects) > 1:
        reader.problem(then.mark, f"{this}: then has {' and '.join(effects)}; a rule has one of them")
    if not parts:
        reader.problem(then.mark, f"{this}: then does nothing")
    if "allow" in parts:
        values.mapping(reader, parts["allow"], (), f"{this}: allow")
    record = values.mapping(reader, parts.get("record"), ("request", "response"), f"{this}: record")
    headers = values.mapping(reader, parts.get("headers"), ("request", "response"), f"{this}: headers")
    risk = values.whole(reader, parts["risk"], f"{this}: risk", 1, MAX_RISK) if "risk" in parts else 0
    return RuleSpec(
        name=rule.name,
        when=rule.when,
        mode=rule.mode,
        mark=rule.mark,
        allows="allow" in parts,
        deny=_deny(reader, parts["deny"], this) if "deny" in parts else None,
        hold=read_hold(reader, parts["hold"], this) if "hold" in parts else None,
        masks=_mask_names(reader, parts.get("mask"), masks, this),
        record_request=_detail(reader, record, "request", this),
        record_response=_detail(reader, record, "response", this),
        request_headers=_header_change(reader, headers, "request", this),
        response_headers=_header_change(reader, headers, "response", this),
        risk=risk or 0,
        place=then.keys,
    )


def _deny(reader: Reader, node: Node, this: str) -> DenySpec:
    found = values.mapping(reader, node, ("message", "status", "code"), f"{this}: deny")
    if found is None:
        return DenySpec()
    parts = found.items
    message = values.text(reader, parts["message"], f"{this}: message") if "message" in parts else ""
    status = values.whole(reader, parts["status"], f"{this}: status", 400, 599) if "status" in parts else 403
    code: str | None = ""
    if "code" in parts:
        code = values.matching(
            reader,
            parts["code"],
            values.CODE,
            f"{this}: code",
            "small letters, digits and dashes, at most 64",
        )
    return DenySpec(message or "", status or 403, code or "")


def _mask_names(reader: Reader, node: Node | None, masks: dict[str, MaskSpec], this: str) -> tuple[str, ...]:
    if node is None:
        return ()
    nodes = [node] if isinstance(node, Scalar) else values.items(reader, node, f"{this}: mask")
    if not nodes:
        reader.problem(node.mark, f"{this}: mask names no mask")
    found: set[str] = set()
    for part in nodes:
        name = values.one_of_masks(reader, part, masks, this)
        if name is not None:
            found.add(name)
    return tuple(sorted(found))


def _detail(reader: Reader, record: Mapping | None, side: str, this: str) -> RecordDetail:
    if record is None or side not in record.items:
        return "none"
    found = values.one_of(reader, record.items[side], _DETAILS, f"{this}: record.{side}")
    return cast(RecordDetail, found or "none")


def _header_change(reader: Reader, headers: Mapping | None, side: str, this: str) -> HeaderChange:
    what = f"{this}: headers.{side}"
    found = values.mapping(reader, headers.items.get(side) if headers else None, ("set", "remove"), what)
    if found is None:
        return HeaderChange()
    settings: dict[str, str] = {}
    node = found.items.get("set")
    if isinstance(node, Mapping):
        for written, value in node.items.items():
            name = values.header_name(reader, node.keys[written], written, what)
            wanted = values.header_value(reader, value, what)
            if name in settings:
                reader.problem(node.keys[written], f'{what}: "{name}" is set twice')
            elif name is not None and wanted is not None:
                settings[name] = wanted
    elif node is not None:
        reader.problem(node.mark, f"{what}: set is a mapping")
    removed: set[str] = set()
    for part in values.items(reader, found.items.get("remove"), f"{what}: remove"):
        written_name = values.text(reader, part, what)
        name = values.header_name(reader, part.mark, written_name, what) if written_name is not None else None
        if name in settings:
            reader.problem(part.mark, f'{what}: "{name}" is both set and removed')
        elif name is not None:
            removed.add(name)
    return HeaderChange(tuple(sorted(settings.items())), tuple(sorted(removed)))


def _masks(reader: Reader, node: Node | None, policy: str) -> dict[str, MaskSpec]:
    if node is None:
        return {}
    if not isinstance(node, Mapping):
        reader.problem(node.mark, "masks is a mapping of names")
        return {}
    found: dict[str, MaskSpec] = {}
    for name, part in node.items.items():
        if not values.NAME.fullmatch(name):
            reader.problem(
                node.keys[name], "a mask's name: letters, digits, dot, dash and underscore, at most 63"
            )
            continue
        spec = _mask(reader, part, name, policy)
        if spec is not None:
            found[name] = spec
    return found


def _mask(reader: Reader, node: Node, name: str, policy: str) -> MaskSpec | None:
    this = f'mask "{name}"'
    top = values.mapping(reader, node, _MASK, this)
    if top is None:
        return None
    parts = top.items
    columns = _texts(reader, parts.get("columns"), f"{this}: columns")
    paths = _texts(reader, parts.get("paths"), f"{this}: paths")
    for path, part in zip(paths, values.items(reader, parts.get("paths"), this), strict=False):
        if not path.startswith("$"):
            reader.problem(part.mark, f"{this}: a path starts with $, such as $.card or $..card")
    entities = []
    for part in values.items(reader, parts.get("entities"), f"{this}: entities"):
        entity = values.matching(
            reader, part, values.ENTITY, f"{this}: entities", "names such as EMAIL_ADDRESS"
        )
        if entity is not None:
            entities.append(entity)
    if not (columns or paths or entities):
        reader.problem(node.mark, f"{this} masks nothing: it names no columns, paths or entities")
    operator = (
        values.one_of(reader, parts["operator"], _OPERATORS, f"{this}: operator")
        if "operator" in parts
        else None
    )
    replacement = ""
    if "replacement" in parts:
        replacement = (
            values.text(reader, parts["replacement"], f"{this}: replacement", most=256, empty=True) or ""
        )
        if operator != "replace":
            reader.problem(top.keys["replacement"], f"{this}: replacement belongs to the operator replace")
    keep_last: int | None = 4
    if "keep_last" in parts:
        keep_last = values.whole(reader, parts["keep_last"], f"{this}: keep_last", 0, 16)
        if operator != "partial":
            reader.problem(top.keys["keep_last"], f"{this}: keep_last belongs to the operator partial")
    return MaskSpec(
        name=qualified(policy, name),
        columns=tuple(columns),
        paths=tuple(paths),
        entities=tuple(entities),
        operator=cast(OperatorName, operator or "redact"),
        replacement=replacement,
        keep_last=4 if keep_last is None else keep_last,
    )


def _texts(reader: Reader, node: Node | None, what: str) -> list[str]:
    found = [values.text(reader, part, what, most=256) for part in values.items(reader, node, what)]
    return [part for part in found if part is not None]
