"""`extproc holds approve --uses` and `extproc grants` against a real approvals API on a unix socket."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from extproc.commands.grants import grants
from extproc.commands.holds import holds
from extproc.domain.hold import HeldRequest, HoldState
from extproc.domain.terms import GrantLimit
from tests.commands.conftest import Service
from tests.support.holds import NOW, ask, demand, shaped

GIVE = ("--reason", "batch", "--uses", "3", "--for", "10m", "--scope", "shape")


@pytest.fixture
def held(service: Service) -> HeldRequest:
    wanted = ask(wants=demand(grant=GrantLimit(1800.0, 20, "shape")), shape=shaped(v1="one", v2="two"))
    return service.run(service.store.open(wanted, NOW))


def call(group: click.Group, where: Service, token: str, *words: str) -> Result:
    environment = {"EXTPROC_TOKEN": token, "EXTPROC_API": f"unix:{where.socket}"}
    return CliRunner().invoke(group, words, env=environment)


def only_grant(where: Service) -> dict[str, Any]:
    (grant,) = json.loads(call(grants, where, "anna", "list", "--state", "all", "--json").stdout)["grants"]
    return dict(grant)


def test_show_says_what_may_be_granted_and_which_values_do_not_count(service: Service, held: HeldRequest):
    text = call(holds, service, "anna", "show", held.id).stdout
    assert "may grant  at most 20 uses, this one included, within 30m" in text
    assert "shape    the same statement, any values" in text
    assert "can be pinned: $1, $2" in text
    once = service.run(service.store.open(ask("b2"), NOW))
    assert "may grant  this request, once" in call(holds, service, "anna", "show", once.id).stdout


def test_a_grant_is_given_listed_shown_and_revoked(service: Service, held: HeldRequest):
    given = call(holds, service, "anna", "approve", held.id, *GIVE)
    assert given.exit_code == 0, given.output
    assert given.stdout.splitlines() == [
        f"Hold {held.id} is approved",
        "  for 3 uses within 10m: the same statement, any values (shape)",
    ]
    grant_id = only_grant(service)["id"]
    cells = call(grants, service, "agent", "list", "--mine").stdout.rstrip().split("\t")
    assert cells[:2] == [grant_id, "live"]
    assert cells[4:6] == ["1 of 3", "the same statement, any values"]
    page = call(grants, service, "anna", "show", grant_id).stdout
    assert page.startswith(f"Grant {grant_id} is live\n")
    assert "used       1 of 3; the held request has not run" in page
    ended = call(grants, service, "agent", "revoke", grant_id, "--reason", "done")
    assert (ended.exit_code, ended.stdout) == (0, f"Grant {grant_id} is revoked\n")
    assert call(grants, service, "anna", "list").stdout == ""
    assert "closed     done" in call(grants, service, "anna", "show", grant_id).stdout
    assert service.state_of(held) is HoldState.REVOKED


def test_pins_are_given_by_name(service: Service, held: HeldRequest):
    given = call(holds, service, "anna", "approve", held.id, *GIVE[:-1], "pinned", "--pin", "$2")
    assert "any values but as here: $2 (pinned)" in given.stdout
    assert "for 3 uses within 10m" in call(holds, service, "anna", "show", held.id).stdout


@pytest.mark.parametrize(
    "words",
    [
        ("--for", "10m"), ("--scope", "shape"), ("--pin", "$1"), ("--uses", "3"), ("--uses", "1", "--for", "10m"),
        ("--uses", "3", "--for", "soon"), ("--uses", "3", "--for", "10ms"),
        ("--uses", "3", "--for", "1m", "--pin", "$1"),        ("--uses", "3", "--for", "1m", "--scope", "all"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_does_not_go_together_is_wrong_usage(
    service: Service, held: HeldRequest, words: tuple[str, ...]
):
    assert call(holds, service, "anna", "approve", held.id, "--reason", "x", *words).exit_code == 2
    assert service.state_of(held) is HoldState.PENDING


def test_more_than_the_rule_allows_is_refused(service: Service, held: HeldRequest):
    words = ("--reason", "x", "--for", "10m", "--uses", "21")
    refused = call(holds, service, "anna", "approve", held.id, *words)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "the rule allows 20 uses at most (too_wide)" in refused.stderr
    assert call(grants, service, "anna", "show", "g-none").exit_code == 1
