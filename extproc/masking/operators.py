"""Operators change what was found. One table, ordered by strictness: the strictest wins wherever several meet.

`apply(entity, text)` returns the new text, or None for JSON null. No operator's result is ever empty by accident:
`redact` is the only one that removes. Results never match a recognizer again.
"""

from __future__ import annotations

import hashlib
import hmac as keyed
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from extproc.domain.errors import PolicyError
from extproc.domain.mask import MaskSpec

STRICTNESS: dict[str, int] = {
    "keep": 0,
    "partial": 1,
    "hash": 2,
    "hmac": 2,
    "null": 3,
    "replace": 4,
    "redact": 4,
}
"""redact and replace are equally strict, as are hash and hmac: none of the pair shows anything of the value."""

MIN_KEY_BYTES = 16
WHOLE_VALUE = frozenset({"null", "replace", "redact"})
"""Operators that replace a whole JSON object or array; the others reach for every scalar below it."""

Change = Callable[[str, str], str | None]


@dataclass(frozen=True, slots=True)
class MaskSecrets:
    """What makes digests unguessable: the salt of `hash`, the key of `hmac`. At least 16 bytes each when used."""

    hash_salt: bytes = field(repr=False)
    hmac_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Operator:
    """A configured operator. `order` decides between operators at one spot: the greatest is applied."""

    name: str
    order: tuple[int, int, int, str]
    apply: Change
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def rank(self) -> int:
        """Its place in `STRICTNESS`."""
        return self.order[0]


def build_operator(spec: MaskSpec, secrets: MaskSecrets) -> Operator:
    """The operator that `spec` names, configured. Raises PolicyError: unknown name, bad parameter, weak key."""
    build = _BUILD.get(spec.operator)
    if build is None:
        known = ", ".join(_BUILD)
        raise PolicyError(f'mask "{spec.name}": unknown operator "{spec.operator}" (known: {known})')
    change, parameters = build(spec, secrets)
    # ties: the keyed digest before the salted one, redact before replace, fewer characters kept, then the text
    tie = 1 if spec.operator in ("hmac", "redact") else 0
    keep = -spec.keep_last if spec.operator == "partial" else 0
    text = spec.replacement if spec.operator == "replace" else ""
    order = (STRICTNESS[spec.operator], tie, keep, text)
    return Operator(spec.operator, order, change, parameters)


def strictest(first: Operator | None, second: Operator | None) -> Operator | None:
    """The stricter of two operators, the same whichever comes first."""
    if first is None or second is None:
        return first or second
    return first if first.order >= second.order else second


Built = tuple[Change, tuple[tuple[str, str], ...]]


def _build_keep(spec: MaskSpec, secrets: MaskSecrets) -> Built:
    return lambda _, text: text, ()


def _build_redact(spec: MaskSpec, secrets: MaskSecrets) -> Built:
    return lambda _, __: "", ()


def _build_null(spec: MaskSpec, secrets: MaskSecrets) -> Built:
    return lambda _, __: None, ()


def _build_replace(spec: MaskSpec, secrets: MaskSecrets) -> Built:
    fixed = spec.replacement
    if fixed:
        return lambda _, __: fixed, (("replacement", fixed),)
    return lambda entity, _: f"[{entity}]", ()


def _build_hash(spec: MaskSpec, secrets: MaskSecrets) -> Built:
    from presidio_anonymizer.operators import Hash

    salt = _strong(spec, "hash salt", secrets.hash_salt)
    operator = Hash()
    parameters = {Hash.SALT: salt, Hash.HASH_TYPE: Hash.SHA256}

    def change(_: str, text: str) -> str:
        return str(operator.operate(_encodable(text), parameters))

    return change, (("salt", _tag(secrets, b"salt", salt)),)


def _build_hmac(spec: MaskSpec, secrets: MaskSecrets) -> Built:
    key = _strong(spec, "HMAC key", secrets.hmac_key)

    def change(_: str, text: str) -> str:
        return keyed.digest(key, text.encode("utf-8", "surrogatepass"), "sha256").hex()

    return change, (("key", _tag(secrets, b"key", key)),)


def _build_partial(spec: MaskSpec, secrets: MaskSecrets) -> Built:
    from presidio_anonymizer.operators import Mask

    if spec.keep_last < 0:
        raise PolicyError(f'mask "{spec.name}": keep_last must not be negative')
    keep = spec.keep_last
    operator = Mask()

    def plain(text: str) -> str:
        hidden = len(text) if len(text) <= keep else len(text) - keep
        parameters = {Mask.MASKING_CHAR: "*", Mask.CHARS_TO_MASK: hidden, Mask.FROM_END: False}
        return str(operator.operate(text, parameters))

    def change(entity: str, text: str) -> str:
        if entity in _OPAQUE:
            return "********"
        shape = _SHAPES.get(entity)
        return shape(text, keep) if shape is not None else plain(text)

    return change, (("keep_last", str(keep)),)


_BUILD: dict[str, Callable[[MaskSpec, MaskSecrets], Built]] = {
    "keep": _build_keep,
    "partial": _build_partial,
    "hash": _build_hash,
    "hmac": _build_hmac,
    "null": _build_null,
    "replace": _build_replace,
    "redact": _build_redact,
}


def _partial_email(text: str, keep: int) -> str:
    """First character and domain. An address of one character, or `keep_last: 0`, shows the domain alone."""
    at = _AT_SIGN.search(text)
    if at is None:
        return _partial_digits(text, keep)
    shown = text[0] if keep and at.start() > 1 else ""
    return f"{shown}***{text[at.start() :]}"


def _partial_digits(text: str, keep: int) -> str:
    """The last `keep` letters and digits and every separator: `**** **** **** 1111`."""
    significant = sum(char.isalnum() for char in text)
    hidden = significant if significant <= keep else significant - keep
    out: list[str] = []
    for char in text:
        if char.isalnum() and hidden:
            out.append("*")
            hidden -= 1
        else:
            out.append(char)
    return "".join(out)


def _partial_address(text: str, keep: int) -> str:
    """The first two groups, which name a network and not a host; `keep_last: 0` shows nothing."""
    if not keep:
        return "*"
    if ":" in text:
        head = [group for group in text.split(":")[:2] if group and "." not in group]
        return ":".join([*head, "*"])
    first, second, *_ = text.split(".")
    return f"{first}.{second}.*.*"


_SHAPES: dict[str, Callable[[str, int], str]] = {
    "EMAIL_ADDRESS": _partial_email,
    "CREDIT_CARD": _partial_digits,
    "IBAN_CODE": _partial_digits,
    "US_SSN": _partial_digits,
    "PHONE_NUMBER": _partial_digits,
    "IP_ADDRESS": _partial_address,
}
_OPAQUE = frozenset({"JWT", "AWS_ACCESS_KEY", "AWS_SECRET_KEY", "PEM_PRIVATE_KEY", "LITERAL"})
"""Of a secret nothing may show, not even its length."""
_AT_SIGN = re.compile(r"@|%40|\\u0040|&#0*64;|&#x0*40;|&commat;", re.IGNORECASE)


def _strong(spec: MaskSpec, what: str, secret: bytes) -> bytes:
    if len(secret) < MIN_KEY_BYTES:
        raise PolicyError(
            f'mask "{spec.name}": operator "{spec.operator}" needs a {what} of at least {MIN_KEY_BYTES} bytes'
        )
    return secret


def _tag(secrets: MaskSecrets, label: bytes, secret: bytes) -> str:
    """Names a secret without telling it, so that a changed salt changes the digest of the plan."""
    key = secrets.hmac_key + secrets.hash_salt
    return keyed.digest(key, b"extproc mask " + label + hashlib.sha256(secret).digest(), "sha256").hex()[:16]


def _encodable(text: str) -> str:
    """Lone surrogates, which UTF-8 cannot carry, are spelled out."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text
