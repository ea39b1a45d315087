"""`extproc policy reload` and `extproc config reload` against a real approvals API on a unix socket."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from click.testing import CliRunner, Result

from extproc.cli import main
from extproc.domain.errors import ConfigError, ExtprocError, PolicyError
from extproc.domain.principal import Principal
from tests.commands.conftest import Service

OK = {"policy": "sha256:new", "before": "sha256:old"}
ROLLING = {"configuration": "sha256:set", "changed": ["targets.api", "limits.open_waits"]}


class Answers:
    """What the supervisor would say."""

    def __init__(self) -> None:
        self.policy: Mapping[str, Any] | ExtprocError = OK
        self.settings: Mapping[str, Any] | ExtprocError = ROLLING

    async def reload(self, _: Principal) -> Mapping[str, Any]:
        return self._given(self.policy)

    async def roll(self, _: Principal) -> Mapping[str, Any]:
        return self._given(self.settings)

    def _given(self, answer: Mapping[str, Any] | ExtprocError) -> Mapping[str, Any]:
        if isinstance(answer, ExtprocError):
            raise answer
        return answer


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def api(answers: Answers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("api"), reload=answers.reload, roll=answers.roll)
    yield service
    service.stop()


def call(api: Service, what: str, *words: str, token: str = "operator", reason: str = "CHG-1") -> Result:
    environment = {"EXTPROC_TOKEN": token, "EXTPROC_API": f"unix:{api.socket}"}
    return CliRunner().invoke(main, [what, "reload", "--reason", reason, *words], env=environment)


def test_policies_are_loaded_and_the_reason_is_recorded(api: Service, answers: Answers):
    done = call(api, "policy")
    assert (done.exit_code, done.stdout) == (0, "sha256:new is in force\n")
    (record,) = api.desk.records
    assert (record.kind, record.fields["reason"]) == ("admin.policy_reload", "CHG-1")
    answers.policy = {"policy": "sha256:old", "before": "sha256:old"}
    assert call(api, "policy").stdout == "sha256:old is in force, as before\n"
    assert json.loads(call(api, "policy", "--json").stdout) == {"status": "ok", **answers.policy}


def test_a_roll_that_begins_says_what_changes(api: Service):
    done = call(api, "config")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["Rolling to sha256:set", "  targets.api", "  limits.open_waits"]
    (record,) = api.desk.records
    assert (record.kind, record.fields["reason"]) == ("admin.settings_reload", "CHG-1")
    assert json.loads(call(api, "config", "--json").stdout) == {"status": "rolling", **ROLLING}


@pytest.mark.parametrize("what", ["policy", "config"])
def test_what_is_refused_says_why_and_ends_with_1(what: str, api: Service, answers: Answers):
    answers.policy = PolicyError("p.yaml:3: no such target")
    answers.settings = ConfigError("processor.workers: needs a restart")
    refused = call(api, what)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert ("no such target" if what == "policy" else "needs a restart") in refused.stderr
    other = call(api, what, token="anna")
    assert other.exit_code == 1 and "not_operator" in other.stderr


@pytest.mark.parametrize("what", ["policy", "config"])
def test_without_a_reason_a_token_or_an_api_nothing_is_asked(what: str, api: Service):
    environment = {"EXTPROC_TOKEN": "operator", "EXTPROC_API": f"unix:{api.socket}"}
    assert CliRunner().invoke(main, [what, "reload"], env=environment).exit_code == 2
    assert call(api, what, reason="").exit_code == 1
    assert (
        CliRunner().invoke(main, [what, "reload", "--reason", "x"], env={"EXTPROC_TOKEN": ""}).exit_code == 2
    )
    assert call(api, what, "--api", f"unix:{api.socket}.gone").exit_code == 3
    assert not [record for record in api.desk.records if record.kind.endswith("_reload")]
