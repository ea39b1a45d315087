"""Recognizers find. Each row of the table says how a kind of value looks and how a candidate is confirmed.

Patterns are RE2 over UTF-8 bytes (Latin-1 mode, so any byte from 0x80 up counts as a letter of some script):
linear time on any input. `look` is a cheap pattern for the one `re2.Set` that is the first look over a whole body;
only recognizers whose `look` (and `context`, when they need one) occurs are searched with `pattern`.
A confirmation gets the text, the candidate and the bytes before the text, and returns the spans that are real.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus

import re2

from extproc.domain.errors import PolicyError
from extproc.masking.checksums import IBAN_LENGTHS, is_card_number, is_iban

RECOGNIZERS_VERSION = 1
"""Grows with every change that may find more, less or something else; part of each masker's digest."""

CONTEXT_BYTES = 64
"""How far before a candidate its context words may stand."""

MIN_LITERAL = 8

Spans = Iterable[tuple[int, int]]
Confirm = Callable[[bytes, int, int, bytes], Spans]


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
        rows.append(_literal_row(literals))
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


@functools.cache
def load_phone_numbers() -> Any:
    """Import `phonenumbers` with all regions; about a quarter of a second, so at load and never on the request path."""
    import phonenumbers
    from phonenumbers.phonemetadata import PhoneMetadata

    PhoneMetadata.load_all()
    return phonenumbers


# --- what may stand between the digits of a number, and around it -----------------------------------------------

_GAP = rb"(?:[ .\-]|\xc2\xa0|\xe2\x80[\x90-\x95\xaf])"
"""Space, dot, hyphen; no-break space, narrow no-break space, the Unicode hyphens and dashes in UTF-8."""
_EDGE = rb"(?:^|[^0-9A-Za-z])"
_AT = rb"(?:@|%40|\\u0040|&#0*64;|&#[xX]0*40;|&commat;)"
_LOCAL = rb"[0-9A-Za-z_\x80-\xff][0-9A-Za-z_.%+'\x80-\xff\-]*"
_LABEL = rb"[0-9A-Za-z\x80-\xff](?:[0-9A-Za-z\x80-\xff\-]*[0-9A-Za-z\x80-\xff])?"
_TOP = rb"(?:[xX][nN]--[0-9A-Za-z\-]+|[A-Za-z\x80-\xff]{2,})"
_KEY = re.compile(rb'"[^"\\]*"\s*:')
_DIGITS = re.compile(rb"[0-9]+")
_PIXEL_RATIO = re.compile(rb"[0-9]+x\.(?:png|jpe?g|gif|webp|svg|avif)", re.IGNORECASE)
_BASE64_CHAR = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")


def _is_word(text: bytes, at: int) -> bool:
    """Whether the byte at `at` is an ASCII letter or digit; outside the text there is none."""
    return 0 <= at < len(text) and text[at : at + 1].isalnum()


def _is_digit(text: bytes, at: int) -> bool:
    return 0 <= at < len(text) and 0x30 <= text[at] <= 0x39


def _continues(text: bytes, start: int, end: int, joints: bytes = b".-") -> bool:
    """Whether the number goes on beyond the candidate: a fraction, a longer dashed or dotted number."""
    return (start > 1 and text[start - 1] in joints and _is_digit(text, start - 2)) or (
        end + 1 < len(text) and text[end] in joints and _is_digit(text, end + 1)
    )


# --- confirmations ----------------------------------------------------------------------------------------------


def _confirm_email(text: bytes, start: int, end: int, before: bytes) -> Spans:
    domain = text[start:end].rpartition(b"@")[2]
    if _PIXEL_RATIO.fullmatch(domain):  # icon@2x.png
        return ()
    return ((start, end),)


def _confirm_card(text: bytes, start: int, end: int, before: bytes) -> Spans:
    """A candidate is a whole run of digit groups; some neighbouring groups in it may make up a card number."""
    groups = [match.span() for match in _DIGITS.finditer(text, start, end)]
    found: list[tuple[int, int]] = []
    first = 0
    while first < len(groups):
        last = _card_from(text, groups, first)
        if last >= 0:
            found.append((groups[first][0], groups[last][1]))
        first = max(first, last) + 1
    return found


def _card_from(text: bytes, groups: list[tuple[int, int]], first: int) -> int:
    """Index of the last group of a card number that begins at group `first`; -1 if there is none.

    Groups of one or two digits belong to dates and tables; only the last may be that short.
    """
    start = groups[first][0]
    digits = b""
    for index in range(first, min(first + 6, len(groups))):
        begin, end = groups[index]
        digits += text[begin:end]
        if len(digits) > 19:
            return -1
        if len(digits) >= 12 and is_card_number(digits.decode("ascii")):
            dotted = index > first and text[groups[first][1]] == 0x2E
            whole = not (_is_word(text, start - 1) or _is_word(text, end))
            if whole and (index > first + 1 if dotted else not _continues(text, start, end, b".")):
                return index
        if end - begin < 3:
            return -1
    return -1


def _confirm_iban(text: bytes, start: int, end: int, before: bytes) -> Spans:
    if _is_word(text, start - 1):
        return ()
    length = IBAN_LENGTHS.get(text[start : start + 2].decode("ascii").upper())
    if length is None:
        return ()
    compact = bytearray()
    at = start
    gap = False
    while at < len(text) and len(compact) < length:
        byte = text[at]
        if _is_word(text, at):
            compact.append(byte)
            gap = False
        elif byte in b" -" and not gap:
            gap = True
        elif text[at : at + 2] == b"\xc2\xa0" and not gap:
            gap = True
            at += 1
        else:
            return ()
        at += 1
    if len(compact) < length or _is_word(text, at) or not is_iban(compact.decode("ascii").upper()):
        return ()
    return ((start, at),)


def _confirm_ssn(text: bytes, start: int, end: int, before: bytes) -> Spans:
    digits = bytes(byte for byte in text[start:end] if 0x30 <= byte <= 0x39)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    refused = area in (b"000", b"666") or area >= b"900" or group == b"00" or serial == b"0000"
    if refused or _is_word(text, start - 1) or _is_word(text, end) or _continues(text, start, end):
        return ()
    if len(digits) < end - start and text[start + 3] != text[end - 5]:  # 123-45 6789 is no one's spelling
        return ()
    return ((start, end),)


def _confirm_international(text: bytes, start: int, end: int, before: bytes) -> Spans:
    """`+` or `00` and a number that exists; what trails it (a date, another number) is cut off."""
    if _is_word(text, start - 1):
        return ()
    for stop in _stops(text, start, end):
        candidate = text[start:stop].decode("latin-1")
        if candidate.startswith("00"):
            candidate = f"+{candidate[2:]}"
        if _is_phone(candidate, None):
            return ((start, stop),)
    return ()


def _confirm_north_american(text: bytes, start: int, end: int, before: bytes) -> Spans:
    if _is_word(text, start - 1) or _is_word(text, end) or _continues(text, start, end):
        return ()
    return ((start, end),) if _is_phone(text[start:end].decode("latin-1"), "US") else ()


def _confirm_named_phone(text: bytes, start: int, end: int, before: bytes) -> Spans:
    """A bare number that context words call a phone number: valid in one of the regions, or with its `+` left out."""
    if _is_word(text, start - 1) or _is_word(text, end):
        return ()
    for stop in _stops(text, start, end):
        candidate = text[start:stop].decode("latin-1")
        if any(_is_phone(candidate, region) for region in PHONE_REGIONS) or _is_phone(f"+{candidate}", None):
            return ((start, stop),)
    return ()


PHONE_REGIONS = ("US", "GB", "DE", "FR", "IN", "BR", "AU")
"""Where a national number is tried when context words call it a phone number."""


def _stops(text: bytes, start: int, end: int) -> list[int]:
    """Ends of the digit groups of a candidate, longest first, at most six; an end inside a word does not count."""
    stops = [match.end() for match in _DIGITS.finditer(text, start, end)]
    return [stop for stop in reversed(stops[-6:]) if stop - start >= 7 and not _is_word(text, stop)]


def _is_phone(candidate: str, region: str | None) -> bool:
    phonenumbers = load_phone_numbers()
    try:
        number = phonenumbers.parse(candidate, region)
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_valid_number(number))


def _confirm_ipv4(text: bytes, start: int, end: int, before: bytes) -> Spans:
    if _is_word(text, start - 1) or _is_word(text, end) or _continues(text, start, end, b"."):
        return ()
    product = start > 1 and text[start - 1] == 0x2F and _is_word(text, start - 2)
    if product and text[start:end].endswith(b".0.0.0"):  # Chrome/120.0.0.0
        return ()
    return ((start, end),)


def _confirm_ipv6(text: bytes, start: int, end: int, before: bytes) -> Spans:
    if _is_word(text, start - 1) or _is_word(text, end) or end - start > 45:
        return ()
    address = text[start:end].decode("ascii")
    if address.endswith(".") or (address.endswith(":") and not address.endswith("::")):
        address = address[:-1]  # the end of a sentence
    if "::" not in address and address.count(":") < 6:  # a time of day, a hardware address
        return ()
    groups = [group for group in address.split(":") if group]
    if not any(char.isdigit() for char in address) and len(groups) < 4:  # std::vector, add::bad
        return ()
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return ()
    return ((start, start + len(address)),)


def _confirm_jwt(text: bytes, start: int, end: int, before: bytes) -> Spans:
    """Three or five parts (RFC 7515, 7516), or two where a log cut it; the header must name an algorithm."""
    if _is_word(text, start - 1):
        return ()
    header = text[start:end].partition(b".")[0]
    try:
        decoded = base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4))
    except ValueError:
        return ()
    return ((start, end),) if b'"alg"' in decoded else ()


def _confirm_secret_key(text: bytes, start: int, end: int, before: bytes) -> Spans:
    if start > 0 and text[start - 1] in _BASE64_CHAR:
        return ()
    if end < len(text) and (text[end] in _BASE64_CHAR or text[end] == 0x3D):
        return ()
    key = text[start:end]
    mixed = key != key.lower() and key != key.upper() and any(0x30 <= byte <= 0x39 for byte in key)
    return ((start, end),) if mixed else ()


def _confirm_access_key(text: bytes, start: int, end: int, before: bytes) -> Spans:
    return () if _is_word(text, start - 1) or _is_word(text, end) else ((start, end),)


def _confirm_pem(text: bytes, start: int, end: int, before: bytes) -> Spans:
    """To the END line; where that is missing, as far as the text still looks like the inside of a key."""
    stop = text.find(b"-----END", end, end + _PEM_LIMIT)
    if stop >= 0:
        close = _PEM_END.match(text, stop)
        return ((start, close.end() if close else stop + 8),)
    inside = _PEM_BODY.match(text, end)
    return ((start, inside.end() if inside else end),)


_PEM_LIMIT = 16384
_PEM_END = re.compile(rb"-----END [A-Z0-9 ]{0,40}(?:-----)?")
_PEM_BODY = re.compile(rb"(?:[0-9A-Za-z+/=:,.\-\s]|\\)*")

# --- the table --------------------------------------------------------------------------------------------------

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
        confirm=_confirm_pem,
    ),
    Recognizer(
        "JWT",
        look=rb"ey[0-9A-Za-z_\-]{9,}\.",
        pattern=rb"ey[0-9A-Za-z_\-]{9,}(?:\.[0-9A-Za-z_\-]*){1,4}",
        priority=2,
        confirm=_confirm_jwt,
    ),
    Recognizer(
        "AWS_ACCESS_KEY",
        look=rb"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}",
        pattern=rb"(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}",
        priority=3,
        confirm=_confirm_access_key,
    ),
    Recognizer(
        "AWS_SECRET_KEY",
        look=rb"[0-9A-Za-z/+]{40}",
        pattern=rb"[0-9A-Za-z/+]{40}",
        priority=4,
        confirm=_confirm_secret_key,
        context=_SECRET_WORDS,
    ),
    Recognizer(
        "EMAIL_ADDRESS",
        look=rb"[0-9A-Za-z_.%+'\x80-\xff\-](?i:" + _AT + rb")[0-9A-Za-z\x80-\xff\\&%]",
        pattern=_LOCAL + rb"(?i:" + _AT + rb")(?:" + _LABEL + rb"\.)+" + _TOP,
        priority=5,
        confirm=_confirm_email,
    ),
    Recognizer(
        "IBAN_CODE",
        look=_EDGE + _IBAN,
        pattern=_IBAN,
        priority=6,
        confirm=_confirm_iban,
        head=4,
    ),
    Recognizer(
        "CREDIT_CARD",
        look=rb"[2-9](?:" + _GAP + rb"?[0-9]){11}",
        pattern=rb"[0-9](?:" + _GAP + rb"?[0-9]){11,}",
        priority=7,
        confirm=_confirm_card,
    ),
    Recognizer(
        "US_SSN",
        look=_EDGE + rb"[0-8][0-9]{2}-[0-9]{2}-[0-9]{4}",
        pattern=rb"[0-9]{3}-[0-9]{2}-[0-9]{4}",
        priority=8,
        confirm=_confirm_ssn,
    ),
    Recognizer(
        "US_SSN",
        look=_EDGE + rb"[0-8][0-9]{2}[ .]?[0-9]{2}[ .]?[0-9]{4}",
        pattern=rb"[0-9]{3}[ .]?[0-9]{2}[ .]?[0-9]{4}",
        priority=8,
        confirm=_confirm_ssn,
        context=_SSN_WORDS,
    ),
    Recognizer(
        "PHONE_NUMBER",
        look=rb"\+[ (]{0,2}[0-9](?:[ ().\-/]{0,3}[0-9]){6}",
        pattern=rb"\+[ (]{0,2}[0-9](?:[ ().\-/]{0,3}[0-9]){6,24}",
        priority=9,
        cost=2,
        confirm=_confirm_international,
    ),
    Recognizer(
        "PHONE_NUMBER",
        look=_EDGE + rb"00[1-9](?:[ ().\-/]{0,3}[0-9]){6}",
        pattern=rb"00[1-9](?:[ ().\-/]{0,3}[0-9]){6,24}",
        priority=9,
        cost=2,
        confirm=_confirm_international,
    ),
    Recognizer(
        "PHONE_NUMBER",
        look=rb"\(?[2-9][0-9]{2}\)?[ .\-]{1,2}[2-9][0-9]{2}[ .\-][0-9]{4}",
        pattern=rb"(?:1[ .\-])?\(?[2-9][0-9]{2}\)?[ .\-]{1,2}[2-9][0-9]{2}[ .\-][0-9]{4}",
        priority=9,
        cost=2,
        confirm=_confirm_north_american,
    ),
    Recognizer(
        "PHONE_NUMBER",
        look=_EDGE + rb"\(?[0-9](?:[ ().\-/]{0,3}[0-9]){6}",
        pattern=rb"\(?[0-9](?:[ ().\-/]{0,3}[0-9]){6,24}",
        priority=9,
        cost=2,
        confirm=_confirm_named_phone,
        context=_PHONE_WORDS,
    ),
    Recognizer(
        "IP_ADDRESS",
        look=rb"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
        pattern=rb"(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
        priority=10,
        confirm=_confirm_ipv4,
    ),
    Recognizer(
        "IP_ADDRESS",
        look=rb"(?:[0-9A-Fa-f]{1,4}:){5}|::[0-9A-Fa-f]|[0-9A-Fa-f]::",
        pattern=rb"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,}(?:\.[0-9]{1,3}){0,3}",
        priority=10,
        confirm=_confirm_ipv6,
    ),
)
ENTITIES: tuple[str, ...] = tuple(dict.fromkeys(row.entity for row in TABLE))
"""Every entity a mask may name. LITERAL is added by configuration, not by name."""

LITERAL = "LITERAL"


# --- configured values ------------------------------------------------------------------------------------------


def literal_forms(value: str) -> frozenset[bytes]:
    """Every spelling in which a configured value is found: plain, JSON, percent-encoded, hexadecimal, base64."""
    raw = value.encode("utf-8", "surrogatepass")
    ascii_json = json.dumps(value)[1:-1]
    forms = {
        raw,
        ascii_json.encode(),
        ascii_json.replace("/", "\\/").encode(),
        json.dumps(value, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass"),
        raw.hex().encode(),
        raw.hex().upper().encode(),
    }
    for encoded in (quote(raw, safe=""), quote(raw), quote_plus(raw)):
        forms.add(encoded.encode())
        forms.add(re.sub(r"%[0-9A-F]{2}", lambda match: match.group().lower(), encoded).encode())
    return frozenset(forms | base64_cores(raw))


def base64_cores(raw: bytes) -> frozenset[bytes]:
    """What of `raw` is the same in every base64 text that contains it, at each of the three alignments.

    So it is found inside a longer encoded text (`user:secret`) as well, in both alphabets.
    """
    cores: set[bytes] = set()
    for shift in range(3):
        skip = (0, 2, 3)[shift]  # these sextets also carry bits of what stands before
        whole = (shift + len(raw)) * 8 // 6
        core = base64.b64encode(b"\0" * shift + raw)[skip:whole]
        cores |= {core, core.translate(bytes.maketrans(b"+/", b"-_"))}
    return frozenset(cores)


def _literal_row(literals: Sequence[str]) -> Recognizer:
    if any(len(value) < MIN_LITERAL for value in literals):
        raise PolicyError(f"a configured literal is shorter than {MIN_LITERAL} characters")
    forms = {form for value in literals for form in literal_forms(value)}
    cores = frozenset(
        core for value in literals for core in base64_cores(value.encode("utf-8", "surrogatepass"))
    )
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    pattern = b"|".join(bytes(re2.escape(form)) for form in longest_first)

    def confirm(text: bytes, start: int, end: int, before: bytes) -> Spans:
        if text[start:end] in cores:  # the base64 characters on either side still carry bits of the value
            start -= start > 0 and text[start - 1] in _BASE64_CHAR
            end += end < len(text) and text[end] in _BASE64_CHAR
        return ((start, end),)

    return Recognizer(LITERAL, look=pattern, pattern=pattern, priority=0, confirm=confirm)


def table_digest() -> str:
    """Names this version of the table: changes with any pattern and with `RECOGNIZERS_VERSION`."""
    parts = [str(RECOGNIZERS_VERSION).encode()]
    for row in TABLE:
        parts += [row.entity.encode(), row.look, row.pattern, row.context]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
