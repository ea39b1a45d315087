"""The request head: one reading, or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.domain.errors import ProtocolError
from extproc.domain.request import Headers
from extproc.protocols.http.head import check_override_param, query_params, read_request_line


def headers(path: str = "/", method: str = "GET", *more: tuple[str, str]) -> Headers:
    return Headers(
        ((":method", method), (":path", path), (":authority", "api.example"), (":scheme", "https"), *more)
    )


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        ("/", "/"),
        ("/customers", "/customers"),
        ("/customers/", "/customers/"),
        ("/a/b.json", "/a/b.json"),
        ("/caf%C3%A9", "/café"),
        ("/a%20b", "/a b"),
        ("/%63ustomers", "/customers"),
        ("/x..y/...z", "/x..y/...z"),
        ("/a:b@c,d", "/a:b@c,d"),
    ],
)
def test_a_plain_path_is_decoded_once(raw, seen):
    assert read_request_line(headers(raw)).url_path == seen


@pytest.mark.parametrize(
    "raw",
    [
        "/a%2Fb", "/a%2fb", "/a%5Cb", "/a\\b", "/a;b=1", "/a%3Bb", "//a", "/a//b", "/a/./b", "/a/../b", "/a/..",
        "/%2e%2e/a", "/.%2e/a", "/a%00b", "/a%0Ab", "/a%252Fb", "/a%25", "/a%", "/a%2", "/a%zz", "/a%+1", "/a%C0%AF",
        "/a%FF", "/a#b", "/a b", "/a\x7fb", "/aéb", "a", "", "/a{b}", "/a%3Fb", "/a%23b", "http://h/a", "/a\tb",
        "/a%2 f", "/%EF%BC%8E%EF%BC%8E/a", "/%E2%80%A4%E2%80%A4/a", "/a%EF%BC%8Fb", "/.", "/..", "/a|`b",
    ],
)  # fmt: skip
def test_a_path_with_two_readings_is_refused(raw):
    with pytest.raises(ProtocolError) as refusal:
        read_request_line(headers(raw))
    assert refusal.value.status == 400
    assert refusal.value.code == "ambiguous-path"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ((("x-http-method-override", "DELETE"),), "override-header"),
        ((("x-http-method", "DELETE"),), "override-header"),
        ((("x-method-override", "DELETE"),), "override-header"),
        ((("x-original-url", "/admin"),), "override-header"),
        ((("x-rewrite-url", "/admin"),), "override-header"),
        ((("content-type", "a/b"), ("content-type", "c/d")), "duplicate-header"),
        ((("content-encoding", "gzip"), ("content-encoding", "gzip")), "duplicate-header"),
        ((("content-length", "1"), ("content-length", "1")), "duplicate-header"),
        ((("x_http_method_override", "DELETE"),), "override-header"),
        ((("x_original-url", "/admin"),), "override-header"),
        (((":path", "/other"),), "duplicate-header"),
        ((("host", "other.example"),), "authority-mismatch"),
        ((("host", "api.example"), ("host", "api.example")), "duplicate-header"),
    ],
)
def test_headers_that_change_what_runs_are_refused(more, code):
    with pytest.raises(ProtocolError) as refusal:
        read_request_line(headers("/", "GET", *more))
    assert refusal.value.code == code


@pytest.mark.parametrize("method", ["", "GET POST", "G\u00c9T", "GET\r\n", "x" * 33])
def test_a_method_that_is_no_token_is_refused(method):
    with pytest.raises(ProtocolError):
        read_request_line(headers("/", method))


@pytest.mark.parametrize("authority", ["", "a b", "a/b", "a@b", "a?b", "a#b", "a\\b", "\u00e9.example"])
def test_an_authority_with_two_readings_is_refused(authority):
    with pytest.raises(ProtocolError):
        read_request_line(Headers(((":method", "GET"), (":path", "/"), (":authority", authority))))


@pytest.mark.parametrize(
    "query",
    ["_method=DELETE", "a=1&_method=PUT", "%5Fmethod=DELETE", "_METHOD=x", "+_method=x", "a=1;_method=x"],
)
def test_the_method_parameter_is_refused(query):
    with pytest.raises(ProtocolError):
        check_override_param(query)


def test_a_parameter_that_only_looks_like_it_passes():
    check_override_param("payment_method=card&method=x")


def test_query_parameters_keep_every_value():
    assert query_params("a=1&b=x+y&a=%32&flag") == {"a": ["1", "2"], "b": ["x y"], "flag": [""]}


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
VISIBLE = {chr(code) for code in range(0x21, 0x7F)}


def accepted(*fields: tuple[str, str]) -> bool:
    try:
        read_request_line(Headers(fields))
    except ProtocolError:
        return False
    return True


def test_of_all_characters_a_method_an_authority_a_path_and_a_query_take_just_these():
    method, host, path = (":method", "GET"), (":authority", "api.example"), (":path", "/")
    every = [chr(code) for code in range(0x250)]
    # RFC 9110, 5.6.2
    assert {c for c in every if accepted((":method", f"A{c}Z"), host, path)} == {*LETTERS, *"!#$%&'*+-.^_`|~"}
    assert {c for c in every if accepted(method, (":authority", f"a{c}z"), path)} == VISIBLE - {*"/\\@?#"}
    # a question mark begins the query, and a percent sign an escape, which "%az" is not and "%aaz" is no UTF-8
    in_path = VISIBLE - {*'"#;\\^`{}%'}
    assert {c for c in every if accepted(method, host, (":path", f"/a{c}z"))} == in_path
    assert {c for c in every if accepted(method, host, (":path", f"/?a{c}z"))} == VISIBLE - {*'"#'}


def test_connect_needs_no_path():
    line = read_request_line(Headers(((":method", "CONNECT"), (":authority", "db.example:5432"))))
    assert (line.upgrade, line.path) == (True, "")


@given(st.text(max_size=60))
def test_any_path_gives_a_line_or_a_refusal(path):
    try:
        line = read_request_line(headers("/" + path))
    except ProtocolError:
        return
    segments = line.url_path.split("/")[1:]
    assert ".." not in segments
    assert "." not in segments
    assert "" not in segments[:-1]
    assert not any(c < " " or c in "\\;\x7f" for c in line.url_path)
