"""Bad tokens, each with the code it must be refused with. Unit and end-to-end tests share the catalogue.

Every token is made from a running issuer's real keys, so that each is refused for its own defect and no other.
Codes are those of a service that may fetch keys: an unknown kid is looked for first and refused afterwards.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from extproc.demo.issuer import Issuer, make_key
from extproc.demo.pages import b64

ATTACKER = "https://attacker.test/keys.json"
MAX_TOKEN = 16_384


@dataclass(frozen=True, slots=True)
class BadToken:
    """Call it with an issuer to get the token; `code` is the TokenError's."""

    make: Callable[[Issuer], str]
    code: str

    def __call__(self, issuer: Issuer) -> str:
        return self.make(issuer)


def header_of(issuer: Issuer, alg: str = "RS256", **members: Any) -> dict[str, Any]:
    """A good header of this issuer, with `members` added or replaced."""
    return {"alg": alg, "kid": issuer.kid(alg), "typ": "JWT", **members}


def join(
    header: Mapping[str, Any] | bytes, payload: Mapping[str, Any] | bytes, signature: bytes = b""
) -> str:
    """A compact serialisation of exactly these parts."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    return ".".join(b64(part) for part in (*parts, signature))


def respell(token: str, index: int, change: Callable[[str], str]) -> str:
    """The token with one of its parts rewritten."""
    parts = token.split(".")
    parts[index] = change(parts[index])
    return ".".join(parts)


def unsigned(spelling: str) -> Callable[[Issuer], str]:
    return lambda issuer: join({"alg": spelling, "typ": "JWT"}, issuer.claims())


def none_with_signature(issuer: Issuer) -> str:
    return issuer.sign(header_of(issuer, alg="RS256") | {"alg": "none"}, issuer.claims())


def hmac_with(secret: Callable[[Issuer], bytes], alg: str = "HS256") -> Callable[[Issuer], str]:
    """The key confusion: a public key, which everybody has, used as an HMAC secret."""

    def make(issuer: Issuer) -> str:
        unsigned_token = join(header_of(issuer) | {"alg": alg}, issuer.claims()).rstrip(".")
        digest = {"HS256": hashlib.sha256, "HS512": hashlib.sha512}[alg]
        return f"{unsigned_token}.{b64(hmac.new(secret(issuer), unsigned_token.encode(), digest).digest())}"

    return make


def public_pem(issuer: Issuer) -> bytes:
    return issuer.key("RS256").as_pem(private=False)


def public_der(issuer: Issuer) -> bytes:
    return issuer.key("RS256").as_der(private=False)


def public_jwk(issuer: Issuer) -> bytes:
    return json.dumps(issuer.key("RS256").as_dict(private=False)).encode()


def with_claims(**claims: Any) -> Callable[[Issuer], str]:
    """Good but for these claims. Numbers that are functions are given the present time."""

    def make(issuer: Issuer) -> str:
        now = int(issuer.now())
        return issuer.token(
            **{name: value(now) if callable(value) else value for name, value in claims.items()}
        )

    return make


def with_payload(change: Callable[[bytes], bytes]) -> Callable[[Issuer], str]:
    """Properly signed over a payload that `change` made from a good one."""
    return lambda issuer: issuer.sign(header_of(issuer), change(json.dumps(issuer.claims()).encode()))


def with_header(**members: Any) -> Callable[[Issuer], str]:
    return lambda issuer: issuer.sign(header_of(issuer) | members, issuer.claims())


def by_the_attacker(**members: Any) -> Callable[[Issuer], str]:
    """Signed with the attacker's key, whose whereabouts the header names in `members`."""

    def make(issuer: Issuer) -> str:
        own = make_key("ES256")
        given = {name: value(own) if callable(value) else value for name, value in members.items()}
        return issuer.sign(header_of(issuer, "ES256", **given), issuer.claims(), alg="ES256", key=own)

    return make


def certificate(key: Any) -> list[str]:
    """Not a certificate, but shaped like a header that carries one."""
    return [base64.b64encode(key.as_der(private=False)).decode()]


def withdrawn_key(issuer: Issuer) -> str:
    kid = issuer.rotate("ES256")
    token = issuer.token(alg="ES256")
    issuer.withdraw(kid)
    return token


def signature_of_another(issuer: Issuer) -> str:
    mine, other = issuer.token("mallory"), issuer.token("alice")
    return mine.rpartition(".")[0] + "." + other.rpartition(".")[2]


def payload_swapped(issuer: Issuer) -> str:
    token, wanted = issuer.token("mallory"), issuer.claims("admin", groups=["admins"])
    return respell(token, 1, lambda _: b64(json.dumps(wanted).encode()))


def der_signature(issuer: Issuer) -> str:
    """ECDSA in ASN.1 as OpenSSL writes it; JOSE wants the two bare numbers (RFC 7518 section 3.4)."""
    token = issuer.token(alg="ES256")
    private = serialization.load_pem_private_key(issuer.key("ES256").as_pem(private=True), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    signing_input = token.rpartition(".")[0]
    return signing_input + "." + b64(private.sign(signing_input.encode(), ec.ECDSA(hashes.SHA256())))


def ecdsa_signature(signature: bytes) -> Callable[[Issuer], str]:
    return lambda issuer: respell(issuer.token(alg="ES256"), 2, lambda _: b64(signature))


def jwe(issuer: Issuer) -> str:
    header = b64(json.dumps({"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": issuer.kid()}).encode())
    return ".".join((header, b64(b"k" * 256), b64(b"i" * 12), b64(b"c" * 200), b64(b"t" * 16)))


def json_serialisation(issuer: Issuer) -> str:
    protected, payload, signature = issuer.token().split(".")
    return json.dumps({"protected": protected, "payload": payload, "signature": signature})


def loose_bits(issuer: Issuer) -> str:
    """The last character of the signature carries bits that decode to nothing: a second spelling of a good token."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return respell(issuer.token(), 2, lambda sig: sig[:-1] + alphabet[alphabet.index(sig[-1]) + 1])


def nested(issuer: Issuer) -> str:
    return issuer.sign(header_of(issuer, cty="JWT"), issuer.token().encode())


BAD_TOKENS: dict[str, BadToken] = {
    # algorithms
    "alg-none": BadToken(unsigned("none"), "bad_algorithm"),
    "alg-None": BadToken(unsigned("None"), "bad_algorithm"),
    "alg-NONE": BadToken(unsigned("NONE"), "bad_algorithm"),
    "alg-nOnE": BadToken(unsigned("nOnE"), "bad_algorithm"),
    "alg-none-with-a-space": BadToken(unsigned("none "), "bad_algorithm"),
    "alg-empty": BadToken(unsigned(""), "bad_algorithm"),
    "alg-none-with-a-signature": BadToken(none_with_signature, "bad_algorithm"),
    "alg-missing": BadToken(lambda i: join({"typ": "JWT"}, i.claims(), b"x" * 256), "malformed"),
    "alg-is-a-list": BadToken(with_header(alg=["RS256"]), "malformed"),
    "alg-in-lower-case": BadToken(with_header(alg="rs256"), "bad_algorithm"),
    "hs256-with-the-public-pem": BadToken(hmac_with(public_pem), "bad_algorithm"),
    "hs256-with-the-public-der": BadToken(hmac_with(public_der), "bad_algorithm"),
    "hs512-with-the-public-jwk": BadToken(hmac_with(public_jwk, "HS512"), "bad_algorithm"),
    "hs256-with-an-empty-secret": BadToken(hmac_with(lambda _: b""), "bad_algorithm"),
    "rs384-not-configured": BadToken(with_header(alg="RS384"), "bad_algorithm"),
    "es256-with-an-rsa-kid": BadToken(
        lambda i: i.sign(header_of(i, "RS256") | {"alg": "ES256"}, i.claims(), alg="ES256"), "bad_algorithm"
    ),
    # time
    "expired": BadToken(with_claims(exp=lambda now: now - 3600), "expired"),
    "exp-missing": BadToken(with_claims(exp=None), "bad_claims"),
    "exp-is-text": BadToken(with_claims(exp=lambda now: str(now + 300)), "bad_claims"),
    "exp-is-a-float": BadToken(with_claims(exp=lambda now: now + 300.5), "bad_claims"),
    "exp-is-true": BadToken(with_claims(exp=True), "bad_claims"),
    "exp-is-huge": BadToken(with_claims(exp=10**18), "bad_claims"),
    "exp-beyond-64-bits": BadToken(with_claims(exp=10**40), "bad_claims"),
    "exp-is-negative": BadToken(with_claims(exp=-1), "bad_claims"),
    "exp-is-a-list": BadToken(with_claims(exp=lambda now: [now + 300]), "bad_claims"),
    "exp-overflows-a-double": BadToken(
        with_payload(lambda payload: payload.replace(b'"exp": ', b'"exp": 1e999, "was": ')), "malformed"
    ),
    "nbf-in-the-future": BadToken(with_claims(nbf=lambda now: now + 3600), "not_yet_valid"),
    "nbf-is-text": BadToken(with_claims(nbf="tomorrow"), "bad_claims"),
    "iat-in-the-future": BadToken(
        with_claims(iat=lambda now: now + 3600, exp=lambda now: now + 7200), "not_yet_valid"
    ),
    # audience, issuer, subject
    "wrong-audience": BadToken(with_claims(aud="another-api"), "wrong_audience"),
    "audience-missing": BadToken(with_claims(aud=None), "wrong_audience"),
    "audience-list-without-us": BadToken(with_claims(aud=["another-api", "a-third"]), "wrong_audience"),
    "audience-is-a-longer-name": BadToken(lambda i: i.token(aud=i.audience + "-admin"), "wrong_audience"),
    "audience-is-an-object": BadToken(lambda i: i.token(aud={i.audience: True}), "bad_claims"),
    "audience-with-a-number": BadToken(lambda i: i.token(aud=[i.audience, 7]), "bad_claims"),
    "wrong-issuer": BadToken(with_claims(iss="https://attacker.test"), "unknown_issuer"),
    "issuer-with-a-slash-more": BadToken(lambda i: i.token(iss=i.issuer + "/"), "unknown_issuer"),
    "issuer-missing": BadToken(lambda i: i.token(iss=None), "unknown_issuer"),
    "issuer-is-a-list": BadToken(lambda i: i.token(iss=[i.issuer]), "unknown_issuer"),
    "subject-missing": BadToken(with_claims(sub=None), "bad_claims"),
    "subject-empty": BadToken(with_claims(sub=""), "bad_claims"),
    "subject-is-a-number": BadToken(with_claims(sub=7), "bad_claims"),
    "subject-with-a-line-break": BadToken(with_claims(sub="alice\nadmin"), "bad_claims"),
    "subject-with-a-bidi-override": BadToken(with_claims(sub="alice\u202eadmin"), "bad_claims"),
    # keys
    "unknown-kid": BadToken(with_header(kid="no-such-key"), "unknown_key"),
    "kid-path-traversal": BadToken(with_header(kid="../../../../dev/null"), "unknown_key"),
    "kid-sql": BadToken(with_header(kid="x' UNION SELECT 'secret'--"), "unknown_key"),
    "kid-is-a-url": BadToken(with_header(kid=ATTACKER), "unknown_key"),
    "kid-is-too-long": BadToken(with_header(kid="k" * 300), "malformed"),
    "kid-is-a-number": BadToken(with_header(kid=1), "malformed"),
    "kid-empty": BadToken(with_header(kid=""), "malformed"),
    "withdrawn-key": BadToken(withdrawn_key, "unknown_key"),
    "jku-of-the-attacker": BadToken(by_the_attacker(jku=ATTACKER), "bad_signature"),
    "jku-with-an-unknown-kid": BadToken(by_the_attacker(jku=ATTACKER, kid="attackers"), "unknown_key"),
    "x5u-of-the-attacker": BadToken(by_the_attacker(x5u=ATTACKER), "bad_signature"),
    "embedded-jwk": BadToken(by_the_attacker(jwk=lambda key: key.as_dict(private=False)), "bad_signature"),
    "embedded-certificate": BadToken(by_the_attacker(x5c=certificate), "bad_signature"),
    "key-of-another-algorithm": BadToken(
        lambda i: i.sign(header_of(i, "EdDSA") | {"kid": i.kid("ES256")}, i.claims(), alg="EdDSA"),
        "bad_algorithm",
    ),
    # signatures
    "empty-signature": BadToken(lambda i: respell(i.token(), 2, lambda _: ""), "bad_signature"),
    "signature-of-another-token": BadToken(signature_of_another, "bad_signature"),
    "payload-swapped": BadToken(payload_swapped, "bad_signature"),
    "signature-cut": BadToken(lambda i: respell(i.token(), 2, lambda sig: sig[:-6]), "bad_signature"),
    "es256-signature-in-der": BadToken(der_signature, "bad_signature"),
    "es256-signature-of-zeros": BadToken(ecdsa_signature(bytes(64)), "bad_signature"),
    "es256-signature-of-the-order": BadToken(
        ecdsa_signature(
            bytes.fromhex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551") * 2
        ),
        "bad_signature",
    ),
    "eddsa-signature-of-zeros": BadToken(
        lambda i: respell(i.token(alg="EdDSA"), 2, lambda _: b64(bytes(64))), "bad_signature"
    ),
    # form
    "padded": BadToken(
        lambda i: respell(i.token(), 1, lambda part: part + "=" * (-len(part) % 4 or 4)), "malformed"
    ),
    "standard-base64": BadToken(lambda i: respell(i.token(), 2, lambda _: "+/+/" * 64), "malformed"),
    "outside-the-alphabet": BadToken(
        lambda i: respell(i.token(), 1, lambda p: p[:9] + "~" + p[9:]), "malformed"
    ),
    "space-inside": BadToken(lambda i: respell(i.token(), 1, lambda p: p[:9] + " " + p[9:]), "malformed"),
    "tab-inside": BadToken(lambda i: respell(i.token(), 1, lambda p: p[:9] + "\t" + p[9:]), "malformed"),
    "loose-bits": BadToken(loose_bits, "malformed"),
    "two-parts": BadToken(lambda i: i.token().rpartition(".")[0], "malformed"),
    "four-parts": BadToken(lambda i: i.token() + ".AAAA", "malformed"),
    "one-part": BadToken(lambda i: b64(b"not a token"), "malformed"),
    "dots-alone": BadToken(lambda i: "..", "malformed"),
    "jwe": BadToken(jwe, "malformed"),
    "json-serialisation": BadToken(json_serialisation, "malformed"),
    "nested": BadToken(nested, "malformed"),
    "huge": BadToken(lambda i: i.token(filler="x" * MAX_TOKEN), "too_large"),
    "deep": BadToken(
        with_payload(lambda p: p[:-1] + b', "deep": ' + b"[" * 4000 + b"]" * 4000 + b"}"), "malformed"
    ),
    "nested-claims": BadToken(
        with_payload(lambda p: p[:-1] + b', "d": ' + b"[" * 40 + b"]" * 40 + b"}"), "bad_claims"
    ),
    # header and payload
    "duplicate-header": BadToken(
        lambda i: i.sign(json.dumps(header_of(i)).encode()[:-1] + b', "alg": "none"}', i.claims()),
        "malformed",
    ),
    "duplicate-claim": BadToken(with_payload(lambda p: p[:-1] + b', "sub": "admin"}'), "malformed"),
    "duplicate-claim-by-escape": BadToken(
        with_payload(lambda p: p[:-1] + b', "s\\u0075b": "admin"}'), "malformed"
    ),
    "header-is-a-list": BadToken(lambda i: i.sign(b'["RS256"]', i.claims()), "malformed"),
    "header-is-no-json": BadToken(lambda i: i.sign(b"alg: RS256", i.claims()), "malformed"),
    "payload-is-no-json": BadToken(with_payload(lambda p: p[:-1]), "malformed"),
    "payload-is-a-string": BadToken(with_payload(lambda p: b'"alice"'), "malformed"),
    "payload-is-no-utf8": BadToken(with_payload(lambda p: p.replace(b"alice", b"al\xffce")), "malformed"),
    "payload-with-a-lone-surrogate": BadToken(
        with_payload(lambda p: p.replace(b"alice", b"al\\ud800")), "malformed"
    ),
    "payload-with-nan": BadToken(with_payload(lambda p: p[:-1] + b', "n": NaN}'), "malformed"),
    "payload-with-a-bom": BadToken(with_payload(lambda p: b"\xef\xbb\xbf" + p), "malformed"),
    "crit": BadToken(with_header(crit=["exp"]), "malformed"),
    "crit-unknown": BadToken(with_header(crit=["x-policy"], **{"x-policy": "none"}), "malformed"),
    "b64-false": BadToken(with_header(b64=False), "malformed"),
    "b64-true": BadToken(with_header(b64=True), "malformed"),
    "typ-of-a-logout-token": BadToken(with_header(typ="logout+jwt"), "malformed"),
    "typ-of-a-dpop-proof": BadToken(with_header(typ="dpop+jwt"), "malformed"),
    "typ-is-a-number": BadToken(with_header(typ=1), "malformed"),
}
"""By the defect, in the words that failing tests show."""


def unverified_email(issuer: Issuer) -> str:
    """A good token whose issuer says that the mail address is not verified: it must not name the person."""
    return issuer.token("bob", email="alice@example.com", email_verified=False)
