"""Every recognizer finds what it should and leaves look-alikes alone. One row is one truth."""

from __future__ import annotations

import base64

import pytest

from extproc.domain.errors import PolicyError
from extproc.masking.checksums import IBAN_LENGTHS, is_card_number, is_iban, luhn
from extproc.masking.finder import Finder, Tally
from extproc.masking.literals import literal_forms
from extproc.masking.recognizers import ENTITIES, build_recognizers, table_digest
from tests.masking.support import EVERYTHING, found

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"
PGP = "-----BEGIN PGP PRIVATE KEY BLOCK-----\nxyz=\n-----END PGP PRIVATE KEY BLOCK-----"
AWS = "AKIAIOSFODNN7EXAMPLE"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def b64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


UNSIGNED = ".".join([b64('{"alg":"none"}'), b64('{"sub":"a"}'), ""])
ENCRYPTED = b64('{"alg":"dir","enc":"A256GCM"}') + "..aaaa.bbbb.cccc"
SPACED = ".".join([b64('{ "alg": "RS256" }'), b64("{}"), "AAAA"])
NAMELESS = ".".join([b64('{"sub":"alice","x":1}'), b64('{"a":1}'), "AAAA"])

# entity, id, text, what is found in it
FINDS: list[tuple[str, str, str, str]] = [
    ("EMAIL_ADDRESS", "plain", "alice@example.com", "alice@example.com"),
    ("EMAIL_ADDRESS", "plus-and-dots", "to a.b+tag@mail.example.co.uk now", "a.b+tag@mail.example.co.uk"),
    ("EMAIL_ADDRESS", "end-of-sentence", "Write to bob@example.org.", "bob@example.org"),
    ("EMAIL_ADDRESS", "angle-brackets", "Bob <bob@example.org>", "bob@example.org"),
    ("EMAIL_ADDRESS", "mailto", "mailto:bob@example.org?subject=x", "bob@example.org"),
    ("EMAIL_ADDRESS", "upper-case", "BOB@EXAMPLE.ORG", "BOB@EXAMPLE.ORG"),
    ("EMAIL_ADDRESS", "percent-encoded-at", "?mail=bob%40example.org&x=1", "bob%40example.org"),
    ("EMAIL_ADDRESS", "escaped-at-in-script", r'x="bob\u0040example.org"', r"bob\u0040example.org"),
    ("EMAIL_ADDRESS", "international", "josé@exämple.de", "josé@exämple.de"),
    ("EMAIL_ADDRESS", "punycode", "x@xn--exmple-cua.xn--p1ai", "x@xn--exmple-cua.xn--p1ai"),
    ("EMAIL_ADDRESS", "one-character", "a@b.io", "a@b.io"),
    ("EMAIL_ADDRESS", "underscore-first", "_ops@example.com", "_ops@example.com"),
    ("CREDIT_CARD", "visa", "4111111111111111", "4111111111111111"),
    ("CREDIT_CARD", "visa-spaces", "pay 4111 1111 1111 1111 now", "4111 1111 1111 1111"),
    ("CREDIT_CARD", "visa-dashes", "4111-1111-1111-1111", "4111-1111-1111-1111"),
    ("CREDIT_CARD", "visa-dots", "4111.1111.1111.1111", "4111.1111.1111.1111"),
    ("CREDIT_CARD", "no-break-spaces", "4111\u00a01111\u00a01111\u00a01111", "4111\u00a01111\u00a01111\u00a01111"),
    ("CREDIT_CARD", "amex", "3782 822463 10005", "3782 822463 10005"),
    ("CREDIT_CARD", "mastercard", "5555555555554444", "5555555555554444"),
    ("CREDIT_CARD", "mastercard-2-series", "2223003122003222", "2223003122003222"),
    ("CREDIT_CARD", "discover", "6011111111111117", "6011111111111117"),
    ("CREDIT_CARD", "diners", "30569309025904", "30569309025904"),
    ("CREDIT_CARD", "jcb", "3530111333300000", "3530111333300000"),
    ("CREDIT_CARD", "unionpay", "6200000000000005", "6200000000000005"),
    ("CREDIT_CARD", "number-before-it", "item 12 4111 1111 1111 1111", "4111 1111 1111 1111"),
    ("CREDIT_CARD", "expiry-after-it", "4111 1111 1111 1111 12", "4111 1111 1111 1111"),
    ("CREDIT_CARD", "end-of-sentence", "It was 4111111111111111.", "4111111111111111"),
    ("CREDIT_CARD", "underscore-before", "card_4111111111111111", "4111111111111111"),
    ("IBAN_CODE", "germany", "DE89370400440532013000", "DE89370400440532013000"),
    ("IBAN_CODE", "germany-spaces", "to DE89 3704 0044 0532 0130 00 and", "DE89 3704 0044 0532 0130 00"),
    ("IBAN_CODE", "united-kingdom", "GB29 NWBK 6016 1331 9268 19", "GB29 NWBK 6016 1331 9268 19"),
    ("IBAN_CODE", "france", "FR1420041010050500013M02606", "FR1420041010050500013M02606"),
    ("IBAN_CODE", "norway-shortest", "NO9386011117947", "NO9386011117947"),
    ("IBAN_CODE", "malta-long", "MT84MALT011000012345MTLCAST001S", "MT84MALT011000012345MTLCAST001S"),
    ("IBAN_CODE", "lower-case", "de89370400440532013000", "de89370400440532013000"),
    ("IBAN_CODE", "dashes", "NL91-ABNA-0417-1643-00", "NL91-ABNA-0417-1643-00"),
    ("IBAN_CODE", "after-underscore", "iban_DE89370400440532013000", "DE89370400440532013000"),
    ("US_SSN", "dashes", "123-45-6789", "123-45-6789"),
    ("US_SSN", "in-text", "number 219-09-9999.", "219-09-9999"),
    ("US_SSN", "lowest-area", "001-01-0001", "001-01-0001"),
    ("US_SSN", "highest-area", "899-99-9999", "899-99-9999"),
    ("US_SSN", "named-bare", "ssn=123456789", "123456789"),
    ("US_SSN", "named-spaces", "SSN: 123 45 6789", "123 45 6789"),
    ("US_SSN", "named-dots", "Social Security No 123.45.6789", "123.45.6789"),
    ("US_SSN", "json-key", '"socialSecurityNumber": "123456789"', "123456789"),
    ("US_SSN", "tax-id", "tax_id 123456789", "123456789"),
    ("PHONE_NUMBER", "international", "+1 202 555 0143", "+1 202 555 0143"),
    ("PHONE_NUMBER", "international-compact", "call +4930901820 now", "+4930901820"),
    ("PHONE_NUMBER", "international-parens", "+44 (0)20 7946 0958", "+44 (0)20 7946 0958"),
    ("PHONE_NUMBER", "double-zero", "0049 30 901820", "0049 30 901820"),
    ("PHONE_NUMBER", "north-american", "(202) 555-0143", "(202) 555-0143"),
    ("PHONE_NUMBER", "north-american-dots", "202.555.0143", "202.555.0143"),
    ("PHONE_NUMBER", "north-american-dashes", "at 202-555-0143.", "202-555-0143"),
    ("PHONE_NUMBER", "named-bare", "phone: 2025550143", "2025550143"),
    ("PHONE_NUMBER", "json-key", '"mobile":"02079460958"', "02079460958"),
    ("PHONE_NUMBER", "date-after-it", "+1 202 555 0143 2024", "+1 202 555 0143"),
    ("IP_ADDRESS", "v4", "10.0.0.1", "10.0.0.1"),
    ("IP_ADDRESS", "v4-in-url", "http://192.168.1.10:8080/x", "192.168.1.10"),
    ("IP_ADDRESS", "v4-cidr", "10.1.0.0/16", "10.1.0.0"),
    ("IP_ADDRESS", "v4-end-of-sentence", "from 8.8.8.8.", "8.8.8.8"),
    ("IP_ADDRESS", "v4-edges", "255.255.255.255", "255.255.255.255"),
    ("IP_ADDRESS", "v6", "2001:db8::1", "2001:db8::1"),
    ("IP_ADDRESS", "v6-full", "2001:0db8:0000:0000:0000:ff00:0042:8329", "2001:0db8:0000:0000:0000:ff00:0042:8329"),
    ("IP_ADDRESS", "v6-brackets", "http://[2001:db8::7]:80/", "2001:db8::7"),
    ("IP_ADDRESS", "v6-loopback", "from ::1 ok", "::1"),
    ("IP_ADDRESS", "v6-mapped-v4", "::ffff:10.0.0.1", "::ffff:10.0.0.1"),
    ("IP_ADDRESS", "v6-zone", "fe80::1%eth0", "fe80::1"),
    ("JWT", "signed", JWT, JWT),
    ("JWT", "bearer", f"Authorization: Bearer {JWT}", JWT),
    ("JWT", "in-query", f"?token={JWT}&x=1", JWT),
    ("JWT", "quoted", f'"{JWT}"', JWT),
    ("JWT", "unsigned", UNSIGNED, UNSIGNED),
    ("JWT", "after-dotted-words", f"honeybadgers1.{JWT}", JWT),
    ("JWT", "cut-after-payload", JWT.rpartition(".")[0], JWT.rpartition(".")[0]),
    ("JWT", "encrypted", ENCRYPTED, ENCRYPTED),
    ("JWT", "space-in-header", SPACED, SPACED),
    ("AWS_ACCESS_KEY", "akia", AWS, AWS),
    ("AWS_ACCESS_KEY", "temporary", "ASIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE"),
    ("AWS_ACCESS_KEY", "assignment", f"aws_access_key_id={AWS}", AWS),
    ("AWS_ACCESS_KEY", "quoted", f"'{AWS}'", AWS),
    ("AWS_ACCESS_KEY", "in-url", f"?AWSAccessKeyId={AWS}&Expires=1", AWS),
    ("AWS_ACCESS_KEY", "credential-scope", f"Credential={AWS}/20240115/eu-west-1/s3", AWS),
    ("AWS_ACCESS_KEY", "end-of-sentence", f"It is {AWS}.", AWS),
    ("AWS_ACCESS_KEY", "bearer-prefix", "ABIAIOSFODNN7EXAMPLE", "ABIAIOSFODNN7EXAMPLE"),
    ("AWS_SECRET_KEY", "assignment", f"aws_secret_access_key = {AWS_SECRET}", AWS_SECRET),
    ("AWS_SECRET_KEY", "no-spaces", f"aws_secret_access_key={AWS_SECRET}", AWS_SECRET),
    ("AWS_SECRET_KEY", "json", f'"SecretAccessKey": "{AWS_SECRET}"', AWS_SECRET),
    ("AWS_SECRET_KEY", "environment", f"export AWS_SECRET_ACCESS_KEY='{AWS_SECRET}'", AWS_SECRET),
    ("AWS_SECRET_KEY", "secret-key", f"secret_key: {AWS_SECRET}", AWS_SECRET),
    ("AWS_SECRET_KEY", "yaml", f"awsSecret: {AWS_SECRET}\n", AWS_SECRET),
    ("AWS_SECRET_KEY", "spoken", f"the secret key is {AWS_SECRET}.", AWS_SECRET),
    ("AWS_SECRET_KEY", "secret-dash", f"secret-access-key {AWS_SECRET}", AWS_SECRET),
    ("PEM_PRIVATE_KEY", "rsa", PEM, PEM),
    ("PEM_PRIVATE_KEY", "pkcs8", PEM.replace("RSA ", ""), PEM.replace("RSA ", "")),
    ("PEM_PRIVATE_KEY", "ec", f"key:\n{PEM.replace('RSA', 'EC')}\nrest", PEM.replace("RSA", "EC")),
    ("PEM_PRIVATE_KEY", "encrypted", PEM.replace("RSA", "ENCRYPTED"), PEM.replace("RSA", "ENCRYPTED")),
    ("PEM_PRIVATE_KEY", "openssh", PEM.replace("RSA", "OPENSSH"), PEM.replace("RSA", "OPENSSH")),
    ("PEM_PRIVATE_KEY", "escaped-newlines", PEM.replace("\n", r"\n"), PEM.replace("\n", r"\n")),
    ("PEM_PRIVATE_KEY", "cut-off", PEM[:50], PEM[:50]),
    ("PEM_PRIVATE_KEY", "pgp", PGP, PGP),
]  # fmt: skip

# entity, id, text
LEAVES: list[tuple[str, str, str]] = [
    ("EMAIL_ADDRESS", "no-domain", "user@"),
    ("EMAIL_ADDRESS", "no-local", "@example.com"),
    ("EMAIL_ADDRESS", "no-dot", "root@localhost"),
    ("EMAIL_ADDRESS", "package-version", "lodash@4.17.21"),
    ("EMAIL_ADDRESS", "retina-image", "icon@2x.png"),
    ("EMAIL_ADDRESS", "handle", "thanks @alice.b for it"),
    ("EMAIL_ADDRESS", "decorator", "@app.route('/x')"),
    ("EMAIL_ADDRESS", "spaced-at", "alice @ example.com"),
    ("EMAIL_ADDRESS", "dot-at-start-of-domain", "a@.com"),
    ("CREDIT_CARD", "luhn-fails", "4111111111111112"),
    ("CREDIT_CARD", "unknown-issuer", "1234567812345670"),
    ("CREDIT_CARD", "zeros", "0000000000000000"),
    ("CREDIT_CARD", "too-long", "41111111111111111111"),
    ("CREDIT_CARD", "too-short", "411111111111"),
    ("CREDIT_CARD", "wrong-length-for-issuer", "41111111111116"),
    ("CREDIT_CARD", "fraction", "0.4111111111111111"),
    ("CREDIT_CARD", "number-with-cents", "4111111111111111.50"),
    ("CREDIT_CARD", "inside-a-word", "a4111111111111111"),
    ("CREDIT_CARD", "inside-hex", "4111111111111111ab"),
    ("CREDIT_CARD", "milliseconds", "1700000000000"),
    ("CREDIT_CARD", "single-digits", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
    ("CREDIT_CARD", "timestamp", "2024-01-15 10:00:00.123456"),
    ("IBAN_CODE", "checksum-fails", "DE89370400440532013001"),
    ("IBAN_CODE", "too-short", "DE8937040044053201300"),
    ("IBAN_CODE", "too-long", "DE893704004405320130000"),
    ("IBAN_CODE", "unknown-country", "XX89370400440532013000"),
    ("IBAN_CODE", "inside-a-word", "ADE89370400440532013000"),
    ("IBAN_CODE", "uuid", "de891234-5678-9012-3456-789012345678"),
    ("IBAN_CODE", "no-check-digits", "DEXX370400440532013000"),
    ("IBAN_CODE", "words", "at 20 degrees in room 12 of building 3"),
    ("IBAN_CODE", "two-gaps", "DE89  3704  0044 0532 0130 00"),
    ("US_SSN", "area-000", "000-12-3456"),
    ("US_SSN", "area-666", "666-12-3456"),
    ("US_SSN", "area-900", "900-12-3456"),
    ("US_SSN", "group-00", "123-00-6789"),
    ("US_SSN", "serial-0000", "123-45-0000"),
    ("US_SSN", "bare-without-context", "order 123456789"),
    ("US_SSN", "longer-dashed", "123-45-6789-0"),
    ("US_SSN", "digit-before", "1123-45-6789"),
    ("US_SSN", "mixed-separators", "ssn 123.45 6789"),
    ("US_SSN", "phone", "202-555-0143"),
    ("US_SSN", "date", "2024-01-15"),
    ("PHONE_NUMBER", "bare-without-context", "order 2025550143"),
    ("PHONE_NUMBER", "seconds", "1700000000"),
    ("PHONE_NUMBER", "date", "2024-01-15"),
    ("PHONE_NUMBER", "date-and-time", "2024-01-15 10:00:00"),
    ("PHONE_NUMBER", "no-such-area", "(999) 555-0143"),
    ("PHONE_NUMBER", "no-such-country", "+999 123 456 789"),
    ("PHONE_NUMBER", "too-short", "+1 202"),
    ("PHONE_NUMBER", "arithmetic", "1+12345678901234567890"),
    ("PHONE_NUMBER", "version", "202.555.0143.2"),
    ("PHONE_NUMBER", "named-but-impossible", "phone: 0000000000"),
    ("IP_ADDRESS", "octet-too-big", "256.1.1.1"),
    ("IP_ADDRESS", "three-parts", "1.2.3"),
    ("IP_ADDRESS", "five-parts", "1.2.3.4.5"),
    ("IP_ADDRESS", "version-letter", "v1.2.3.4"),
    ("IP_ADDRESS", "browser-version", "Chrome/120.0.0.0 Safari"),
    ("IP_ADDRESS", "time", "12:34:56"),
    ("IP_ADDRESS", "hardware-address", "00:1b:44:11:3a:b7"),
    ("IP_ADDRESS", "scope-operator", "std::vector, add::bad"),
    ("IP_ADDRESS", "colons", ":: or ::::::"),
    ("IP_ADDRESS", "date-time", "2024-01-15T10:00:00Z"),
    ("JWT", "one-part", "eyJhbGciOiJIUzI1NiJ9"),
    ("JWT", "no-algorithm", NAMELESS),
    ("JWT", "not-base64-json", "eyesonlyplease.example.com"),
    ("JWT", "inside-a-word", f"x{JWT}"),
    ("JWT", "dotted-name", "eye_of_the_tiger.module.name"),
    ("JWT", "too-short", "eyJ.eyJ.x"),
    ("JWT", "spaces", "eyJhbGciOiJIUzI1NiJ9 . eyJzdWIiOiJhbGljZSJ9"),
    ("JWT", "host", "eyewitnessnews.example.org"),
    ("AWS_ACCESS_KEY", "too-short", "AKIAIOSFODNN7EXAMPL"),
    ("AWS_ACCESS_KEY", "too-long", "AKIAIOSFODNN7EXAMPLEX"),
    ("AWS_ACCESS_KEY", "lower-case", "akiaiosfodnn7example"),
    ("AWS_ACCESS_KEY", "other-prefix", "AROAIOSFODNN7EXAMPLE"),
    ("AWS_ACCESS_KEY", "user-id", "AIDAIOSFODNN7EXAMPLE"),
    ("AWS_ACCESS_KEY", "inside-a-word", "XAKIAIOSFODNN7EXAMPLE"),
    ("AWS_ACCESS_KEY", "dashes", "AKIA-IOSF-ODNN-7EXA-MPLE"),
    ("AWS_ACCESS_KEY", "word", "AKIAPLANTSAREGREEN"),
    ("AWS_SECRET_KEY", "no-context", AWS_SECRET),
    ("AWS_SECRET_KEY", "git-digest", "secret key da39a3ee5e6b4b0d3255bfef95601890afd80709"),
    ("AWS_SECRET_KEY", "too-long", f"secret_key={AWS_SECRET}x"),
    ("AWS_SECRET_KEY", "too-short", f"secret_key={AWS_SECRET[:-1]}"),
    ("AWS_SECRET_KEY", "upper-hex", "secret_key=DA39A3EE5E6B4B0D3255BFEF95601890AFD80709"),
    ("AWS_SECRET_KEY", "no-digit", f"secret_key={'aBcDeFgHiJ' * 4}"),
    ("AWS_SECRET_KEY", "padded", f"secret_key={AWS_SECRET}="),
    ("AWS_SECRET_KEY", "context-too-far", f"aws_secret_access_key {'x ' * 60}{AWS_SECRET}"),
    ("PEM_PRIVATE_KEY", "public-key", PEM.replace("RSA PRIVATE", "PUBLIC")),
    ("PEM_PRIVATE_KEY", "certificate", PEM.replace("RSA PRIVATE KEY", "CERTIFICATE")),
    ("PEM_PRIVATE_KEY", "no-dashes", "BEGIN RSA PRIVATE KEY"),
    ("PEM_PRIVATE_KEY", "end-only", "-----END RSA PRIVATE KEY-----"),
    ("PEM_PRIVATE_KEY", "four-dashes", "----BEGIN RSA PRIVATE KEY----"),
    ("PEM_PRIVATE_KEY", "lower-case", "-----begin rsa private key-----"),
    ("PEM_PRIVATE_KEY", "words", "BEGIN to worry about the PRIVATE KEY"),
    ("PEM_PRIVATE_KEY", "pgp-public", "-----BEGIN PGP PUBLIC KEY BLOCK-----"),
]


@pytest.mark.parametrize(
    ("entity", "text", "value"), [(e, t, v) for e, _, t, v in FINDS], ids=[f"{e}-{i}" for e, i, _, _ in FINDS]
)
def test_it_finds(entity, text, value):
    assert value in found(text, entity)


@pytest.mark.parametrize(
    ("entity", "text"), [(e, t) for e, _, t in LEAVES], ids=[f"{e}-{i}" for e, i, _ in LEAVES]
)
def test_it_leaves_look_alikes_alone(entity, text):
    assert found(text, entity) == []


@pytest.mark.parametrize("text", [t for _, _, t, _ in FINDS], ids=[f"{e}-{i}" for e, i, _, _ in FINDS])
def test_what_was_found_is_gone_after_masking(text):
    value = next(v for _, _, t, v in FINDS if t == text)
    masked, counts = EVERYTHING.text(text)
    assert value not in masked
    assert sum(counts.values()) >= 1


@pytest.mark.parametrize("entity", ENTITIES)
def test_every_entity_has_at_least_eight_examples_each_way(entity):
    assert sum(row[0] == entity for row in FINDS) >= 8
    assert sum(row[0] == entity for row in LEAVES) >= 8


@pytest.mark.parametrize(
    ("entity", "text", "values"),
    [
        (
            "CREDIT_CARD",
            "4111 1111 1111 1111 5555 5555 5555 4444",
            ["4111 1111 1111 1111", "5555 5555 5555 4444"],
        ),
        (
            "IBAN_CODE",
            "DE89370400440532013000 NO9386011117947",
            ["DE89370400440532013000", "NO9386011117947"],
        ),
        ("EMAIL_ADDRESS", "a@b.io,c@d.io;e@f.io", ["a@b.io", "c@d.io", "e@f.io"]),
        ("IP_ADDRESS", "10.0.0.1-10.0.0.9", ["10.0.0.1", "10.0.0.9"]),
        ("PHONE_NUMBER", "+4930901820/+442079460958", ["+4930901820", "+442079460958"]),
        ("US_SSN", "123-45-6789,123-45-6780", ["123-45-6789", "123-45-6780"]),
    ],
)
def test_neighbours_are_all_found(entity, text, values):
    assert found(text, entity) == values


def test_context_words_of_an_earlier_json_key_do_not_count():
    masked, counts = EVERYTHING.text('{"phone": "none", "order": 2025550143}')
    assert "2025550143" in masked
    assert counts == {}


def test_an_unknown_entity_is_refused_with_the_known_ones():
    with pytest.raises(PolicyError, match=r'unknown entity "EMAIL" \(known: .*EMAIL_ADDRESS'):
        build_recognizers(("EMAIL",), ())


def test_a_short_literal_is_refused_without_being_told():
    with pytest.raises(PolicyError) as problem:
        build_recognizers((), ("short77",))
    assert "short77" not in str(problem.value)


def test_the_first_look_searches_everything_when_the_set_gives_up():
    finder = Finder(build_recognizers(ENTITIES, ()))

    class Silent:
        def Match(self, data: bytes) -> None:
            return None

    finder._set = Silent()
    data = b"alice@example.com"
    assert [f.entity for f in finder.find(data, finder.look(data), b"", Tally(100))] == ["EMAIL_ADDRESS"]


@pytest.mark.parametrize("prefix", ["", "u", "us", "use", "user:", "用户:"])
@pytest.mark.parametrize("suffix", ["", "x", "xy", "xyz"])
def test_a_literal_is_found_in_base64_at_every_alignment(prefix, suffix):
    secret = "s3cr3t/+credential~"
    raw = (prefix + secret + suffix).encode()
    finder = Finder(build_recognizers((), (secret,)))
    for encoded in (base64.b64encode(raw), base64.urlsafe_b64encode(raw)):
        (finding,) = finder.find(encoded, finder.look(encoded), b"", Tally(100))
        left = encoded[: finding.start] + b"A" * (finding.end - finding.start) + encoded[finding.end :]
        assert secret[1:-1].encode() not in base64.urlsafe_b64decode(
            left.replace(b"+", b"-").replace(b"/", b"_")
        )


def test_a_literal_has_its_usual_spellings():
    forms = literal_forms('päss"word/1')
    assert 'päss"word/1'.encode() in forms
    assert rb"p\u00e4ss\"word\/1" in forms
    assert b"p%C3%A4ss%22word%2F1" in forms
    assert b"p%c3%a4ss%22word%2f1" in forms
    assert 'päss"word/1'.encode().hex().encode() in forms


@pytest.mark.parametrize("number", ["4111111111111111", "378282246310005", "5019717010103742"])
def test_luhn_accepts_a_right_check_digit_and_no_other(number):
    assert luhn(number)
    assert not any(luhn(number[:-1] + digit) for digit in "0123456789" if digit != number[-1])


def test_an_iban_needs_its_country_length_and_checksum():
    assert is_iban("GB29NWBK60161331926819")
    assert not is_iban("GB29NWBK6016133192681")
    assert not is_iban("GB30NWBK60161331926819")
    assert not is_iban("GB29NWBK6016133192681²")
    assert all(15 <= length <= 34 for length in IBAN_LENGTHS.values())


def test_a_card_number_needs_a_known_issuer():
    assert is_card_number("4222222222222")
    assert not is_card_number("7992739871300009")


def test_the_table_has_a_stable_name():
    assert table_digest() == table_digest()
    assert len(table_digest()) == 64
