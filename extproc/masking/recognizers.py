"""Recognizers find. Each row of the table says how a kind of value looks and how a candidate is confirmed.

Patterns are RE2 over UTF-8 bytes (Latin-1 mode, so any byte from 0x80 up counts as a letter of some script):
linear time on any input. `look` is a cheap pattern for the one `re2.Set` that is the first look over a whole body;
only recognizers whose `look` (and `context`, when they need one) occurs are searched with `pattern`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from extproc.domain.errors import PolicyError
from extproc.masking import confirm
from extproc.masking.checksums import IBAN_LENGTHS
from extproc.masking.confirm import Confirm, load_phone_numbers
from extproc.masking.literals import LITERAL, literal_pattern

RECOGNIZERS_VERSION = 1
"""Grows with every change that may find more, less or something else; part of each masker's digest."""

CONTEXT_BYTES = 64
"""How far before a candidate its context words may stand."""


@dataclass(frozen=True, slots=True)
class Recognizer:
    """How one kind of value is found. Several rows may find the same entity; a lower `priority` wins a tie.

    After a refused candidate the search goes on behind it, or `head` bytes after its start where a candidate may
    overlap the next. `cost` is what its confirmation takes from the budget.
    """

    entity: str
    look: bytes
    pattern: bytes
    priority: int
    confirm: Confirm | None = None
    context: bytes = b""
    head: int = 0
    cost: int = 0


def build_recognizers(entities: Sequence[str], literals: Sequence[str]) -> tuple[Recognizer, ...]:
    """The rows for `entities`, and one for `literals`. Raises PolicyError: unknown entity, too short a literal."""
    unknown = sorted(set(entities) - set(ENTITIES))
    if unknown:
        raise PolicyError(f'unknown entity "{unknown[0]}" (known: {", ".join(ENTITIES)})')
    wanted = set(entities)
    if "PHONE_NUMBER" in wanted:
        load_phone_numbers()
    rows = [row for row in TABLE if row.entity in wanted]
    if literals:
        pattern, confirmed = literal_pattern(literals)
        rows.append(Recognizer(LITERAL, look=pattern, pattern=pattern, priority=0, confirm=confirmed))
    return tuple(rows)


def before_candidate(text: bytes, start: int, before: bytes) -> bytes:
    """The bytes in which context words count: from the nearest JSON key on, if one is near."""
    window = text[max(0, start - CONTEXT_BYTES) : start]
    if len(window) < CONTEXT_BYTES:
        window = before[len(window) - CONTEXT_BYTES :] + window
    nearest = -1
    for match in _KEY.finditer(window):
        nearest = match.start()
    return window if nearest < 0 else window[nearest:]


def table_digest() -> str:
    """Names this version of the table: changes with any pattern and with `RECOGNIZERS_VERSION`."""
    parts = [str(RECOGNIZERS_VERSION).encode()]
    for row in TABLE:
        parts += [row.entity.encode(), row.look, row.pattern, row.context]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


_GAP = rb"(?:[ .\-]|\xc2\xa0|\xe2\x80[\x90-\x95\xaf])"
"""Space, dot, hyphen; no-break space, narrow no-break space, the Unicode hyphens and dashes in UTF-8."""
_EDGE = rb"(?:^|[^0-9A-Za-z])"
_AT = rb"(?:@|%40|\\u0040|&#0*64;|&#[xX]0*40;|&commat;)"
_LOCAL = rb"[0-9A-Za-z_\x80-\xff][0-9A-Za-z_.%+'\x80-\xff\-]*"
_LABEL = rb"[0-9A-Za-z\x80-\xff](?:[0-9A-Za-z\x80-\xff\-]*[0-9A-Za-z\x80-\xff])?"
_TOP = rb"(?:[xX][nN]--[0-9A-Za-z\-]+|[A-Za-z\x80-\xff]{2,})"
_KEY = re.compile(rb'"[^"\\]*"\s*:')
_COUNTRIES = b"|".join(country.encode() for country in IBAN_LENGTHS)
_IBAN = rb"(?i:" + _COUNTRIES + rb")[0-9]{2}(?:(?:[ \-]|\xc2\xa0)?[0-9A-Za-z]){11}"
_PHONE_WORDS = rb"(?i)phone|mobile|(?:\b|_)cell|telefon|(?:\b|_)tel(?:\b|_)|fax|msisdn|whatsapp|(?:\b|_)sms"
_SSN_WORDS = rb"(?i)ssn|social.{0,2}sec|ss#|taxpayer|tax.{0,2}id"
_SECRET_WORDS = rb"(?i)aws.{0,20}(?:secret|key)|secret.{0,2}(?:access.{0,2})?key"

TABLE: tuple[Recognizer, ...] = (
    Recognizer(
        "PEM_PRIVATE_KEY",
        look=rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY",
        pattern=rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?(?:-----)?",
        priority=1,
        confirm=confirm.confirm_pem,
    ),
    Recognizer(
        "JWT",
        look=rb"ey[0-9A-Za-z_\-]{9,}\.",
        pattern=rb"ey[0-9A-Za-z_\-]{9,}(?:\.[0-9A-Za-z_\-]*){1,4}",
        priority=2,
        confirm=confirm.confirm_jwt,
    ),
    Recognizer(
        "AWS_ACCESS_KEY",
        look=rb"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}",
        pattern=rb"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}",
        priority=3,
        confirm=confirm.confirm_access_key,
    ),
    Recognizer(
        "AWS_SECRET_KEY",
        look=rb"[0-9A-Za-z/+]{40}",
        pattern=rb"[0-9A-Za-z/+]{40}",
        priority=4,
        confirm=confirm.confirm_secret_key,
        context=_SECRET_WORDS,
    ),
    Recognizer(
        "EMAIL_ADDRESS",
        look=rb"[0-9A-Za-z_.%+'\x80-\xff\-](?i:" + _AT + rb")[0-9A-Za-z\x80-\xff\\&%]",
        pattern=_LOCAL + rb"(?i:" + _AT + rb")(?:" + _LABEL + rb"\.)+" + _TOP,
        priority=5,
        confirm=confirm.confirm_email,
    ),
    Recognizer(
        "IBAN_CODE",
        look=_EDGE + _IBAN,
        pattern=_IBAN,
        priority=6,
        confirm=confirm.confirm_iban,
        head=4,
    ),
    Recognizer(
        "CREDIT_CARD",
        look=rb"[2-9](?:" + _GAP + rb"?[0-9]){11}",
        pattern=rb"[0-9](?:" + _GAP + rb"?[0-9]){11,}",
        priority=7,
        confirm=confirm.confirm_card,
    ),
    Recognizer(
        "US_SSN",
        look=_EDGE + rb"[0-8][0-9]{2}-[0-9]{2}-[0-9]{4}",
        pattern=rb"[0-9]{3}-[0-9]{2}-[0-9]{4}",
        priority=8,
        confirm=confirm.confirm_ssn,
    ),
    Recognizer(
        "US_SSN",
        look=_EDGE + rb"[0-8][0-9]{2}[ .]?[0-9]{2}[ .]?[0-9]{4}",
        pattern=rb"[0-9]{3}[ .]?[0-9]{2}[ .]?[0-9]{4}",
        priority=8,
        confirm=confirm.confirm_ssn,
        context=_SSN_WORDS,
    ),
    Recognizer(
        "PHONE_NUMBER",
        look=rb"\+[ (]{0,2}[0-9](?:[ ().\-/]{0,3}[0-9]){6}",
        pattern=rb"\+[ (]{0,2}[0-9](?:[ ().\-/]{0,3}[0-9]){6,24}",
        priority=9,
        cost=2,
        confirm=confirm.confirm_international,
    ),
    Recognizer(
        "PHONE_NUMBER",
        look=_EDGE + rb"00[1-9](?:[ ().\-/]{0,3}[0-9]){6}",
        pattern=rb"00[1-9](?:[ ().\-/]{0,3}[0-9]){6,24}",
        priority=9,
        cost=2,
        confirm=confirm.confirm_international,
    ),
    Recognizer(
        "PHONE_NUMBER",
        look=rb"\(?[2-9][0-9]{2}\)?[ .\-]{1,2}[2-9][0-9]{2}[ .\-][0-9]{4}",
        pattern=rb"(?:1[ .\-])?\(?[2-9][0-9]{2}\)?[ .\-]{1,2}[2-9][0-9]{2}[ .\-][0-9]{4}",
        priority=9,
        cost=2,
        confirm=confirm.confirm_north_american,
    ),
    Recognizer(
        "PHONE_NUMBER",
        look=_EDGE + rb"\(?[0-9](?:[ ().\-/]{0,3}[0-9]){6}",
        pattern=rb"\(?[0-9](?:[ ().\-/]{0,3}[0-9]){6,24}",
        priority=9,
        cost=2,
        confirm=confirm.confirm_named_phone,
        context=_PHONE_WORDS,
    ),
    Recognizer(
        "IP_ADDRESS",
        look=rb"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
        pattern=rb"(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
        priority=10,
        confirm=confirm.confirm_ipv4,
    ),
    Recognizer(
        "IP_ADDRESS",
        look=rb"(?:[0-9A-Fa-f]{1,4}:){5}|::[0-9A-Fa-f]|[0-9A-Fa-f]::",
        pattern=rb"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,}(?:\.[0-9]{1,3}){0,3}",
        priority=10,
        confirm=confirm.confirm_ipv6,
    ),
)
ENTITIES: tuple[str, ...] = tuple(dict.fromkeys(row.entity for row in TABLE))
"""Every entity a mask may name. LITERAL is added by configuration, not by name."""
