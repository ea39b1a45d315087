"""Confirmations: is a candidate what it looks like? Each gets the text, the candidate and the bytes before the text,
and returns the spans that are real. Patterns cannot look around or calculate; this is where that happens.
"""

from __future__ import annotations

import base64
import functools
import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any

from extproc.masking.checksums import IBAN_LENGTHS, is_card_number, is_iban

Spans = Iterable[tuple[int, int]]
Confirm = Callable[[bytes, int, int, bytes], Spans]


@functools.cache
def load_phone_numbers() -> Any:
    """Import `phonenumbers` with all regions; about a quarter of a second, so at load and never on the request path."""
    import phonenumbers
    from phonenumbers.phonemetadata import PhoneMetadata

    PhoneMetadata.load_all()
    return phonenumbers


_DIGITS = re.compile(rb"[0-9]+")
_PIXEL_RATIO = re.compile(rb"[0-9]+x\.(?:png|jpe?g|gif|webp|svg|avif)", re.IGNORECASE)
BASE64_CHARS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")


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


def confirm_email(text: bytes, start: int, end: int, before: bytes) -> Spans:
    domain = text[start:end].rpartition(b"@")[2]
    if _PIXEL_RATIO.fullmatch(domain):  # icon@2x.png
        return ()
    return ((start, end),)


def confirm_card(text: bytes, start: int, end: int, before: bytes) -> Spans:
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


def confirm_iban(text: bytes, start: int, end: int, before: bytes) -> Spans:
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


def confirm_ssn(text: bytes, start: int, end: int, before: bytes) -> Spans:
    digits = bytes(byte for byte in text[start:end] if 0x30 <= byte <= 0x39)
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    refused = area in (b"000", b"666") or area >= b"900" or group == b"00" or serial == b"0000"
    if refused or _is_word(text, start - 1) or _is_word(text, end) or _continues(text, start, end):
        return ()
    if len(digits) < end - start and text[start + 3] != text[end - 5]:  # 123-45 6789 is no one's spelling
        return ()
    return ((start, end),)


def confirm_international(text: bytes, start: int, end: int, before: bytes) -> Spans:
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


def confirm_north_american(text: bytes, start: int, end: int, before: bytes) -> Spans:
    if _is_word(text, start - 1) or _is_word(text, end) or _continues(text, start, end):
        return ()
    return ((start, end),) if _is_phone(text[start:end].decode("latin-1"), "US") else ()


def confirm_named_phone(text: bytes, start: int, end: int, before: bytes) -> Spans:
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


def confirm_ipv4(text: bytes, start: int, end: int, before: bytes) -> Spans:
    if _is_word(text, start - 1) or _is_word(text, end) or _continues(text, start, end, b"."):
        return ()
    product = start > 1 and text[start - 1] == 0x2F and _is_word(text, start - 2)
    if product and text[start:end].endswith(b".0.0.0"):  # Chrome/120.0.0.0
        return ()
    return ((start, end),)


def confirm_ipv6(text: bytes, start: int, end: int, before: bytes) -> Spans:
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


def confirm_jwt(text: bytes, start: int, end: int, before: bytes) -> Spans:
    """Three or five parts (RFC 7515, 7516), or two where a log cut it; the header must name an algorithm.

    Words may stand before the header with a dot between, so every part but the last may be the header.
    """
    at = start
    for part in text[start:end].split(b".")[:-1]:
        if part.startswith(b"ey") and not _is_word(text, at - 1) and _names_algorithm(part):
            return ((at, end),)
        at += len(part) + 1
    return ()


def _names_algorithm(header: bytes) -> bool:
    try:
        return b'"alg"' in base64.urlsafe_b64decode(header + b"=" * (-len(header) % 4))
    except ValueError:
        return False


def confirm_secret_key(text: bytes, start: int, end: int, before: bytes) -> Spans:
    if start > 0 and text[start - 1] in BASE64_CHARS:
        return ()
    if end < len(text) and (text[end] in BASE64_CHARS or text[end] == 0x3D):
        return ()
    key = text[start:end]
    mixed = key != key.lower() and key != key.upper() and any(0x30 <= byte <= 0x39 for byte in key)
    return ((start, end),) if mixed else ()


def confirm_access_key(text: bytes, start: int, end: int, before: bytes) -> Spans:
    return () if _is_word(text, start - 1) or _is_word(text, end) else ((start, end),)


def confirm_pem(text: bytes, start: int, end: int, before: bytes) -> Spans:
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
