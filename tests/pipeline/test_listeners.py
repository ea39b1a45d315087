"""Whom a certificate makes a caller, and which listener is believed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from extproc.domain.request import Source
from extproc.pipeline.governance import Governance
from extproc.pipeline.listeners import Caller, ListenerPlan

PLAN = ListenerPlan(
    "pg",
    "db",
    callers=(Caller("spiffe://a/etl", groups=("etl",)), Caller("spiffe://a/batch/*", "machine")),
)


def test_a_listed_name_is_a_principal_of_its_own_issuer() -> None:
    caller = PLAN.caller(("spiffe://a/etl",))
    assert caller is not None
    assert (caller.issuer, caller.subject, caller.groups) == ("x509", "spiffe://a/etl", ("etl",))
    assert caller.person == "x509|spiffe://a/etl"
    below = PLAN.caller(("spiffe://a/batch/x/y",))
    assert below is not None and below.kind == "machine" and below.subject == "spiffe://a/batch/x/y"


@pytest.mark.parametrize(
    "uris",
    [
        (), ("",), ("spiffe://a/etl/",), ("SPIFFE://A/ETL",), ("spiffe://a/batch",), ("spiffe://a/batch/",),
        ("spiffe://a/batch/*/../etl",), ("spiffe://a/batch/./x",), ("spiffe://a/batch//x",), ("spiffe://a/batchx/y",),
        ("spiffe://a/etl", "spiffe://a/batch/x"), ("spiffe://a/etl", "spiffe://a/etl"),
    ],
)  # fmt: skip
def test_any_other_name_is_nobody(uris: tuple[str, ...]) -> None:
    assert PLAN.caller(uris) is None


def test_by_default_no_certificate_is_anybody() -> None:
    assert ListenerPlan("pg", "db").caller(("spiffe://a/etl",)) is None


def test_where_tls_ends_here_envoys_word_about_certificates_counts_for_nothing() -> None:
    claimed = Source("10.0.0.1:5", True, "spiffe://a/etl")
    here = replace(PLAN, tls=cast(Any, object()))
    assert here.verified(claimed, False, ()) == Source("10.0.0.1:5")
    assert here.verified(claimed, True, ("spiffe://b",)) == Source("10.0.0.1:5", True, "spiffe://b")
    assert PLAN.verified(claimed, False, ()) is claimed


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1:5", True), ("127.8.0.1:5", True), ("[::1]:5", True), ("10.0.0.1:5", False), ("", False),
     ("localhost:5", False), ("@/run/x", False)],
)  # fmt: skip
def test_a_listener_that_nobody_described_takes_tokens_from_this_machine_alone(
    address: str, local: bool
) -> None:
    assert ListenerPlan(target="db").needs_tls(Source(address)) is not local
    assert not ListenerPlan(target="db", takes_cleartext=True).needs_tls(Source(address))


def test_a_connection_comes_by_a_listener_of_its_target_or_by_none() -> None:
    described = Governance({}, cast(Any, None), "", b"", b"", listeners={"pg": PLAN})
    assert described.listener("pg", "db") is PLAN
    assert described.listener("pg", "other") is None
    assert described.listener("nobody", "db") is None
    assert described.listener("", "db") is None
    assert described.listener("", "other") == ListenerPlan(target="other")
