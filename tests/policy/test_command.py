"""`extproc policy` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from extproc.commands.policy import policy
from tests.policy.build import HOLD, rule, text

BODY = text(
    rule("reads", 'request.method == "GET"', "{allow: {}, mask: pii}"),
    rule("waits", 'request.method == "POST" && request.json.amount > 10', f"{{risk: 60, hold: {HOLD}}}"),
)
CASES = """cases:
  - name: reads
    request: {method: GET}
    expect: {decision: allow, rule: reads}
  - name: waits
    request: {method: POST, json: {amount: 11, email: ada@example.com}}
    expect: {decision: hold, risk: 60}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "p.yaml", BODY)
    write(tmp_path / "p.cases.yaml", CASES)
    tmp_path.chmod(0o755)
    return tmp_path


def write(path: Path, body: str) -> None:
    path.write_text(body)
    path.chmod(0o644)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(policy, [str(part) for part in arguments])


def test_check_names_files_digest_and_author(folder: Path) -> None:
    done = run("check", folder)
    assert done.exit_code == 0
    assert f"{folder}/p.yaml: p, 2 rules, governs api" in done.output
    assert "good: sha256:" in done.output
    facts = json.loads(run("check", "--json", folder).output)
    assert facts["ok"] is True
    assert facts["author"].startswith("uid:")
    assert facts["files"][0]["rules"] == ["reads", "waits"]


def test_check_fails_with_every_problem_on_stderr(folder: Path) -> None:
    write(folder / "p.yaml", BODY.replace("request.method", "request.metod"))
    done = run("check", folder)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 2
    assert f"{folder}/p.yaml:9:7: " in done.stderr
    found = json.loads(run("check", "--json", folder).stdout)
    assert (found["ok"], len(found["problems"])) == (False, 2)


def test_nothing_to_check_is_wrong_usage() -> None:
    assert run("check").exit_code == 2


@pytest.mark.parametrize("engine", ["cel-expr", "cel-python"])
def test_test_runs_the_cases_and_prints_coverage(folder: Path, engine: str) -> None:
    done = run("test", folder, "--engine", engine, "--require-coverage")
    assert done.exit_code == 0
    assert "2 cases, 0 failed" in done.output
    assert "p/reads  1 case" in done.output


def test_a_failing_case_fails_and_is_reported(folder: Path) -> None:
    write(folder / "p.cases.yaml", CASES.replace("risk: 60", "risk: 6"))
    report = folder / "report.xml"
    done = run("test", folder, "--junit", report)
    assert done.exit_code == 1
    assert f"FAIL {folder}/p.cases.yaml:5: waits" in done.output
    assert "risk: expected 6, got 60" in done.output
    assert 'failures="1"' in report.read_text()
    assert json.loads(run("test", "--json", folder).output)["cases"][1]["differences"] == [
        "risk: expected 6, got 60"
    ]


def test_a_rule_without_a_case_fails_only_when_coverage_is_required(folder: Path) -> None:
    write(folder / "p.cases.yaml", CASES[: CASES.index("  - name: waits")])
    assert run("test", folder).exit_code == 0
    done = run("test", folder, "--require-coverage")
    assert done.exit_code == 1
    assert "p/waits  not covered" in done.output


def test_no_cases_at_all_is_a_failure(folder: Path) -> None:
    (folder / "p.cases.yaml").unlink()
    assert run("test", folder).exit_code == 1


def test_cases_without_a_policy_beside_them_are_a_failure(folder: Path) -> None:
    write(folder / "other.cases.yaml", CASES)
    done = run("test", folder)
    assert done.exit_code == 1
    assert "there is no policy beside these cases" in done.stderr


def test_explain_shows_a_case(folder: Path) -> None:
    done = run("explain", "--policy", folder, "--case", f"{folder}/p.cases.yaml#waits")
    assert done.exit_code == 0, done.output
    assert "hold by p/waits; risk 60" in done.output
    assert "request.json.amount = 11" in done.output
    assert "ada@example.com" not in done.output


def test_explain_says_what_an_approver_may_grant(folder: Path) -> None:
    case = ("explain", "--policy", folder, "--case", f"{folder}/p.cases.yaml#waits")
    assert "an approver may grant this one request\n" in run(*case).output
    wide = BODY.replace("hold: {", "hold: {grant: {max: {for: 30m, uses: 20, scope: shape}}, ")
    assert wide != BODY
    write(folder / "p.yaml", wide)
    assert "an approver may grant at most 20 requests within 30m, scope shape\n" in run(*case).output
    facts = json.loads(run(*case, "--json").output)
    assert facts["grant"] == {"for": 1800.0, "uses": 20, "scope": "shape"}


def test_explain_masks_what_it_shows(folder: Path) -> None:
    write(folder / "p.yaml", BODY.replace("request.json.amount > 10", 'request.json.email != ""'))
    asked = json.dumps({"request": {"method": "POST", "json": {"email": "ada@example.com"}}})
    done = run("explain", "--policy", folder, "--request", asked, "--json")
    found = {part["rule"]: part for part in json.loads(done.output)["explained"]}
    assert found["p/waits"]["truth"] == "true"
    assert "ada@example.com" not in done.output
    assert "EMAIL_ADDRESS" in found["p/waits"]["reads"]["request.json.email"]


def test_explain_reads_a_request_from_a_file(folder: Path) -> None:
    asked = folder / "request.json"
    asked.write_text(json.dumps({"request": {"method": "GET"}}))
    assert "allow by p/reads" in run("explain", "--policy", folder, "--request", f"@{asked}").output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--case", "x#y", "--request", "{}"), 2),
        (("--case", "x#y"), 1),
        (("--request", "{"), 1),
        (("--request", "[]"), 1),
        (("--request", "@/no/such/file"), 1),
    ],
)
def test_explain_says_what_is_wrong(folder: Path, arguments: tuple[str, ...], code: int) -> None:
    done = run("explain", "--policy", folder, *arguments)
    assert done.exit_code == code
    assert done.stderr
    assert not isinstance(done.exception, (OSError, KeyError, ValueError))


def test_targets_come_from_the_configuration(folder: Path) -> None:
    config = folder / "extproc.yml.conf"
    write(
        config,
        "apiVersion: extproc/v1\nkind: Config\n"
        "targets: [{name: other, kind: http, upstream: {address: '127.0.0.1:1', tls: off}}]\n"
        "identity: {providers: [{name: corp, issuer: 'https://issuer.example', audiences: [api], "
        "algorithms: [RS256], keys: {discovery: true}}]}\n"
        f"policies: {{folders: ['{folder}']}}\n",
    )
    done = run("check", "--config", config)
    assert done.exit_code == 1
    assert 'unknown target "api"' in done.stderr
