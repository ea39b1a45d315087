"""Every case of the bypass corpus works on the ungoverned API; ordinary requests have no forbidden effect."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bypass import ALLOWED, CORPUS, HOST, POLICY, BypassCase, Effect
from tests.support.envoy import Envoy, envoy_is_here, forwarding_config
from tests.support.lenient_api import LenientApi
from tests.support.raw_http import RawClient, ask, build_request
from tests.support.upstream import Upstream


@pytest.fixture(scope="module")
def api() -> LenientApi:
    return LenientApi()


@pytest.fixture(scope="module")
def upstream(api: LenientApi) -> Iterator[Upstream]:
    with Upstream(api) as upstream:
        yield upstream


def send(upstream: Upstream, api: LenientApi, request: bytes) -> int:
    api.reset()
    with RawClient(upstream.address) as client:
        return client.ask(request, head_only=request.startswith(b"HEAD")).status


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.id)
def test_every_case_reaches_its_effect_on_the_ungoverned_api(
    upstream: Upstream, api: LenientApi, case: BypassCase
):
    status = send(upstream, api, case.build([("Authorization", "Bearer x")]))
    assert status in (200, 201)
    assert api.effects == [case.effect]
    assert upstream.last().header("authorization") == "Bearer x"


@pytest.mark.parametrize(
    ("name", "build"), ALLOWED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_the_policy_allows_has_no_forbidden_effect(
    upstream: Upstream, api: LenientApi, name: str, build
):
    assert send(upstream, api, build()) in (200, 201)
    assert (api.effects, api.handled) == ([], 1)


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/", b""),
        ("GET", "/customers/1", b""),
        ("GET", "/admin", b""),
        ("GET", "/public/keys", b""),
        ("GET", "/public/admin/keys", b""),
        ("POST", "/payments", b""),
        ("POST", "/payments", b'{"note": "amount", "total": 5000}'),
        ("POST", "/payments", b'{"amount": 999.999}'),
        ("POST", "/payments", b'{"deep": {"amount": 5000}}'),
        ("POST", "/payments", b'{"amount": -5000}'),
        ("POST", "/payments", b"\x00\x01\xff" * 40),
        ("POST", "/payments", b"[" * 5000),
        ("POST", "/payments", b'{"a":' * 5000),
        ("DELETE", "/payments", b'{"amount": 5000}'),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[:24]),
)
def test_the_api_is_lenient_but_not_mad(
    upstream: Upstream, api: LenientApi, method: str, target: str, body: bytes
):
    send(upstream, api, build_request(method, target, [("Content-Type", "application/json")], body))
    assert (api.effects, api.handled) == ([], 1)


def test_the_corpus_is_large_and_its_ids_differ():
    assert len(CORPUS) >= 70
    assert len({case.id for case in CORPUS}) == len(CORPUS)
    assert {case.effect for case in CORPUS} == set(Effect)
    assert len(Counter(case.family for case in CORPUS)) >= 12


def test_a_naive_gateway_lets_a_good_part_of_the_corpus_through():
    """The corpus has teeth: half a hundred cases pass a gateway that reads as most programs do."""
    passed = [case for case in CORPUS if naive_gateway_allows(case.build())]
    assert len(passed) >= 50
    assert {case.family for case in passed} >= {"method-header", "url-header", "path", "json-key", "type"}


@pytest.mark.skipif(not envoy_is_here(), reason="no Envoy binary")
def test_envoy_alone_stops_few_of_them(upstream: Upstream, api: LenientApi, tmp_path: Path):
    """Normalising paths and merging slashes is no policy: most cases reach their effect through a bare Envoy."""
    reached = 0
    config = forwarding_config(upstream.address, hcm={"normalize_path": True, "merge_slashes": True})
    with Envoy(config, directory=tmp_path) as envoy:
        address = envoy.address("http")
        for case in CORPUS:
            api.reset()
            raw = case.build()
            ask(address, raw, head_only=raw.startswith(b"HEAD"))
            reached += case.effect in api.effects
    assert reached >= 150


def test_the_naive_gateway_allows_what_the_policy_allows():
    refused = [name for name, build in ALLOWED if "gzip" not in name and not naive_gateway_allows(build())]
    assert refused == []


def test_the_policy_names_the_host_the_requests_use():
    assert f'request.host != "{HOST}"' in POLICY
    assert "amount < 1000" in POLICY


def naive_gateway_allows(request: bytes) -> bool:
    """The policy as an ordinary gateway would apply it: first request line, last JSON key, no second look."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    host = next((field[5:].strip() for field in fields if field.lower().startswith("host:")), "")
    path, _, query = target.partition("?")
    if host != HOST:
        return False
    if method == "GET":
        return path == "/customers" or path.startswith("/public/")
    if (method, path, query) != ("POST", "/payments", ""):
        return False
    try:
        return float(json.loads(body)["amount"]) < 1000
    except (ValueError, TypeError, KeyError):
        return False
