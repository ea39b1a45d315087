"""Who may speak to the processor, and whose word about identity counts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from extproc.demo.processes import wait_until
from extproc.servers.envoy_proto import CHECK_METHOD, PROCESS_METHOD
from extproc.servers.wire import ext_authz_pb2 as az
from extproc.servers.wire import ext_proc_pb2 as pb
from tests.e2e.stack import API_KEY, Stack
from tests.support.streams import request_headers
from tests.support.tokens import BAD_TOKENS

pytestmark = pytest.mark.e2e

NOBODY = 65534
NAMED = 12345
JWT = "envoy.filters.http.jwt_authn"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another user")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users may look into, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="xp-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def as_user(user: int, socket: Path) -> str:
    """What this user gets who sends an HTTP/2 preface to the socket."""
    code = f"""
import os, socket
os.setgid({user}); os.setgroups([]); os.setuid({user})
peer = socket.socket(socket.AF_UNIX); peer.settimeout(10)
try:
    peer.connect({str(socket)!r})
    peer.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes(3) + b"\\x04" + bytes(5))
    print("answered" if peer.recv(100) else "closed")
except OSError as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_root
def test_another_user_cannot_connect_to_the_processor(place: Path):
    with Stack(place) as stack:
        assert stack.request("GET", "/x").status == 200
        assert (place / "p.sock").stat().st_mode & 0o777 == 0o600
        assert as_user(NOBODY, place / "p.sock") == "PermissionError"
        assert as_user(NOBODY, place / "a.sock") == "PermissionError"


@needs_root
@pytest.mark.parametrize("transport", ["lean", "grpcio"])
def test_only_the_users_that_are_named_may_connect(place: Path, transport: str):
    processor = {"listen": f"unix:{place}/p.sock", "peers": {"uids": [NAMED]}, "transport": transport}
    with Stack(place, settings={"processor": processor}) as stack:
        assert stack.request("GET", "/x").status == 200  # our own user always may
        assert as_user(NAMED, place / "p.sock") == "answered"
        assert '"peer.refused"' not in (place / "serve.log").read_text()
        assert as_user(NOBODY, place / "p.sock") in ("closed", "ConnectionResetError", "BrokenPipeError")
        if transport == "grpcio":  # behind its gate
            (inner,) = (path for path in place.glob(".????") if path.is_socket())
            for user in (NAMED, NOBODY):
                assert as_user(user, inner) == "PermissionError"
        wait_until(
            lambda: '"peer.refused"' in (place / "serve.log").read_text(),
            what="the refusal in the log",
            within=10.0,
        )


# ---------------------------------------------------------------------- the gRPC port itself


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("port")) as stack:
        yield stack


def process(stack: Stack, message: bytes, *targets: str) -> pb.ProcessingResponse:
    """One message on a Process call of our own, as Envoy's user."""
    with grpc.insecure_channel(f"unix:{stack.directory}/p.sock") as channel:
        call: Any = channel.stream_stream(PROCESS_METHOD)
        replies = call(
            iter([message]), metadata=tuple(("x-extproc-target", target) for target in targets), timeout=20.0
        )
        return pb.ProcessingResponse.FromString(next(replies))


def code_of(reply: pb.ProcessingResponse) -> str:
    return str(json.loads(reply.immediate_response.body)["code"])


@pytest.mark.parametrize(
    "targets",
    [(), ("customers-api", "customers-api"), ("customers-api", "other"), ("other",), ("Customers-API",)],
)
def test_no_target_or_two_is_refused(stack: Stack, targets: tuple[str, ...]):
    message = request_headers(path="/customers", who=f"Bearer {stack.token()}")
    reply = process(stack, message, *targets)
    assert (reply.immediate_response.status.code, code_of(reply)) == (403, "no-target")


def test_one_target_and_a_good_token_is_answered(stack: Stack):
    """The counterpart: the calls above are refused for their target alone."""
    message = request_headers(path="/customers", who=f"Bearer {stack.token()}")
    assert process(stack, message, "customers-api").WhichOneof("response") == "request_headers"


def forged(message: bytes, subject: str, stack: Stack, **claims: Any) -> bytes:
    """The message with a token payload in Envoy's metadata, as its jwt_authn filter would put it there."""
    request = pb.ProcessingRequest.FromString(message)
    payload = {**stack.issuer.claims(subject, groups=["readers"]), **claims}
    request.metadata_context.filter_metadata[JWT].update({"jwt": payload})
    return request.SerializeToString()


def test_metadata_that_nobody_was_told_to_trust_means_nothing(stack: Stack):
    reply = process(stack, forged(request_headers(who=""), "root", stack), "customers-api")
    assert (reply.immediate_response.status.code, code_of(reply)) == (401, "token-missing")


def test_a_check_without_a_target_is_denied(stack: Stack):
    request = az.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host, http.scheme = b"GET", b"/customers", b"api", b"http"
    token = f"Bearer {stack.token()}".encode()
    http.header_map.headers.append(pb.HeaderValue(key=b"authorization", raw_value=token))
    with grpc.insecure_channel(f"unix:{stack.directory}/p.sock") as channel:
        call: Any = channel.unary_unary(CHECK_METHOD)
        answer = az.CheckResponse.FromString(call(request.SerializeToString(), timeout=20.0))
    assert (answer.status.code, answer.denied_response.status.code) == (7, 403)
    assert API_KEY.encode() not in answer.SerializeToString()


# ---------------------------------------------------------------------- Envoy's verified token


class WithJwt:
    """Adds Envoy's jwt_authn in front of our filter, with the issuer's keys inline."""

    def __init__(self) -> None:
        self.stack: Stack | None = None

    def __call__(self, config: dict[str, Any]) -> None:
        assert self.stack is not None
        issuer = self.stack.issuer
        provider = {
            "issuer": issuer.issuer,
            "audiences": [issuer.audience],
            "local_jwks": {"inline_string": issuer.jwks_bytes().decode()},
            "payload_in_metadata": "jwt",
            "forward": True,
        }
        jwt = {
            "name": JWT,
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                "providers": {"corp": provider},
                "rules": [
                    {
                        "match": {"prefix": "/"},
                        "requires": {"requires_any": {"requirements": [
                            {"provider_name": "corp"}, {"allow_missing": {}},
                        ]}},
                    }
                ],
            },
        }  # fmt: skip
        for listener in config["static_resources"]["listeners"]:
            listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"].insert(0, jwt)


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    change = WithJwt()
    made = Stack(tmp_path_factory.mktemp("metadata"), change_envoy=change)
    change.stack = made
    trusted = {"namespace": JWT, "key": "jwt", "issuer": made.issuer.issuer, "audiences": ["customers-api"]}
    made._settings["identity"] = {"trust": {"metadata": trusted}}
    with made as stack:
        yield stack


def test_what_envoy_verified_names_the_principal(trusting: Stack):
    assert trusting.request("GET", "/meta", token=trusting.token("bob")).status == 200
    assert trusting.story("/meta")["intent"]["principal"]["subject"] == "bob"
    assert trusting.upstream.last().header("authorization") is None


def test_a_request_that_envoy_did_not_verify_is_401(trusting: Stack):
    before = trusting.upstream.count()
    assert trusting.request("GET", "/x", token=None).status == 401
    for name in ("alg-none", "expired", "wrong-audience", "payload-swapped", "signature-of-another-token"):
        # Envoy itself answers 403 where the audience is wrong
        assert trusting.request("GET", "/x", token=BAD_TOKENS[name](trusting.issuer)).status in (401, 403)
    assert trusting.upstream.count() == before


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://attacker.test"}, {"aud": "another"}, {"exp": 1_000_000_000}, {"exp": None},
        {"sub": None}, {"sub": ""},
    ],
    ids=lambda claims: "-".join(claims),
)  # fmt: skip
def test_forged_metadata_is_checked_again(trusting: Stack, claims: dict[str, Any]):
    """Whoever reaches the port can write any metadata; what is plainly wrong is refused all the same."""
    reply = process(trusting, forged(request_headers(who=""), "root", trusting, **claims), "customers-api")
    assert reply.immediate_response.status.code == 401


def test_a_bearer_that_names_another_subject_than_the_metadata_is_refused(trusting: Stack):
    message = request_headers(who=f"Bearer {trusting.token('alice')}")
    reply = process(trusting, forged(message, "root", trusting), "customers-api")
    assert reply.immediate_response.status.code == 401
    same = process(trusting, forged(message, "alice", trusting), "customers-api")
    assert same.WhichOneof("response") == "request_headers"
