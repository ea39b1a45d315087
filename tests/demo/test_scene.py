"""What the demo ships: its policies, and a database whose people are those of its API."""

from __future__ import annotations

from extproc.demo.people import CUSTOMERS
from extproc.demo.postgres import binaries
from extproc.demo.scene import schema, shipped_policies


def test_the_policies_of_both_targets_are_shipped_and_their_cases_are_not_loaded():
    assert [file.name for file in shipped_policies()] == ["customers.yaml", "orders.yaml"]


def test_the_database_has_the_people_of_the_api():
    text = schema("a-password")
    for person in CUSTOMERS:
        assert f"'{person['email']}'" in text
    assert "OWNER TO app" in text  # the role could drop it: policy is what forbids


def test_the_demo_extra_brings_a_server():
    assert binaries() is not None
