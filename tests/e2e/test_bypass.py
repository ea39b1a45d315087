"""The bypass corpus through the governed Envoy: every trick works on the bare API, none behind extproc."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.stack import Stack
from tests.support.bypass import ALLOWED, CORPUS, POLICY, TARGET, BypassCase, LenientApi
from tests.support.raw_http import RawClient, ReplyError
from tests.support.upstream import Upstream

pytestmark = pytest.mark.e2e


@dataclass
class Governed:
    """A stack in front of the lenient API."""

    stack: Stack
    api: LenientApi

    def ask(self, raw: bytes) -> int:
        """The status of one raw request, 0 when the connection ended without one."""
        with RawClient(self.stack.address, timeout=20.0) as client:
            try:
                client.send(raw)
                return client.read(partial=True, head_only=raw.startswith(b"HEAD ")).status
            except (ReplyError, OSError):
                return 0

    def headers(self) -> list[tuple[str, str]]:
        """The caller's token."""
        return [("authorization", f"Bearer {self.stack.token('mallory')}")]


@pytest.fixture(scope="module", params=["ext_proc", "ext_authz"])
def governed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Governed]:
    api = LenientApi()
    with Stack(
        tmp_path_factory.mktemp("bypass"),
        policy=POLICY,
        target_name=TARGET,
        upstream=Upstream(api),
        listener={"mode": request.param},
    ) as stack:
        yield Governed(stack, api)


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case.id)
def test_no_trick_reaches_its_effect(governed: Governed, case: BypassCase):
    governed.api.reset()
    status = governed.ask(case.build(governed.headers()))
    assert governed.api.effects == []
    assert status == 0 or status >= 200


@pytest.mark.parametrize(("name", "build"), ALLOWED, ids=[name for name, _ in ALLOWED])
def test_what_the_policy_allows_still_works(governed: Governed, name, build):
    governed.api.reset()
    assert governed.ask(build(governed.headers())) in (200, 201)
    assert (governed.api.effects, governed.api.handled) == ([], 1)


def test_everything_the_upstream_handled_was_decided_first(governed: Governed):
    """As many allowed intents as requests that arrived, over all cases so far."""
    for _, build in ALLOWED:
        governed.ask(build(governed.headers()))
    seen = governed.stack.upstream.count()
    allowed = [
        record for record in governed.stack.records()
        if record["kind"] == "intent" and record["verdict"] == "allow"
    ]  # fmt: skip
    assert len(allowed) == seen >= len(ALLOWED)
    assert governed.stack.upstream.malformed == []
