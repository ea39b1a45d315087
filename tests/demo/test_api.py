"""The demo API is a real API: it answers, echoes, compresses, streams, and wants its key."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from extproc.demo.api import ApiServer, CustomersApi
from extproc.demo.people import CUSTOMERS, is_valid_iban
from extproc.demo.processes import answers_ok, free_port, start, wait_until

KEY = "demo-key-0123456789"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    with ApiServer(CustomersApi(KEY)) as server:
        yield server


@pytest.fixture
def api(server: ApiServer) -> ApiServer:
    server.api.reset()
    return server


@pytest.fixture
def client(api: ApiServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://{api.address}", headers={"x-api-key": KEY}) as client:
        yield client


def payment(**changes: object) -> dict[str, object]:
    return {
        "amount": 40,
        "currency": "eur",
        "to_iban": "DE89370400440532013000",
        "customer_id": 1,
        **changes,
    }


@pytest.mark.parametrize("headers", [{}, {"x-api-key": ""}, {"x-api-key": "wrong"}, {"x-api-key": KEY + "é"}])
def test_without_its_key_it_answers_401_and_does_nothing(api: ApiServer, headers: dict[str, str]):
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    refused = httpx2.delete(f"http://{api.address}/customers/1", headers=raw)
    assert refused.status_code == 401
    assert 1 in api.api.customers
    assert [seen.method for seen in api.api.seen] == ["DELETE"]


def test_customers_carry_valid_test_numbers(client: httpx2.Client):
    rows = client.get("/customers").json()["customers"]
    assert len(rows) == len(CUSTOMERS)
    assert all(is_valid_iban(row["iban"]) for row in rows)
    assert all(luhn(row["card"]) for row in rows)
    assert client.get("/customers/3").json() == rows[2]


def test_a_payment_is_counted_once_and_answered_with_201(client: httpx2.Client):
    first = client.post("/payments", json=payment())
    second = client.post("/payments", json=payment(amount=7.5))
    assert (first.status_code, first.json()["number"], first.json()["currency"]) == (201, 1, "EUR")
    assert second.json()["number"] == 2
    assert client.get("/payments").json()["count"] == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": "40"},
        {"amount": True},
        {"amount": 0},
        {"amount": 1e300},
        {"currency": "euro"},
        {"to_iban": "DE89370400440532013001"},
        {"customer_id": 99},
        {"customer_id": None},
    ],
    ids=str,
)
def test_a_wrong_payment_is_refused_and_its_data_echoed(client: httpx2.Client, changes: dict[str, object]):
    answer = client.post("/payments", json=payment(**changes))
    assert answer.status_code == 422
    assert answer.json()["received"] == json.loads(json.dumps(payment(**changes)))
    assert client.get("/payments").json()["count"] == 0


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe"], ids=lambda body: repr(body[:8])
)
def test_a_body_that_is_no_json_object_is_refused(client: httpx2.Client, body: bytes):
    assert client.post("/payments", content=body).status_code == 400


def test_a_body_over_the_limit_is_refused(client: httpx2.Client):
    assert client.post("/payments", content=b" " * ((1 << 20) + 1)).status_code == 413


@pytest.mark.parametrize("wanted", ["99", "0", "x", "٣", "9" * 40])
def test_an_unknown_customer_is_an_error_that_leaks_addresses(client: httpx2.Client, wanted: str):
    answer = client.get(f"/customers/{wanted}")
    assert answer.status_code == 404
    assert "ada.winter@example.com" in answer.text


def test_a_deleted_customer_is_gone(client: httpx2.Client):
    assert client.delete("/customers/2").json()["deleted"]["id"] == 2
    assert client.get("/customers/2").status_code == 404


def test_gzip_is_used_only_when_accepted(client: httpx2.Client):
    plain = client.get("/customers", headers={"accept-encoding": "identity"})
    with client.stream("GET", "/customers", headers={"accept-encoding": "gzip"}) as packed:
        raw = b"".join(packed.iter_raw())
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(raw) == plain.content


def test_the_export_is_an_event_stream(client: httpx2.Client):
    with client.stream("GET", "/export") as stream:
        text = "".join(stream.iter_text())
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert text.count("event: customer\n") == len(CUSTOMERS)
    assert text.endswith('data: {"rows": 5}\n\n')


def test_slow_and_keys_and_health_answer(api: ApiServer, client: httpx2.Client):
    assert client.get("/slow?seconds=0").json() == {"waited_ms": 0}
    assert client.get("/slow?seconds=soon").status_code == 400
    assert len(client.get("/admin/keys").json()["keys"]) == 2
    assert httpx2.get(f"http://{api.address}/healthz").json() == {"status": "ok"}


def test_what_was_received_is_kept_exactly_and_logged_without_credentials(api: ApiServer):
    httpx2.post(
        f"http://{api.address}/payments?a=%2F&b",
        headers={"x-api-key": KEY, "authorization": "Bearer canary-token"},
        content=b"{}",
    )
    (seen,) = api.api.seen
    assert (seen.method, seen.target, seen.body) == ("POST", "/payments?a=%2F&b", b"{}")
    assert seen.header("x-api-key") == KEY
    line = json.dumps(seen.to_log())
    assert KEY not in line
    assert "canary-token" not in line
    assert '"authorization": "(present)"' in line


def test_it_runs_as_a_process_of_its_own(tmp_path: Path):
    port = free_port()
    process = start(
        "api",
        [sys.executable, "-m", "extproc.demo.api", "--port", str(port), "--seen", tmp_path / "seen.jsonl"],
        log=tmp_path / "api.log",
        environment={"CUSTOMERS_API_KEY": KEY},
    )
    try:
        address = f"127.0.0.1:{port}"
        wait_until(
            lambda: answers_ok(address, "/healthz"), within=15, what="the API answers", process=process
        )
        answer = httpx2.get(f"http://{address}/customers/1", headers={"x-api-key": KEY})
        assert answer.json()["name"] == "Ada Winter"
    finally:
        process.stop()
    assert not process.is_running
    assert json.loads((tmp_path / "seen.jsonl").read_text())["target"] == "/customers/1"
    assert KEY not in (tmp_path / "seen.jsonl").read_text()


def test_it_does_not_start_without_a_key(tmp_path: Path):
    with pytest.raises(ValueError, match="needs a key"):
        CustomersApi("")
    environment = {"CUSTOMERS_API_KEY": ""}
    process = start(
        "api",
        [sys.executable, "-m", "extproc.demo.api", "--port", "1"],
        log=tmp_path / "api.log",
        environment=environment,
    )
    assert process.wait(15) == 2
    assert "set CUSTOMERS_API_KEY" in process.log_tail()
    assert "CUSTOMERS_API_KEY" not in os.environ


def luhn(digits: str) -> bool:
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0
