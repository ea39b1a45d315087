"""Envoy reaches its processor over TCP with mutual TLS, as `extproc render` writes it, on either transport."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from extproc.demo.processes import free_port, wait_until
from tests.e2e.load import Load
from tests.e2e.stack import API_KEY, Stack
from tests.support.envoy import Envoy
from tests.support.mtls import ENVOY, TRANSPORTS
from tests.support.pki import Authority
from tests.support.raw_http import ask, build_request
from tests.support.replies import json_reply

pytestmark = pytest.mark.e2e


class TlsStack(Stack):
    """A stack whose Envoy proves itself to the worker, and the worker to it."""

    def __init__(self, directory: Path, transport: str) -> None:
        self.authority = Authority(directory / "pki")
        server = self.authority.issue("server", hosts=["processor.internal"])
        self.caller = self.authority.issue("envoy", uris=[ENVOY])
        self.worker = f"127.0.0.1:{free_port()}"
        listening = {
            "listen": self.worker,
            "transport": transport,
            "reflection": True,
            "tls": {
                **pair(server),
                "client_ca": str(self.authority.path),
                "client_sans": [ENVOY],
            },
        }
        calling = {**pair(self.caller), "ca": str(self.authority.path), "server_name": "processor.internal"}
        super().__init__(
            directory,
            settings={"processor": listening, "envoy": {"client_tls": calling}},
            target={"limits": {"request_body": "4MiB", "response_body": "4MiB"}},
        )

    def shown(self) -> str:
        """The serial number of the certificate that the worker shows to who connects."""
        context = ssl.create_default_context(cafile=str(self.authority.path))
        context.load_cert_chain(*self.caller)
        context.set_alpn_protocols(["h2"])
        host, _, port = self.worker.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="processor.internal") as tls,
        ):
            certificate = tls.getpeercert()
            assert certificate is not None
            return str(certificate["serialNumber"])

    def rendered(self) -> str:
        """Envoy's configuration, as text."""
        return str(self.cli("render", "envoy", "--config", str(self.config_path), "--format", "json").stdout)


def pair(files: tuple[Path, Path]) -> dict[str, str]:
    return {"certificate": str(files[0]), "key": str(files[1])}


@pytest.fixture(scope="module", params=TRANSPORTS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsStack]:
    with TlsStack(tmp_path_factory.mktemp("tls"), request.param) as stack:
        yield stack


def test_requests_are_governed_and_no_record_says_insecure(stack: TlsStack):
    stack.upstream.on("GET", "/people", json_reply({"email": "ann@example.com"}))
    reply = stack.request("GET", "/people")
    assert reply.status == 200 and b"ann@example.com" not in reply.body
    assert stack.upstream.last().all("x-api-key") == [API_KEY]
    assert stack.request("GET", "/secrets").status == 403
    assert stack.request("GET", "/people", token=None).status == 401
    assert stack.story("/secrets")["outcome"]["end"] == "refused"
    assert "insecure-listener" not in json.dumps(stack.records())


def test_large_bodies_pass_in_both_directions(stack: TlsStack):
    text = "z" * (3 << 20)
    stack.upstream.on("POST", "/notes", json_reply({"note": text}))
    body = json.dumps({"note": text}).encode()
    token = stack.token(groups=("writers",))
    reply = stack.request(
        "POST", "/notes", token=token, body=body, headers=[("content-type", "application/json")]
    )
    assert (reply.status, reply.json()) == (200, {"note": text})
    assert stack.upstream.last().body == body


def test_many_at_once_are_all_governed(stack: TlsStack):
    stack.upstream.on("GET", "/many", json_reply({"email": "ann@example.com"}))
    replies: list[Any] = []

    def work() -> None:
        replies.extend(stack.request("GET", "/many") for _ in range(25))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.status for reply in replies] == [200] * 200
    assert not any(b"ann@" in reply.body for reply in replies)
    stack.wait_for_records(lambda r: r["kind"] == "outcome" and r.get("end") == "complete", 200)


def test_renewed_files_are_shown_without_a_restart(stack: TlsStack):
    """Whoever renews certificates writes the files, and need not know of us."""
    workers, before = stack.service_pids("worker"), stack.shown()
    assert stack.shown() == before
    load = Load(stack, callers=2, requests=10**5).start()
    stack.authority.issue("server", hosts=["processor.internal"])
    wait_until(lambda: stack.shown() != before, what="the new certificate", within=30.0)
    load.wait_for(load.done + 50)
    load.stop()
    load.finish()
    assert load.failed == set()
    assert set(load.answered.values()) == {200}
    assert stack.service_pids("worker") == workers
    assert '"event": "certificate.renewed"' in (stack.directory / "serve.log").read_text()


def test_health_is_asked_with_envoys_certificate(stack: TlsStack):
    told = json.loads(stack.cli("health", "--config", str(stack.config_path), "--json").stdout)
    assert list(told.values()) == ["serving"]


def test_reflection_answers_where_it_is_switched_on(stack: TlsStack):
    credentials = grpc.ssl_channel_credentials(
        stack.authority.path.read_bytes(), stack.caller[1].read_bytes(), stack.caller[0].read_bytes()
    )
    named = [("grpc.ssl_target_name_override", "processor.internal")]
    with grpc.secure_channel(stack.worker, credentials, named) as channel:
        assert "envoy.service.ext_proc.v3.ExternalProcessor" in list(
            ProtoReflectionDescriptorDatabase(channel).get_services()
        )


@pytest.mark.parametrize("who", ["another name", "another authority", "no certificate"])
def test_an_envoy_that_may_not_call_lets_nothing_through(stack: TlsStack, who: str, tmp_path: Path):
    config: dict[str, Any] = json.loads(stack.rendered())
    other, port = tmp_path / "other", free_port()
    stranger = {
        "another name": lambda: stack.authority.issue("stranger", uris=["spiffe://mesh/other"]),
        "another authority": lambda: Authority(other, "theirs").issue("envoy", uris=[ENVOY]),
        "no certificate": lambda: None,
    }[who]()
    (listener,) = config["static_resources"]["listeners"]
    listener["address"]["socket_address"]["port_value"] = port
    (cluster,) = [c for c in config["static_resources"]["clusters"] if c["name"] == "extproc"]
    tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]
    if stranger is None:
        del tls["tls_certificates"]
    else:
        (shown,) = tls["tls_certificates"]
        shown["certificate_chain"]["filename"], shown["private_key"]["filename"] = map(str, stranger)
    del config["admin"]
    before = stack.upstream.count()
    with Envoy(config, directory=tmp_path) as envoy:
        raw = build_request("GET", "/people", headers=[("authorization", f"Bearer {stack.token()}")])
        for _ in range(3):
            assert ask(f"127.0.0.1:{port}", raw).status >= 500
        assert envoy.stat("cluster.extproc.membership_healthy") == 0
    assert stack.upstream.count() == before


def test_a_worker_that_dies_lets_nothing_through_and_is_found_again(stack: TlsStack):
    stack.kill_service()
    before = stack.upstream.count()
    assert stack.request("GET", "/people").status >= 500
    assert stack.upstream.count() == before
    stack.start_service()
    wait_until(lambda: stack.request("GET", "/people").status == 200, what="the worker is found", within=30.0)
