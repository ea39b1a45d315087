"""What the demo ships: its policies, and a database whose people are those of its API."""

from __future__ import annotations

from extproc.demo.people import CUSTOMERS
from extproc.demo.postgres import binaries
from extproc.demo.scene import shipped_policies
from extproc.demo.tables import billing_schema, schema


def test_the_policies_of_all_targets_are_shipped_and_their_cases_are_not_loaded():
    assert [file.name for file in shipped_policies()] == ["billing.yaml", "customers.yaml", "orders.yaml"]


def test_the_databases_have_the_people_of_the_api():
    for text in (schema("a-password"), billing_schema("a-password")):
        for person in CUSTOMERS:
            assert f"'{person['email']}'" in text
    assert "OWNER TO app" in schema("a-password")  # the role could drop it: policy is what forbids
    assert "GRANT ALL ON shop.* TO app" in billing_schema("a-password")


def test_the_demo_extra_brings_a_server():
    assert binaries() is not None
