"""What callers may see: bodies and headers rewritten in flight, everything else left as it is."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator

import pytest

from tests.e2e.stack import Stack
from tests.support.raw_http import ask, build_request, chunked
from tests.support.replies import (
    Reply,
    chunked_reply,
    coded_reply,
    encode,
    huge_reply,
    json_reply,
    text_reply,
)

pytestmark = pytest.mark.e2e

PERSON = {"name": "Ann", "email": "ann@example.com", "card": "4111 1111 1111 1111", "n": 1.50}
BODY = b'{"b":1.50,"a":"ann@example.com","a":"x","t":"4111111111111111","u":"\\u0061"}'
MASKED = b'{"b":1.50,"a":"[EMAIL_ADDRESS]","a":"x","t":"[CREDIT_CARD]","u":"\\u0061"}'


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(
        tmp_path_factory.mktemp("masking"),
        target={"limits": {"request_body": "64KiB", "response_body": "256KiB"}},
        settings={"envoy": {"buffer_bytes": "4MiB"}},
    ) as stack:
        yield stack


def plain(stack: Stack) -> str:
    return stack.token("paul", groups=["plain"])


def reply_of(
    body: bytes, *more: tuple[str, str], media: str = "application/json", status: int = 200
) -> Reply:
    return Reply(status, (("content-type", media), *more), body)


# ---------------------------------------------------------------------- masked


def test_a_masked_body_keeps_its_spelling_and_says_its_length(stack: Stack):
    stack.upstream.on("GET", "/m/plain", reply_of(BODY, ("etag", '"1"')))
    reply = stack.request("GET", "/m/plain")
    assert (reply.status, reply.body) == (200, MASKED)
    assert reply.all("content-length") == [str(len(MASKED))]
    assert reply.header("etag") is None
    response = stack.story("/m/plain")["outcome"]["response"]
    assert response["masked"] == {"CREDIT_CARD": 1, "EMAIL_ADDRESS": 1}
    assert (response["inspected"], response["residual"]) == ("full", {})
    assert response["mask_digest"] and response["size"] == len(BODY)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw-deflate"])
def test_a_coded_body_is_masked_and_sent_plain(stack: Stack, coding):
    path = f"/m/{coding}"
    stack.upstream.on("GET", path, coded_reply(BODY, coding))
    reply = stack.request("GET", path, headers=[("accept-encoding", "gzip, deflate, br")])
    assert (reply.status, reply.body) == (200, MASKED)
    assert reply.header("content-encoding") is None
    assert reply.all("content-length") == [str(len(MASKED))]
    assert stack.upstream.last().header("accept-encoding") == "gzip, deflate"


@pytest.mark.parametrize("cut", [1, 7, 29, len(BODY)])
def test_a_chunked_body_is_masked_wherever_it_is_cut(stack: Stack, cut):
    path = f"/m/chunked/{cut}"
    pieces = [BODY[at : at + cut] for at in range(0, len(BODY), cut)]
    stack.upstream.on("GET", path, chunked_reply(pieces))
    reply = stack.request("GET", path)
    assert (reply.status, reply.body, reply.whole) == (200, MASKED, True)


def test_a_body_that_ends_with_its_connection_is_masked(stack: Stack):
    stack.upstream.on("GET", "/m/close", Reply(200, (("content-type", "application/json"),), BODY, "close"))
    assert stack.request("GET", "/m/close").body == MASKED


def test_an_escaped_value_is_found(stack: Stack):
    stack.upstream.on("GET", "/m/escaped", reply_of(b'{"e":"ann\\u0040example.com","k\\u0065y":"\\/"}'))
    assert stack.request("GET", "/m/escaped").body == b'{"e":"[EMAIL_ADDRESS]","k\\u0065y":"\\/"}'


def test_headers_are_masked_and_cookies_kept(stack: Stack):
    stack.upstream.on(
        "GET", "/m/headers",
        json_reply({}, headers=[
            ("x-owner", "ann@example.com"), ("set-cookie", "a=1; Path=/"), ("set-cookie", "b=2; HttpOnly"),
            ("x-two", "one@example.com"), ("x-two", "plain"),
        ]),
    )  # fmt: skip
    reply = stack.request("GET", "/m/headers")
    assert reply.all("set-cookie") == ["a=1; Path=/", "b=2; HttpOnly"]
    assert reply.all("x-owner") == ["[EMAIL_ADDRESS]"]
    assert reply.all("x-two") == ["[EMAIL_ADDRESS]", "plain"]
    assert stack.story("/m/headers")["outcome"]["response"]["masked"] == {"EMAIL_ADDRESS": 2}


def test_an_error_body_of_the_upstream_is_masked_too(stack: Stack):
    stack.upstream.on("GET", "/m/error", json_reply({"error": "no ann@example.com"}, status=500))
    reply = stack.request("GET", "/m/error")
    assert (reply.status, reply.json()) == (500, {"error": "no [EMAIL_ADDRESS]"})
    assert stack.story("/m/error")["outcome"]["response"]["code"] == 500


def test_text_is_masked(stack: Stack):
    stack.upstream.on("GET", "/m/text", text_reply("write to ann@example.com ✓"))
    assert stack.request("GET", "/m/text").body == "write to [EMAIL_ADDRESS] ✓".encode()


# ---------------------------------------------------------------------- untouched


@pytest.mark.parametrize(
    "body", [b'{"a": 1.0,\r\n "a":\t"\\u0061"}', b"", b"[]", b'{"big":123456789012345678901234567890}'],
    ids=["odd", "empty", "array", "big-number"],
)  # fmt: skip
@pytest.mark.parametrize("who", ["readers", "plain"])
def test_what_needs_no_mask_comes_back_byte_for_byte(stack: Stack, who, body):
    stack.upstream.on("GET", "/u/plain", reply_of(body, ("etag", '"1"')))
    reply = stack.request("GET", "/u/plain", token=stack.token(groups=[who]))
    assert (reply.status, reply.body, reply.header("etag")) == (200, body, '"1"')


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("who", ["readers", "plain"])
def test_an_untouched_coded_body_is_the_very_bytes(stack: Stack, who, coding):
    path = f"/u/{coding}/{who}"
    stack.upstream.on("GET", path, coded_reply(b'{"nothing":"here"}', coding))
    reply = stack.request("GET", path, token=stack.token(groups=[who]))
    assert reply.body == encode(b'{"nothing":"here"}', coding)
    assert reply.header("content-encoding") == coding


def test_an_image_without_a_mask_passes(stack: Stack):
    picture = bytes(range(256)) * 8
    stack.upstream.on("GET", "/u/picture", reply_of(picture, media="image/png"))
    assert stack.request("GET", "/u/picture", token=plain(stack)).body == picture


@pytest.mark.parametrize("who", ["readers", "plain"])
@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_a_body_passes(stack: Stack, status, who):
    path = f"/u/{status}/{who}"
    stack.upstream.on("GET", path, Reply(status, (("etag", '"7"'),)))
    reply = stack.request("GET", path, token=stack.token(groups=[who]))
    assert (reply.status, reply.header("etag"), reply.body) == (status, '"7"', b"")
    assert stack.story(path)["outcome"]["end"] == "complete"


def test_head_passes_with_the_length_of_the_unmasked_body(stack: Stack):
    stack.upstream.on("HEAD", "/u/head", reply_of(BODY))
    raw = stack.raw("HEAD", "/u/head")
    reply = ask(stack.address, raw, head_only=True)
    assert (reply.status, reply.header("content-length")) == (200, str(len(BODY)))
    assert stack.story("/u/head")["outcome"]["end"] == "complete"


def test_trailers_of_the_upstream_do_not_break_a_response(stack: Stack):
    for who in ("readers", "plain"):
        path = f"/u/trailers/{who}"
        stack.upstream.on("GET", path, chunked_reply([b'{"a":', b"1}"], trailers=[("x-sum", "7")]))
        reply = stack.request("GET", path, token=stack.token(groups=[who]))
        assert (reply.status, reply.body, reply.whole) == (200, b'{"a":1}', True)
        assert stack.story(path)["outcome"]["end"] == "complete"


def test_an_interim_response_changes_nothing(stack: Stack):
    hints = ((103, (("link", "</s.css>; rel=preload"),)),)
    stack.upstream.on(
        "GET", "/m/interim", Reply(200, (("content-type", "application/json"),), BODY, informational=hints)
    )
    reply = stack.request("GET", "/m/interim")
    assert (reply.status, reply.body) == (200, MASKED)


# ---------------------------------------------------------------------- withheld


@pytest.mark.parametrize(
    ("name", "reply", "code"),
    [
        ("broken-json", reply_of(b'{"a": "ann@example.com"'), "response-not-maskable"),
        ("two-documents", reply_of(b"{} {}"), "response-not-maskable"),
        ("picture", reply_of(b"\x89PNG ann@example.com", media="image/png"), "response-not-maskable"),
        ("utf-16", reply_of('{"a":1}'.encode("utf-16"), media="application/json; charset=utf-16"), None),
        ("brotli", coded_reply(b"\x8b ann@example.com", "br"), "response-unreadable"),
        ("gzip-twice", coded_reply(BODY, "gzip-twice"), "response-unreadable"),
        ("gzip-torn", reply_of(gzip.compress(BODY)[:-4], ("content-encoding", "gzip")), "response-unreadable"),
        ("gzip-lie", reply_of(BODY, ("content-encoding", "gzip")), "response-unreadable"),
        (
            "gzip-and-more",
            reply_of(gzip.compress(b"{}") + gzip.compress(BODY), ("content-encoding", "gzip")),
            "response-unreadable",
        ),
        ("bomb", reply_of(gzip.compress(b" " * (1 << 20)), ("content-encoding", "gzip")), "response-unreadable"),
        ("stream", Reply(200, (("content-type", "text/event-stream"),), b"data: x\n\n"), "stream-not-maskable"),
        ("partial", reply_of(BODY[:40], ("content-range", "bytes 0-39/80"), status=206), "partial-not-maskable"),
        ("over-limit", huge_reply(300 << 10), "response-too-large"),
        ("over-limit-chunked", huge_reply(300 << 10, framing="chunked"), "response-too-large"),
    ],
)  # fmt: skip
def test_what_cannot_be_masked_is_withheld(stack: Stack, name, reply, code):
    path = f"/w/{name}"
    stack.upstream.on("GET", path, reply)
    got = stack.request("GET", path)
    if code is None:  # read or refused, but never passed as it came
        assert got.status in (200, 502)
        return
    assert (got.status, got.json()["code"]) == (502, code)
    assert got.json()["executed"] is True
    assert b"example.com" not in got.body
    outcome = stack.story(path)["outcome"]
    assert (outcome["end"], outcome["response"]["inspected"], outcome["executed"]) == (
        "refused",
        "withheld",
        True,
    )


def test_a_response_over_envoys_buffer_is_cut_off_and_recorded(stack: Stack):
    stack.upstream.on("GET", "/w/enormous", huge_reply(6 << 20, framing="chunked"))
    reply = stack.request("GET", "/w/enormous")
    assert reply.status >= 500
    assert b"xxxx" not in reply.body
    assert stack.story("/w/enormous")["outcome"]["executed"] is True


def test_a_large_response_that_needs_no_mask_passes_whole(stack: Stack):
    for framing in ("length", "chunked"):
        path = f"/u/large/{framing}"
        wanted = huge_reply(2 << 20, framing=framing)
        stack.upstream.on("GET", path, wanted)
        reply = stack.request("GET", path, token=plain(stack))
        assert (reply.status, reply.whole, reply.body) == (200, True, wanted.body)
        assert stack.story(path)["outcome"]["response"]["size"] == 2 << 20


# ---------------------------------------------------------------------- negotiation


def test_codings_that_cannot_be_read_are_negotiated_off(stack: Stack):
    stack.upstream.on("GET", "/n", json_reply({}))
    for asked, seen in (
        ("br", "identity"), ("gzip, br, zstd", "gzip"), ("deflate;q=0.5, br", "deflate"), ("identity", "identity"),
    ):  # fmt: skip
        stack.request("GET", "/n", headers=[("accept-encoding", asked)])
        assert stack.upstream.last().all("accept-encoding") == [seen]


def test_a_refused_coding_stays_refused(stack: Stack):
    """`gzip;q=0` means not gzip (RFC 9110 section 12.4.2)."""
    stack.upstream.on("GET", "/n", json_reply({}))
    stack.request("GET", "/n", headers=[("accept-encoding", "gzip;q=0, br")])
    assert stack.upstream.last().all("accept-encoding") == ["identity"]


def test_a_part_is_not_asked_for_where_a_mask_needs_the_whole(stack: Stack):
    stack.upstream.on("GET", "/range", json_reply({}))
    headers = [("range", "bytes=0-9"), ("if-range", '"1"')]
    stack.request("GET", "/range", headers=headers)
    assert stack.upstream.last().header("range") is None and stack.upstream.last().header("if-range") is None
    stack.request("GET", "/range", headers=headers, token=plain(stack))
    assert stack.upstream.last().header("range") == "bytes=0-9"


# ---------------------------------------------------------------------- requests


def writer(stack: Stack) -> str:
    return stack.token("wanda", groups=["writers"])


def test_a_request_body_reaches_the_upstream_byte_for_byte(stack: Stack):
    body = gzip.compress(b'{"a": "ann@example.com"}')
    headers = [("content-type", "application/json"), ("content-encoding", "gzip")]
    reply = stack.request("POST", "/notes", body=body, headers=headers, token=writer(stack))
    assert reply.status == 200
    assert (stack.upstream.last().body, stack.upstream.last().header("content-encoding")) == (body, "gzip")


def test_a_chunked_request_body_reaches_the_upstream_whole(stack: Stack):
    headers = [("content-type", "application/json"), ("transfer-encoding", "chunked")]
    raw = stack.raw("POST", "/notes", headers=headers, token=writer(stack))
    reply = ask(stack.address, raw + chunked(b'{"a"', b":", b"1}"))
    assert (reply.status, stack.upstream.last().body) == (200, b'{"a":1}')


def test_a_request_body_over_the_limit_is_413_and_recorded(stack: Stack):
    before = stack.upstream.count()
    for size in (64 << 10) + 1, 6 << 20:  # over the target's limit; over what Envoy buffers
        reply = stack.request("POST", "/notes", body=b"x" * size, token=writer(stack))
        assert reply.status == 413
    assert stack.upstream.count() == before
    assert len(stack.wait_for_records(lambda r: r.get("response", {}).get("code") == 413, 2)) == 2


def test_a_client_that_expects_100_continue_gets_it(stack: Stack):
    headers = [("content-type", "application/json"), ("expect", "100-continue"), ("content-length", "7")]
    with stack.client() as client:
        client.send(stack.raw("POST", "/notes", headers=headers, token=writer(stack)))
        client.read_until(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b'{"a":1}')
        assert client.read().status == 200
    assert stack.upstream.last().body == b'{"a":1}'


def test_a_client_that_expects_100_continue_and_is_denied_sends_nothing(stack: Stack):
    before = stack.upstream.count()
    headers = [("expect", "100-continue"), ("content-length", "7")]
    with stack.client() as client:
        client.send(stack.raw("DELETE", "/notes", headers=headers))
        assert client.read().status == 403
    assert stack.upstream.count() == before


def test_kept_connections_carry_decisions_of_their_own(stack: Stack):
    stack.upstream.on("GET", "/m/kept", reply_of(BODY))
    with stack.client() as client:
        for _ in range(3):
            assert client.ask(stack.raw("GET", "/m/kept")).body == MASKED
            assert client.ask(stack.raw("DELETE", "/m/kept")).status == 403
            assert client.ask(stack.raw("GET", "/m/kept", token=None)).status == 401


def test_pipelined_requests_are_judged_one_by_one(stack: Stack):
    stack.upstream.on("GET", "/m/piped", reply_of(BODY))
    before = stack.upstream.count("GET", "/m/piped")
    with stack.client() as client:
        client.send(
            stack.raw("GET", "/m/piped")
            + stack.raw("DELETE", "/m/piped")
            + stack.raw("GET", "/m/piped", token=None)
        )
        assert [client.read().status for _ in range(3)] == [200, 403, 401]
    assert stack.upstream.count("GET", "/m/piped") == before + 1


def test_bodies_of_any_size_around_the_limits_keep_their_bytes(stack: Stack):
    for size in (1, 16383, 16384, 65535, 65536):
        body = b"z" * size
        reply = stack.request(
            "POST", "/notes", body=body, headers=[("content-type", "text/plain")], token=writer(stack)
        )
        assert (reply.status, stack.upstream.last().body) == (200, body)


def test_a_masked_zlib_document_is_valid_json(stack: Stack):
    stack.upstream.on(
        "GET", "/m/json",
        Reply(200, (("content-type", "application/problem+json"), ("content-encoding", "deflate")),
              zlib.compress(json.dumps([PERSON] * 200).encode())),
    )  # fmt: skip
    people = stack.request("GET", "/m/json").json()
    assert len(people) == 200
    assert {person["email"] for person in people} == {"[EMAIL_ADDRESS]"}
    assert {person["card"] for person in people} == {"[CREDIT_CARD]"}


def test_absolute_urls_and_other_hosts_are_not_served(stack: Stack):
    before = stack.upstream.count()
    token = ("authorization", f"Bearer {stack.token()}")
    ask(stack.address, build_request("GET", "http://other.example/customers", [token]))
    assert stack.upstream.count() == before
