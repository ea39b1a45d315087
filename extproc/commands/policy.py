"""`extproc policy`: check policies, run the cases beside them, explain a decision."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from extproc.adapters.policy_files import FoundPolicies, author_of, cases_beside, find_policies
from extproc.app.bundle import check_masks
from extproc.commands.dialects import analyze
from extproc.commands.policy_backtest import backtest
from extproc.commands.policy_counts import counts
from extproc.commands.reload import reload_policy
from extproc.config import load_config
from extproc.config.units import format_duration
from extproc.domain.decision import Hold
from extproc.domain.errors import PolicyError
from extproc.domain.terms import GrantLimit
from extproc.policy import PolicySet, PolicySource, TargetInfo, load_policies, named_targets
from extproc.policy.cases import Case, CaseResult, read_cases, run_case

_paths = click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
_config = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Take targets, and folders when no PATHS are given, from this extproc.yaml.",
)
_engine = click.option("--engine", type=click.Choice(["cel-expr", "cel-python"]), help="CEL engine to use.")
_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


@click.group()
def policy() -> None:
    """Check, test and explain policies; load them again."""


policy.add_command(backtest)
policy.add_command(counts)
policy.add_command(reload_policy)


@policy.command()
@_paths
@_config
@_engine
@_json
def check(paths: tuple[Path, ...], config_file: Path | None, engine: str | None, as_json: bool) -> None:
    """Load the policies in PATHS and name every mistake with its line.

    Without --config, the targets are those that the policies name.
    Exit codes: 0 they are good, 1 they are not.
    """
    paths, targets, engine = _settings(paths, config_file, engine)
    try:
        found = find_policies(paths)
        policies = load_policies(found.policies, targets or named_targets(found.policies), engine=engine)
        check_masks(policies)
    except PolicyError as error:
        if as_json:
            click.echo(json.dumps({"ok": False, "problems": str(error).splitlines()}))
        else:
            click.echo(str(error), err=True)
        sys.exit(1)
    author = author_of(paths)
    idle = [file.name for file in policies.files if not file.targets]
    if as_json:
        files = [
            {
                "policy": file.name,
                "file": file.source,
                "digest": file.digest,
                "targets": list(file.targets),
                "rules": list(file.rules),
            }
            for file in policies.files
        ]
        facts = {"digest": policies.digest, "engine": policies.engine, "author": str(author), "files": files}
        click.echo(json.dumps({"ok": True, **facts}))
        return
    for file in policies.files:
        governs = ", ".join(file.targets) or "no target"
        click.echo(f"{file.source}: {file.name}, {_count(len(file.rules), 'rule')}, governs {governs}")
    for name in idle:
        click.echo(f'warning: the selector of the policy "{name}" matches no target', err=True)
    click.echo(f"good: {policies.digest} ({policies.engine}, author {author})")


@policy.command()
@_paths
@_config
@_engine
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write a JUnit report here.")
@click.option("--require-coverage", is_flag=True, help="Fail when a rule is matched by no case.")
@_json
def test(
    paths: tuple[Path, ...],
    config_file: Path | None,
    engine: str | None,
    junit: Path | None,
    require_coverage: bool,
    as_json: bool,
) -> None:
    """Run every *.cases.yaml beside the policies in PATHS.

    Exit codes: 0 every case holds, 1 one does not (or a rule is not covered, with --require-coverage).
    """
    paths, targets, engine = _settings(paths, config_file, engine)
    try:
        found = find_policies(paths)
        policies = load_policies(found.policies, targets or named_targets(found.policies), engine=engine)
        results = [run_case(case, policies) for case in _cases(found, policies)]
    except PolicyError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    covered = _coverage(policies, results)
    failed = [result for result in results if result.differences]
    uncovered = sorted(rule for rule, count in covered.items() if not count)
    if junit is not None:
        from extproc.policy.junit import junit_report

        junit.write_bytes(junit_report(results))
    if as_json:
        click.echo(
            json.dumps({"ok": not failed, "cases": [_result(r) for r in results], "coverage": covered})
        )
    else:
        _print_results(results, covered)
    if not results:
        click.echo("no cases found", err=True)
    if failed or not results or (require_coverage and uncovered):
        sys.exit(1)


@policy.command()
@click.option(
    "--policy", "paths", multiple=True, required=True, type=click.Path(path_type=Path), help="File or folder."
)
@_config
@_engine
@click.option("--case", "case_name", help="FILE#NAME of a case.")
@click.option("--request", "request_text", help="JSON with request, principal, response, target; or @FILE.")
@_json
def explain(
    paths: tuple[Path, ...],
    config_file: Path | None,
    engine: str | None,
    case_name: str | None,
    request_text: str | None,
    as_json: bool,
) -> None:
    """Show each rule's truth and the values it read for one request.

    Values are masked and cut; claims are shown by type only.
    """
    if (case_name is None) == (request_text is None):
        raise click.UsageError("give either --case or --request")
    paths, targets, engine = _settings(paths, config_file, engine)
    try:
        found = find_policies(paths)
        policies = load_policies(found.policies, targets or named_targets(found.policies), engine=engine)
        if case_name is not None:
            case = _named_case(case_name, found, policies)
        else:
            case = _request_case(request_text or "", policies)
        result = run_case(case, policies)
    except PolicyError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    _print_explanation(case, result, policies, as_json)


def _settings(
    paths: tuple[Path, ...], config_file: Path | None, engine: str | None
) -> tuple[tuple[Path, ...], dict[str, TargetInfo], str | None]:
    """Paths, targets and engine, from the configuration where the command line does not say."""
    if config_file is None:
        if not paths:
            raise click.UsageError("give PATHS or --config")
        return paths, {}, engine
    try:
        settings = load_config(config_file)
    except PolicyError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    targets = {target.name: TargetInfo(target.kind, target.labels) for target in settings.targets}
    return paths or settings.policies.folders, targets, engine or settings.policies.engine


def _cases(found: FoundPolicies, policies: PolicySet) -> list[Case]:
    """All cases, or every problem in their files at once."""
    beside = {cases_beside(file.source): file.name for file in policies.files}
    cases: list[Case] = []
    problems: list[str] = []
    for source in found.cases:
        if source.name not in beside:
            problems.append(f"{source.name}:1:1: there is no policy beside these cases")
            continue
        try:
            cases.extend(read_cases(source, beside[source.name], policies, analyze=analyze))
        except PolicyError as error:
            problems.append(str(error))
    if problems:
        raise PolicyError("\n".join(problems))
    return cases


def _named_case(name: str, found: FoundPolicies, policies: PolicySet) -> Case:
    file, _, wanted = name.partition("#")
    cases = (
        [case for case in _cases(found, policies) if Path(case.file).samefile(file)]
        if Path(file).exists()
        else []
    )
    for case in cases:
        if case.name == wanted:
            return case
    known = ", ".join(f'"{case.name}"' for case in cases) or "none beside the given policies"
    raise PolicyError(f'{file}: there is no case "{wanted}"; cases: {known}')


def _request_case(text: str, policies: PolicySet) -> Case:
    """A case without expectations, from JSON (which is YAML too)."""
    try:
        body = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        request = json.loads(body)
    except OSError as error:
        raise PolicyError(f"--request: {text[1:]} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise PolicyError(f"--request is not JSON: {error}") from None
    if not isinstance(request, dict):
        raise PolicyError("--request is a JSON object with request, principal, response, target")
    case = json.dumps({"cases": [{"name": "the request", **request, "expect": {}}]})
    return read_cases(
        PolicySource("--request", case),
        policies.files[0].name if policies.files else "",
        policies,
        analyze=analyze,
    )[0]


def _coverage(policies: PolicySet, results: list[CaseResult]) -> dict[str, int]:
    """How many cases match each rule."""
    covered = {f"{file.name}/{rule}": 0 for file in policies.files for rule in file.rules}
    for result in results:
        for found in result.ruling.matched:
            if not found.errored:
                covered[found.rule] = covered.get(found.rule, 0) + 1
    return covered


def _print_results(results: list[CaseResult], covered: Mapping[str, int]) -> None:
    failed = [result for result in results if result.differences]
    for result in failed:
        case = result.case
        click.echo(f"FAIL {case.file}:{case.mark.line}: {case.name}")
        for difference in result.differences:
            click.echo(f"     {difference}")
    click.echo(f"{_count(len(results), 'case')}, {len(failed)} failed")
    width = max(map(len, covered), default=0)
    for rule, count in sorted(covered.items()):
        click.echo(f"  {rule:<{width}}  {_count(count, 'case') if count else 'not covered'}")


def _result(result: CaseResult) -> dict[str, Any]:
    case = result.case
    return {
        "file": case.file,
        "line": case.mark.line,
        "case": case.name,
        "ok": not result.differences,
        "differences": list(result.differences),
        "matched": sorted(result.matched),
    }


def _print_explanation(case: Case, result: CaseResult, policies: PolicySet, as_json: bool) -> None:
    from extproc.policy.cases import deciding_rules
    from extproc.policy.explain import explain as explain_rules

    found = explain_rules(
        policies.for_target(case.target), case.facts, mask=_masker(), response=case.has_response
    )
    ruling = result.ruling
    decision = type(ruling.decision).__name__.lower()
    deciding = list(deciding_rules(ruling))
    if as_json:
        rules = [
            {
                "rule": part.rule,
                "digest": part.digest,
                "phase": part.phase.name.lower(),
                "effect": part.effect,
                "shadow": part.shadow,
                "when": part.when,
                "truth": part.truth,
                "reason": part.reason,
                "reads": {read.path: read.shown for read in part.reads},
                **({"grant": _grant(part.hold.grant)} if part.hold is not None else {}),
            }
            for part in found
        ]
        facts = {"decision": decision, "rules": deciding, "risk": ruling.risk, "policy": ruling.policy_digest}
        if isinstance(ruling.decision, Hold):
            facts["grant"] = _grant(ruling.decision.demand.grant)
        click.echo(json.dumps({**facts, "explained": rules}))
        return
    click.echo(
        f"{decision} by {', '.join(deciding) or 'the default'}; risk {ruling.risk}; {ruling.policy_digest}"
    )
    if isinstance(ruling.decision, Hold):
        click.echo(f"an approver may grant {_granted(ruling.decision.demand.grant)}")
    for part in found:
        shadow = ", shadow" if part.shadow else ""
        click.echo(f"\n{part.rule} ({part.effect}, {part.phase.name.lower()}{shadow}): {part.truth}")
        if part.reason:
            click.echo(f"    {part.reason}")
        click.echo(f"    when {' '.join(part.when.split())}")
        if part.hold is not None:
            click.echo(f"    by this rule an approver may grant {_granted(part.hold.grant)}")
        for read in part.reads:
            click.echo(f"    {read.path} = {read.shown}")


def _grant(limit: GrantLimit) -> dict[str, Any]:
    return {"for": limit.duration, "uses": limit.uses, "scope": limit.scope}


def _granted(limit: GrantLimit) -> str:
    if limit.is_once:
        return "this one request"
    return f"at most {limit.uses} requests within {format_duration(limit.duration)}, scope {limit.scope}"


def _masker() -> Callable[[str], str]:
    """Every recognizer, replaced by the kind of what it found. The keys are not used by `replace`."""
    from extproc.domain.mask import MaskSpec
    from extproc.masking import ENTITIES, MaskSecrets, compile_masker

    spec = MaskSpec(name="explain", entities=tuple(sorted(ENTITIES)), operator="replace")
    masker = compile_masker([spec], MaskSecrets(b"\0" * 32, b"\0" * 32))
    return lambda text: masker.text(text)[0]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
