"""Policy files in, one `PolicySet` out: compiled, checked, combined per target; or every problem at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from extproc.domain.mask import MaskSpec
from extproc.policy.checks import compile_rules
from extproc.policy.documents import PolicyLoadError, PolicySource, Problem, Reader
from extproc.policy.engine import Engine, build_engine, choose_engine
from extproc.policy.facts import suggestion, variables
from extproc.policy.format import read_file
from extproc.policy.model import FileSpec, digest_of
from extproc.policy.rules import Rule, RuleSet

DEFAULT_KIND = "http"
_SPEAKS_SQL = re.compile(r"(?<![\w.])sql\.[a-z]")


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """What policy must know of a target: its kind (`http`, …) and its labels."""

    kind: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """One loaded file: where it came from and what it governs."""

    name: str
    source: str
    digest: str
    targets: tuple[str, ...]
    rules: tuple[str, ...]


class PolicySet:
    """All policies of a configuration, compiled. Immutable; a reload builds a new one."""

    def __init__(
        self,
        files: tuple[PolicyFile, ...],
        masks: Mapping[str, MaskSpec],
        rule_sets: Mapping[str, RuleSet],
        engine: str,
        targets: Mapping[str, TargetInfo],
    ) -> None:
        self.files = files
        self.masks = masks
        self.engine = engine
        self.digest = digest_of(sorted([file.name, file.digest] for file in files))
        self._rule_sets = dict(rule_sets)
        self._targets = dict(targets)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(sorted(self._targets))

    def target_info(self, name: str) -> TargetInfo:
        """What the set was told of a target. Raises KeyError."""
        return self._targets[name]

    def for_target(self, name: str) -> RuleSet:
        """The target's rules; a target that no file names denies everything."""
        return self._rule_sets.get(name) or _rule_set(name, [], {}, None)


def load_policies(
    sources: Iterable[PolicySource], targets: Mapping[str, TargetInfo], *, engine: str | None = None
) -> PolicySet:
    """Compile and check everything. Raises PolicyError with every problem, one per line, each with its place.

    `engine` is `cel-expr` or `cel-python`; by default the best that is installed.
    """
    engine_name = choose_engine(engine)
    problems: list[Problem] = []
    specs: list[FileSpec] = []
    for source in sources:
        spec, found = read_file(source)
        problems.extend(found)
        if spec is not None:
            specs.append(spec)
    problems.extend(_twice(specs))
    engines: dict[str, Engine] = {}
    rules: dict[tuple[str, str], list[Rule]] = {}
    governed: dict[str, tuple[str, ...]] = {}
    for spec in specs:
        reader = Reader(spec.source)
        governed[spec.name] = _governed(reader, spec, targets)
        kinds = sorted({targets[name].kind for name in governed[spec.name]}) or [DEFAULT_KIND]
        for kind in kinds:
            if kind not in engines:
                engines[kind] = build_engine(engine_name, kind, variables(kind))
            rules[spec.name, kind] = compile_rules(reader, spec, engines[kind], kind)
        problems.extend(reader.problems)
    if problems:
        raise PolicyLoadError(problems)
    rule_sets: dict[str, RuleSet] = {}
    for name, info in targets.items():
        mine = [spec for spec in specs if name in governed[spec.name]]
        compiled = {spec.name: rules[spec.name, info.kind] for spec in mine}
        rule_sets[name] = _rule_set(name, mine, compiled, engines.get(info.kind))
    return PolicySet(
        files=tuple(_described(spec, governed[spec.name]) for spec in specs),
        masks={mask.name: mask for spec in specs for mask in spec.masks.values()},
        rule_sets=rule_sets,
        engine=engine_name,
        targets=targets,
    )


def named_targets(sources: Iterable[PolicySource]) -> dict[str, TargetInfo]:
    """The targets that the files themselves speak of: for checks without a configuration.

    A selector becomes a target of its own, named after the policy. A target is of the kind that the selector names,
    else taken for Postgres where a condition speaks of `sql.`, and for HTTP elsewhere.
    """
    found: dict[str, TargetInfo] = {}
    for source in sources:
        spec, _ = read_file(source)
        if spec is None:
            continue
        speaks_sql = any(_SPEAKS_SQL.search(rule.when.text) for rule in spec.rules)
        kind = spec.kind or ("postgres" if speaks_sql else DEFAULT_KIND)
        if not spec.target:
            found[f"any-{spec.name}"] = TargetInfo(kind, dict(spec.labels))
        elif kind != DEFAULT_KIND or spec.target not in found:
            found[spec.target] = TargetInfo(kind, {})
    return found


def _governed(reader: Reader, spec: FileSpec, targets: Mapping[str, TargetInfo]) -> tuple[str, ...]:
    if not spec.labels:
        if not spec.target or spec.target in targets:
            return (spec.target,) if spec.target else ()
        hint = suggestion(spec.target, tuple(targets))
        reader.problem(spec.target_mark, f'unknown target "{spec.target}"{hint}')
        return ()
    wanted = spec.labels.items()
    return tuple(
        sorted(
            name
            for name, info in targets.items()
            if wanted <= dict(info.labels).items() and spec.kind in ("", info.kind)
        )
    )


def _twice(specs: list[FileSpec]) -> list[Problem]:
    """Rules and masks are known by the policy's name, so it must be unique."""
    first: dict[str, FileSpec] = {}
    problems: list[Problem] = []
    for spec in specs:
        if not spec.name:
            continue
        if spec.name in first:
            message = f'the policy "{spec.name}" is also in {first[spec.name].source.name}'
            mark = spec.name_mark
            problems.append(Problem(spec.source.name, mark.line, mark.column, message))
        first.setdefault(spec.name, spec)
    return problems


def _rule_set(
    target: str, specs: list[FileSpec], compiled: Mapping[str, list[Rule]], engine: Engine | None
) -> RuleSet:
    return RuleSet(
        target,
        [rule for spec in specs for rule in compiled[spec.name]],
        default_allow=bool(specs) and all(spec.default_allow for spec in specs),
        digest=digest_of({"target": target, "files": sorted([spec.name, spec.digest] for spec in specs)}),
        engine=engine,
    )


def _described(spec: FileSpec, targets: tuple[str, ...]) -> PolicyFile:
    names = tuple(rule.name for rule in spec.rules)
    return PolicyFile(spec.name, spec.source.name, spec.digest, targets, names)
