"""Bypass cases that lie about the body: its JSON, charset, type, coding or framing."""

from __future__ import annotations

import gzip
import zlib

from tests.support.bypass_case import BIG, GZIP, JSON, SMALL, BypassCase, framed, multipart, pay
from tests.support.raw_http import chunked

JSON_KEYS = (
    pay("json-key:twice-last", '{"amount": 5, "amount": 5000}'),
    pay("json-key:twice-first", '{"amount": 5000, "amount": 5}'),
    pay("json-key:escaped", r'{"amount": 5, "\u0061mount": 5000}'),
    pay("json-key:all-escaped", r'{"\u0061\u006d\u006f\u0075\u006e\u0074": 5000}'),
    pay("json-key:other-case", '{"amount": 5, "Amount": 5000}'),
    pay("json-key:full-width", '{"amount": 5, "\uff41mount": 5000}'),
    pay("json-key:mathematical-letter", '{"amount": 5, "\U0001d41amount": 5000}'),
    pay("json-key:nul", r'{"amount": 5, "amount\u0000x": 5000}'),
    pay("json-key:white-space", '{"amount": 5, " amount ": 5000}'),
    pay("json-key:zero-width", '{"amount": 5, "amo\u200bunt": 5000}'),
)

JSON_VALUES = tuple(
    pay(f"json-value:{name}", f'{{"amount": {value}, "currency": "EUR"}}')
    for name, value in {
        "plain": "5000",
        "exactly-the-limit": "1000",
        "float": "1000.0",
        "exponent": "1e3",
        "exponent-without-sign": "0.5E+4",
        "text": '"5000"',
        "text-exponent": '"5e3"',
        "text-padded": '" 5000 "',
        "text-hex": '"0x1388"',
        "text-thousands": '"5,000"',
        "text-full-width": '"\uff15\uff10\uff10\uff10"',
        "text-arabic-digits": '"\u0665\u0660\u0660\u0660"',
        "text-escaped-digits": r'"\u0035000"',
        "text-with-tail": '"5000 EUR"',
        "array": "[5000]",
        "array-small-first": "[5, 5000]",
        "object": '{"$numberInt": "5000"}',
        "over-64-bits": str(2**64 + 5),
        "over-63-bits": str(2**63 + 5),
        "over-53-bits": str(2**53 + 1),
        "leading-plus": "+5000",
        "leading-zero": "05000",
        "hex": "0x1388",
    }.items()
)

JSON_SYNTAX = (
    pay("json-syntax:block-comment", '{"amount": 5 /*"*/, "amount": 5000 /*"*/}'),
    pay("json-syntax:line-comment", '{"amount": 5000 // , "amount": 5\n}'),
    pay("json-syntax:hash-comment", '{# note\n"amount": 5000}'),
    pay("json-syntax:trailing-comma", '{"amount": 5000,}'),
    pay("json-syntax:single-quotes", "{'amount': 5000}"),
    pay("json-syntax:bare-key", "{amount: 5000}"),
    pay("json-syntax:batch", '[{"amount": 5}, {"amount": 5000}]'),
    pay("json-syntax:two-documents", '{"amount": 5}\n{"amount": 5000}'),
    pay("json-syntax:nul-between-documents", '{"amount": 5}\0{"amount": 5000}'),
    pay("json-syntax:prefix", ")]}',\n" + BIG.decode()),
    pay("json-syntax:never-closed", '{"amount": 5000'),
    pay("json-syntax:odd-white-space", '{"amount":\x0b5000\x0c}'),
    pay("json-syntax:nan-beside", '{"note": NaN, "amount": 5000}'),
)

DECLARED_UTF16 = ("Content-Type", "application/json; charset=utf-16")
CHARSETS = (
    pay("charset:utf-8-mark", b"\xef\xbb\xbf" + BIG),
    pay("charset:utf-16-mark", BIG.decode().encode("utf-16")),
    pay("charset:utf-16-little", BIG.decode().encode("utf-16-le")),
    pay("charset:utf-16-big", BIG.decode().encode("utf-16-be")),
    pay("charset:utf-16-declared", BIG.decode().encode("utf-16-le"), DECLARED_UTF16),
    pay("charset:utf-32", BIG.decode().encode("utf-32")),
    pay(
        "charset:utf-7",
        '{"amount": 5, "+AGEAbQBvAHUAbgB0-": 5000}',
        ("Content-Type", "application/json; charset=utf-7"),
    ),
    pay(
        "charset:utf-7-quoted",
        '{"amount": 5, "+AGEAbQBvAHUAbgB0-": 5000}',
        ("Content-Type", 'application/json;version=1;charset="UTF-7"'),
    ),
    pay(
        "charset:ebcdic",
        BIG.decode().encode("cp037"),
        ("Content-Type", "application/json; charset=cp037"),
    ),
    pay(
        "charset:unicode-escape",
        '{"amount": 5, "x\\u0022:1,\\u0022amount\\u0022:5000,\\u0022y": 1}',
        ("Content-Type", "application/json; charset=raw-unicode-escape"),
    ),
)

FORM = "application/x-www-form-urlencoded"
POLYGLOT = '{"amount": 5, "note": "&amount=5000&"}'
TYPES = (
    pay("type:json-as-text", BIG, ("Content-Type", "text/plain")),
    pay("type:json-as-nothing", BIG, ("X-None", "1")),
    pay("type:json-as-octets", BIG, ("Content-Type", "application/octet-stream")),
    pay("type:json-as-form", BIG, ("Content-Type", FORM)),
    pay("type:form", "amount=5000", ("Content-Type", FORM)),
    pay("type:form-as-json", "amount=5000"),
    pay("type:form-array", "amount[]=5000", ("Content-Type", FORM)),
    pay("type:polyglot-form-second", POLYGLOT, JSON, ("Content-Type", FORM)),
    pay("type:polyglot-form-first", POLYGLOT, ("Content-Type", FORM), JSON),
    pay("type:polyglot-in-one-list", POLYGLOT, ("Content-Type", f"application/json, {FORM}")),
    pay("type:polyglot-in-a-parameter", POLYGLOT, ("Content-Type", f"application/json; x={FORM}")),
    pay(
        "type:multipart-field",
        multipart("amount", "", "5000"),
        ("Content-Type", "multipart/form-data; boundary=b"),
    ),
    pay(
        "type:multipart-json",
        multipart("body", "Content-Type: application/json\r\n", BIG.decode()),
        ("Content-Type", "multipart/form-data; boundary=b"),
    ),
    pay("type:xml", "<payment><amount>5000</amount></payment>", ("Content-Type", "application/xml")),
    pay("type:xml-as-json", '<payment amount="5000"/>'),
)

ZIPPED = gzip.compress(BIG, mtime=0)
RAW_DEFLATE = zlib.compressobj(wbits=-15)
RAW_DEFLATED = RAW_DEFLATE.compress(BIG) + RAW_DEFLATE.flush()
MEMBERS = gzip.compress(b'{"amount": 5}', mtime=0) + gzip.compress(b'\n{"amount": 5000}', mtime=0)
CODINGS = (
    pay("coding:gzip", ZIPPED, JSON, GZIP),
    pay("coding:x-gzip", ZIPPED, JSON, ("Content-Encoding", "X-GZip")),
    pay("coding:gzip-unlabelled", ZIPPED),
    pay("coding:gzip-twice", gzip.compress(ZIPPED, mtime=0), JSON, ("Content-Encoding", "gzip, gzip")),
    pay("coding:gzip-twice-labelled-once", gzip.compress(ZIPPED, mtime=0), JSON, GZIP),
    pay("coding:deflate", zlib.compress(BIG), JSON, ("Content-Encoding", "deflate")),
    pay("coding:deflate-raw", RAW_DEFLATED, JSON, ("Content-Encoding", "deflate")),
    pay("coding:gzip-labelled-deflate", ZIPPED, JSON, ("Content-Encoding", "deflate")),
    pay("coding:gzip-labelled-brotli", ZIPPED, JSON, ("Content-Encoding", "br")),
    pay("coding:gzip-labelled-identity", ZIPPED, JSON, ("Content-Encoding", "identity")),
    pay("coding:label-in-second-field", ZIPPED, JSON, ("Content-Encoding", "identity"), GZIP),
    pay("coding:deflate-in-gzip", gzip.compress(zlib.compress(BIG), mtime=0), JSON, GZIP),
    pay("coding:second-gzip-member", MEMBERS, JSON, GZIP),
    pay("coding:text-after-gzip", gzip.compress(SMALL, mtime=0) + b"\n" + BIG, JSON, GZIP),
    pay("coding:gzip-cut-short", ZIPPED[:-8], JSON, GZIP),
    pay("coding:utf-16-in-gzip", gzip.compress(BIG.decode().encode("utf-16"), mtime=0), JSON, GZIP),
)

HARMLESS_LENGTH = str(len(SMALL))
FRAMING = (
    framed("framing:chunked", [JSON, ("Transfer-Encoding", "chunked")], chunked(BIG[:13], BIG[13:])),
    framed(
        "framing:chunked-and-length",
        [JSON, ("Content-Length", HARMLESS_LENGTH), ("Transfer-Encoding", "chunked")],
        chunked(BIG),
    ),
    framed(
        "framing:space-before-colon",
        [JSON, ("Transfer-Encoding ", " chunked"), ("Content-Length", "5")],
        chunked(BIG),
    ),
    framed("framing:chunked-in-other-words", [JSON, ("Transfer-Encoding", "\tx, ChUnKeD")], chunked(BIG)),
    framed(
        "framing:second-length",
        [JSON, ("Content-Length", "12"), ("Content-Length", "15")],
        b'{"amount":5000}',
    ),
    framed(
        "framing:chunk-extension",
        [JSON, ("Transfer-Encoding", "chunked")],
        b"%x;x=1\r\n%b\r\n0\r\n\r\n" % (len(BIG), BIG),
    ),
    framed(
        "framing:folded-type",
        [("Content-Type", " application/json;\r\n charset=utf-8"), ("Content-Length", str(len(BIG)))],
        BIG,
    ),
    framed(
        "framing:http-1.0",
        [JSON, ("Content-Length", str(len(BIG)))],
        BIG,
        line="POST /payments HTTP/1.0",
    ),
)

BODIES: tuple[BypassCase, ...] = (
    *JSON_KEYS,
    *JSON_VALUES,
    *JSON_SYNTAX,
    *CHARSETS,
    *TYPES,
    *CODINGS,
    *FRAMING,
)
