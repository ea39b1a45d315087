"""`extproc config` tells what is wrong, what is in force, and what there is to set."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result

from extproc.cli import main
from tests.config.test_load import GOOD

CREDENTIAL = "credential: {header: x-api-key, value: {env: EXTPROC_TEST_KEY}}\n    record: {mask"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "extproc.yaml"
    path.write_text(GOOD.replace("record: {mask", CREDENTIAL))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["config", *(str(argument) for argument in arguments)])


def test_a_good_file_is_called_good(file: Path):
    result = run("check", file)
    assert result.exit_code == 0
    assert "good (1 targets, 1 listeners, 1 identity providers)" in result.stdout


def test_mistakes_go_to_stderr_with_exit_code_1(file: Path):
    file.write_text(GOOD.replace("targets:", "target:"))
    result = run("check", file)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f'{file}:5:1: unknown setting "target"; did you mean "targets"?' in result.stderr


def test_mistakes_are_data_when_asked(file: Path):
    file.write_text(GOOD.replace("64KiB", "64KB"))
    result = run("check", file, "--json")
    assert result.exit_code == 1
    (problem,) = json.loads(result.stdout)["problems"]
    assert (problem["place"], problem["line"]) == ("targets[0].limits.request_body", 9)


def test_secrets_are_read_only_when_asked(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("EXTPROC_TEST_KEY", raising=False)
    assert run("check", file).exit_code == 0
    missing = run("check", file, "--secrets")
    assert missing.exit_code == 1
    assert "targets[0].credential.value: {env: EXTPROC_TEST_KEY}: is not set" in missing.stderr
    monkeypatch.setenv("EXTPROC_TEST_KEY", "canary-secret")
    assert run("check", file, "--secrets").exit_code == 0


def test_what_is_in_force_is_shown_with_references_and_never_secrets(
    file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EXTPROC_TEST_KEY", "canary-secret")
    text, data = run("show", file), run("show", file, "--json")
    shown = json.loads(data.stdout)
    assert yaml.safe_load(text.stdout) == shown
    assert shown["targets"][0]["credential"]["value"] == {"env": "EXTPROC_TEST_KEY"}
    assert shown["limits"]["max_message_timeout"] == "15m"
    assert "canary-secret" not in text.stdout + data.stdout


def test_the_schema_accepts_what_we_accept_and_refuses_what_we_refuse(file: Path):
    schema = json.loads(run("schema").stdout)
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    document = yaml.safe_load(file.read_text().replace("tls: off", 'tls: "off"'))
    assert list(validator.iter_errors(document)) == []
    assert list(validator.iter_errors(json.loads(run("show", file, "--json").stdout))) == []
    for broken in (
        document | {"polices": {}},
        document | {"limits": {"token_bytes": "16KB"}},
        document | {"limits": {"max_message_timeout": 30}},
        document | {"masking": {"hash_salt": {"env": "A", "file": "b"}}},
        document | {"kind": "Policy"},
    ):
        assert list(validator.iter_errors(broken)), broken


def test_the_documentation_lists_every_setting_as_it_is():
    table = run("schema", "--format", "markdown").stdout
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert table.strip() in page.read_text(), "run: make docs"
