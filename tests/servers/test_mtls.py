"""Over TCP only certificates on the allow-list may call: whoever reaches this port could forge everything."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from extproc.config.settings import ServerTls
from extproc.servers.access_log import ACCESS_METHOD
from extproc.servers.envoy_proto import CHECK_METHOD, PROCESS_METHOD
from extproc.servers.lean_health import HEALTH_CHECK_METHOD, HEALTH_WATCH_METHOD
from extproc.servers.network_ext_proc import NETWORK_METHOD
from tests.support.mtls import ENVOY, TRANSPORTS, Mutual, Pair, run, serving
from tests.support.pki import Authority
from tests.support.streams import service

HEARD = (grpc.StatusCode.UNAVAILABLE, "the message does not parse")
REFUSED = (grpc.StatusCode.PERMISSION_DENIED, "this certificate may not call")


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Calling:
    """How calls end whose only message does not parse."""

    def __init__(self, transport: str, loop: str, mutual: Mutual) -> None:
        self.transport, self.loop, self.mutual = transport, loop, mutual

    def __call__(
        self, client: Pair | None, *, method: str = PROCESS_METHOD, tls: ServerTls | None = None
    ) -> tuple[grpc.StatusCode, str]:
        return run(self.loop, self._call(client, method, tls or self.mutual.tls))  # type: ignore[no-any-return]

    async def _call(self, client: Pair | None, method: str, tls: ServerTls) -> tuple[grpc.StatusCode, str]:
        async with serving(self.transport, service(), tls) as (_, port):
            # in a thread: the asyncio client calls it an internal error if a call ends before it has written
            return await asyncio.to_thread(self._ended, f"localhost:{port}", client, method)

    def _ended(self, address: str, client: Pair | None, method: str) -> tuple[grpc.StatusCode, str]:
        with grpc.secure_channel(address, self.mutual.credentials(client)) as channel:
            method_of: Any = channel.stream_stream(method)
            rpc = method_of(iter([b"\xff"]), timeout=30)
            return rpc.code(), rpc.details()


@pytest.fixture
def call(transport: str, loop: str, mutual: Mutual) -> Calling:
    return Calling(transport, loop, mutual)


def test_a_listed_certificate_gets_in(call: Calling, mutual: Mutual) -> None:
    assert call(mutual.envoy) == HEARD


def test_a_name_may_be_one_of_several_and_a_dns_name(call: Calling, mutual: Mutual) -> None:
    client = mutual.authority.issue("dns", hosts=["other", "envoy.internal"], uris=["spiffe://mesh/x"])
    tls = ServerTls(
        certificate=mutual.tls.certificate, key=mutual.tls.key, client_ca=mutual.tls.client_ca,
        client_sans=("somebody", "envoy.internal"),
    )  # fmt: skip
    assert call(client, tls=tls) == HEARD


@pytest.mark.parametrize(
    "method",
    [PROCESS_METHOD, NETWORK_METHOD, CHECK_METHOD, ACCESS_METHOD, HEALTH_CHECK_METHOD, HEALTH_WATCH_METHOD],
)
def test_another_certificate_of_the_same_authority_is_refused(
    call: Calling, mutual: Mutual, method: str
) -> None:
    client = mutual.authority.issue("other", uris=["spiffe://mesh/ns/other/sa/other"])
    assert call(client, method=method) == REFUSED


@pytest.mark.parametrize(
    "names",
    [
        {"hosts": ["envoy"]},
        {},
        {"uris": [ENVOY + "/x"]},
        {"uris": [ENVOY.upper()]},
        {"uris": [ENVOY + "\0"]},
        {"hosts": ["127.0.0.1"]},
    ],
    ids=["another DNS name", "no names", "longer", "in capitals", "with a NUL", "an IP address"],
)
def test_a_certificate_whose_names_are_not_listed_is_refused(
    call: Calling, mutual: Mutual, names: dict[str, list[str]]
) -> None:
    client = mutual.authority.issue("unlisted", **names)  # type: ignore[arg-type]
    tls = ServerTls(
        certificate=mutual.tls.certificate, key=mutual.tls.key, client_ca=mutual.tls.client_ca,
        client_sans=(ENVOY, "127.0.0.1", "unlisted"),
    )  # fmt: skip
    assert call(client, tls=tls) == REFUSED


def test_without_a_certificate_there_is_no_connection(call: Calling) -> None:
    # the handshake fails: grpc reports what it reports when there is no connection at all
    ended = call(None)
    assert ended[0] is grpc.StatusCode.UNAVAILABLE
    assert ended != HEARD


def test_a_certificate_of_another_authority_makes_no_connection(call: Calling, tmp_path: Path) -> None:
    client = Authority(tmp_path, "theirs").issue("envoy", uris=[ENVOY])
    ended = call(client)
    assert ended[0] is grpc.StatusCode.UNAVAILABLE
    assert ended != HEARD


def test_an_authority_below_another_is_enough_by_itself(
    call: Calling, mutual: Mutual, tmp_path: Path
) -> None:
    """And those whom only the one above signed are let in by nobody."""
    above = Authority(tmp_path / "above", "above")
    below = Authority(tmp_path / "below", "below", parent=above)
    tls = ServerTls(
        certificate=mutual.tls.certificate, key=mutual.tls.key, client_ca=below.path, client_sans=(ENVOY,)
    )
    assert call(below.issue("envoy", uris=[ENVOY]), tls=tls) == HEARD
    assert call(above.issue("envoy", uris=[ENVOY]), tls=tls) != HEARD
