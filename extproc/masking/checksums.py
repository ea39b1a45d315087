"""Arithmetic that tells a real number from a look-alike: Luhn, ISO 7064 mod 97, issuer and country lengths."""

from __future__ import annotations

IBAN_LENGTHS: dict[str, int] = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27,
    "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28,
    "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23,
    "GL": 18, "GR": 27, "GT": 28, "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26,
    "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21,
    "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28,
    "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22,
    "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25,
    "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip
"""Length of an IBAN by country, from the SWIFT IBAN registry (ISO 13616)."""

_LUHN = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
"""A doubled digit, its own digits added up."""

_ISSUERS: tuple[tuple[int, int, int, int], ...] = (
    (4, 4, 13, 13),  # Visa, the old short form
    (4, 4, 16, 16),  # Visa
    (4, 4, 19, 19),  # Visa
    (51, 55, 16, 16),  # Mastercard
    (2221, 2720, 16, 16),  # Mastercard
    (34, 34, 15, 15),  # American Express
    (37, 37, 15, 15),  # American Express
    (300, 305, 14, 19),  # Diners Club
    (3095, 3095, 14, 19),  # Diners Club
    (36, 36, 14, 19),  # Diners Club
    (38, 39, 14, 19),  # Diners Club
    (3528, 3589, 16, 19),  # JCB
    (6011, 6011, 16, 19),  # Discover
    (644, 659, 16, 19),  # Discover, RuPay
    (62, 62, 16, 19),  # UnionPay
    (60, 60, 16, 16),  # RuPay
    (81, 82, 16, 19),  # UnionPay, RuPay
    (508, 508, 16, 16),  # RuPay
    (2200, 2204, 16, 19),  # Mir
    (5018, 5018, 12, 19),  # Maestro
    (5020, 5020, 12, 19),  # Maestro
    (5038, 5038, 12, 19),  # Maestro
    (5893, 5893, 12, 19),  # Maestro
    (6304, 6304, 12, 19),  # Maestro
    (6759, 6759, 12, 19),  # Maestro
    (6761, 6763, 12, 19),  # Maestro
    (50, 50, 16, 19),  # Maestro and national schemes
    (56, 58, 16, 19),  # Maestro
    (67, 67, 16, 19),  # Maestro
    (9792, 9792, 16, 16),  # Troy
)
"""First and last prefix of an issuer's range, shortest and longest card number (ISO/IEC 7812)."""


def luhn(digits: str) -> bool:
    """Whether the last digit of `digits` is the Luhn check digit of the others (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = ord(digit) - 48
        total += _LUHN[value] if place & 1 else value
    return total % 10 == 0


def known_issuer(digits: str) -> bool:
    """Whether a card scheme issues numbers that begin like this and are this long."""
    length = len(digits)
    return any(
        shortest <= length <= longest and first <= int(digits[: len(str(first))]) <= last
        for first, last, shortest, longest in _ISSUERS
    )


def is_card_number(digits: str) -> bool:
    """A card number: known issuer, right length, Luhn."""
    return 12 <= len(digits) <= 19 and digits[0] != "0" and luhn(digits) and known_issuer(digits)


def is_iban(text: str) -> bool:
    """An IBAN in upper case without separators: country, its length, remainder 1 modulo 97 (ISO 7064)."""
    if IBAN_LENGTHS.get(text[:2]) != len(text) or not text.isalnum() or not text.isascii():
        return False
    moved = text[4:] + text[:4]
    return int("".join(str(int(char, 36)) for char in moved)) % 97 == 1
