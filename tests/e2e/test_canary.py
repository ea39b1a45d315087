"""Secrets planted everywhere turn up nowhere: not in the ledger, the hold store, the logs or an error."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from extproc.demo.processes import free_port
from extproc.ledger.canary import canaries_of, seen_in
from tests.e2e.stack import API_KEY, Stack
from tests.support.raw_http import RawReply, ask, build_request
from tests.support.replies import Gate, Reply, json_reply, sse_reply
from tests.support.upstream import SeenRequest

pytestmark = pytest.mark.e2e

JSON = ("content-type", "application/json")


class Canaries:
    """Values that a recognizer must find, each different; `planted` remembers them."""

    def __init__(self) -> None:
        self.planted: list[str] = []

    def mail(self, where: str) -> str:
        """A mail address nobody else has."""
        self.planted.append(f"canary.{where}.zq{len(self.planted)}@birds.example")
        return self.planted[-1]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("canary")) as stack:
        yield stack


def kept_bytes(stack: Stack) -> bytes:
    log = (stack.directory / "serve.log").read_bytes()
    envoy = b"".join(path.read_bytes() for path in stack.directory.glob("envoy*.out"))
    return stack.ledger_bytes() + log + envoy


def test_no_canary_is_kept_and_no_error_repeats_one(stack: Stack):
    made = Canaries()
    errors: list[RawReply] = []

    def answer(seen: SeenRequest) -> Reply:
        value = made.mail("response")
        return json_reply(
            {"a": value, "b": [{value: 1}], "c": f"text {value}"}, headers=[("x-person", value)]
        )

    for method in ("GET", "POST", "HEAD"):
        stack.upstream.on(method, "/notes", answer)
    writer = stack.token("wanda", groups=["writers"])
    bodies = (
        (JSON, f'{{"a":"{made.mail("json")}"}}'.encode()),
        (JSON, made.mail("escaped").replace("@", "\\u0040").join(('{"a":"', '"}')).encode()),
        (JSON, b'{"broken": "' + made.mail("broken").encode()),
        (("content-type", "text/plain"), made.mail("text").encode()),
        (
            ("content-type", "application/x-www-form-urlencoded"),
            f"a={made.mail('form').replace('@', '%40')}".encode(),
        ),
        (("content-type", "application/octet-stream"), b"\x00\xff" + made.mail("binary").encode()),
    )
    for media, body in bodies:
        for path in (f"/notes?q={made.mail('query')}", f"/notes?q={made.mail('quoted').replace('@', '%40')}",
                     f"/{made.mail('path')}", f"/hidden/{made.mail('path')}?{made.mail('name')}=1"):  # fmt: skip
            for token in (writer, None, ""):
                headers = [media, ("x-note", made.mail("header")), ("cookie", f"s={made.mail('cookie')}"),
                           ("x-secret-token", made.mail("token"))]  # fmt: skip
                errors.append(stack.request("POST", path, body=body, headers=headers, token=token))
    packed = gzip.compress(f'{{"a":"{made.mail("gzip")}"}}'.encode())
    errors.append(
        stack.request(
            "POST", "/notes", body=packed, headers=[JSON, ("content-encoding", "gzip")], token=writer
        )
    )
    errors.append(stack.request("GET", f"/notes?x={made.mail('reader')}"))
    errors.append(
        ask(stack.address, build_request("GET", "/x", [("authorization", f"Bearer {made.mail('bearer')}")]))
    )
    errors.append(
        ask(
            stack.address,
            build_request("GET", "/x", [("host", made.mail("host")), ("authorization", "x")], host=None),
        )
    )
    # a hold shows what is asked for, masked
    held = [JSON, ("prefer", "hold=async"), ("x-reason", made.mail("hold-header"))]
    body = f'{{"to":"{made.mail("hold")}","card":"4111 1111 1111 1111"}}'.encode()
    reply = stack.request("POST", f"/payments?who={made.mail('hold-query')}", body=body, headers=held)
    errors.append(reply)
    stack.wait_for_records(lambda r: r["kind"] == "hold.opened")
    # a stream, and one whose client leaves
    gate = Gate()
    stack.upstream.on("GET", "/events", sse_reply(gate))
    gate.release(f"data: {made.mail('event')}\n\n")
    gate.finish()
    stack.request("GET", "/events", token=stack.token("paul", groups=["plain"]))
    kept = kept_bytes(stack)
    assert len(made.planted) > 250
    assert [canary for canary in made.planted if canary.encode() in kept] == []
    assert b"4111 1111 1111 1111" not in kept
    refused = [reply for reply in errors if reply.status >= 400]
    assert len(refused) > 40
    assert [r.body for r in refused if b"canary." in r.body or b"canary." in repr(r.headers).encode()] == []


def canary_run(stack: Stack, *arguments: str, token: str = "") -> tuple[int, dict[str, Any]]:
    """`extproc evidence canary` through Envoy: its status, and what it recorded."""
    log = str(stack.directory / "serve.log")
    given = ("--config", str(stack.config_path), "--also", log, "--wait", "5", *arguments)
    done = stack.cli("evidence", "canary", *given, env={"EXTPROC_TOKEN": token}, check=False)
    return done.returncode, [r for r in stack.records() if r["kind"] == "evidence.canary"][-1]


def test_a_canary_run_says_what_was_planted_where_it_looked_and_that_nothing_was_found(stack: Stack):
    stack.upstream.on("POST", "/notes", lambda seen: json_reply({"echo": seen.body.decode()}))
    writer = stack.token("wanda", groups=["writers"])
    for token, verdict in ((writer, "allow"), ("", "deny")):
        status, told = canary_run(stack, "--url", f"http://{stack.address}/notes", token=token)
        # the rule `writers-write` masks nothing: what the target echoes comes back as it was sent
        answer, *kept = told["looked"]
        assert (status, len(answer["found"])) == ((1, 3) if token else (0, 0))
        assert [(one["where"], one["found"]) for one in kept] == [
            ("records", []),
            ("payloads", []),
            ("serve.log", []),
        ]
        assert all(one["bytes"] for one in kept if one["where"] != "payloads")
        assert (told["verdict"], told["recorded"], len(told["planted"])) == (verdict, True, 9)
        assert seen_in(kept_bytes(stack), canaries_of(told["seed"])) == []


def test_a_canary_run_finds_what_a_target_gives_away_and_what_was_masked_not(stack: Stack, tmp_path: Path):
    known = tmp_path / "known"
    known.write_text("held.by.target@birds.example\n")
    stack.upstream.on("GET", "/held", json_reply({"a": "held.by.target@birds.example"}))
    for group, status, masked in (("readers", 0, 1), ("plain", 1, 0)):
        got, told = canary_run(
            stack, "--url", f"http://{stack.address}/held", "--method", "GET", "--known", str(known),
            token=stack.token("rita", groups=[group]),
        )  # fmt: skip
        assert (got, told["masked"], told["known"]) == (status, masked, 1)
        assert told["looked"][0]["found"] == ([] if masked else ["value 1 in answer"])
        assert "held.by.target" not in str(told)


def test_a_request_that_passes_the_gateway_by_is_no_proof(stack: Stack):
    stack.upstream.on("POST", "/notes", json_reply({}))
    status, told = canary_run(stack, "--url", f"http://{stack.upstream.address}/notes", "--wait", "1")
    assert (status, told["recorded"], told["exchange"]) == (1, False, "")


def test_where_nothing_answers_there_is_no_run(stack: Stack):
    before = sum(r["kind"] == "evidence.canary" for r in stack.records())
    given = ("--config", str(stack.config_path), "--url", f"http://127.0.0.1:{free_port()}/")
    assert stack.cli("evidence", "canary", *given, check=False).returncode == 3
    assert sum(r["kind"] == "evidence.canary" for r in stack.records()) == before


def test_no_token_and_no_credential_is_kept(stack: Stack):
    tokens = [stack.token(sub) for sub in ("alice", "bob")]
    for token in tokens:
        stack.request("GET", "/x", token=token)
        stack.request("GET", f"/x?access_token={token}", token=token)
        stack.request(
            "POST", "/notes", body=token.encode(), headers=[("content-type", "text/plain"), ("x-t", token)]
        )
    kept = kept_bytes(stack)
    for token in tokens:
        assert token.encode() not in kept
        assert token.rpartition(".")[2].encode() not in kept
    assert API_KEY.encode() not in kept


def test_a_callers_own_key_in_the_credentials_header_is_not_kept(stack: Stack):
    """It was meant to be a secret, whoever it belongs to."""
    stack.request("GET", "/own", headers=[("x-api-key", "callers-own-key-81b2")])
    stack.story("/own")
    assert b"callers-own-key-81b2" not in kept_bytes(stack)


def test_what_an_approver_is_shown_holds_no_secret_header(stack: Stack):
    stack.request(
        "POST", "/payments", body=b'{"amount":2}',
        headers=[JSON, ("prefer", "hold=async"), ("x-api-key", "callers-held-key"), ("cookie", "callers-cookie-5d=1")],
    )  # fmt: skip
    stack.wait_for_records(lambda r: r["kind"] == "hold.opened")
    kept = kept_bytes(stack)
    assert b"callers-held-key" not in kept and b"callers-cookie-5d" not in kept


def test_secrets_of_the_state_folder_are_readable_by_nobody_else(stack: Stack):
    state = stack.directory / "state"
    assert state.stat().st_mode & 0o077 == 0
    loose = [str(path) for path in state.rglob("*") if readable_by_others(path)]
    assert loose == []


def readable_by_others(path: Path) -> bool:
    return not path.is_symlink() and path.suffix != ".pub" and bool(path.stat().st_mode & 0o077)
