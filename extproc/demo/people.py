"""Fictional people for the demo: the numbers have the right form and checksums, and belong to nobody.

Telephone numbers are from ranges kept for fiction, cards are the schemes' public test numbers.
"""

from __future__ import annotations

from typing import Any

CUSTOMERS: tuple[dict[str, Any], ...] = (
    {
        "id": 1,
        "name": "Ada Winter",
        "email": "ada.winter@example.com",
        "phone": "+1 202 555 0143",
        "iban": "GB82WEST12345698765432",
        "card": "4111111111111111",
        "ssn": "536-90-4399",
        "city": "Bristol",
        "balance": 1250,
    },
    {
        "id": 2,
        "name": "Bruno Okafor",
        "email": "bruno.okafor@example.org",
        "phone": "+44 20 7946 0958",
        "iban": "DE89370400440532013000",
        "card": "5555555555554444",
        "ssn": "690-05-5315",
        "city": "Köln",
        "balance": 310,
    },
    {
        "id": 3,
        "name": "Chiara Lindqvist",
        "email": "chiara@mail.example.net",
        "phone": "+49 30 23125 012",
        "iban": "FR1420041010050500013M02606",
        "card": "378282246310005",
        "ssn": "509-01-6995",
        "city": "Lyon",
        "balance": 98040,
    },
    {
        "id": 4,
        "name": "Dmitri Vasquez",
        "email": "d.vasquez+bank@example.com",
        "phone": "+33 1 99 00 12 34",
        "iban": "NL91ABNA0417164300",
        "card": "6011111111111117",
        "ssn": "536-22-8726",
        "city": "Utrecht",
        "balance": -45,
    },
    {
        "id": 5,
        "name": "Esther Nakamura",
        "email": "esther.nakamura@example.com",
        "phone": "+1 415 555 0132",
        "iban": "ES9121000418450200051332",
        "card": "4012888888881881",
        "ssn": "212-09-7694",
        "city": "Sevilla",
        "balance": 7700,
    },
)

KEYS: tuple[dict[str, str], ...] = (
    {"name": "storage", "id": "AKIAIOSFODNN7EXAMPLE", "secret": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"},
    {"name": "webhook", "id": "whk-1", "secret": "whsec-demo-not-a-secret-0001"},
)
"""What `/admin/keys` must never give to an agent. Published example values."""


def is_valid_iban(text: str) -> bool:
    """The form and the checksum (ISO 13616, mod 97) are right. Spaces are ignored."""
    compact = text.replace(" ", "").upper()
    if not (15 <= len(compact) <= 34 and compact.isascii() and compact.isalnum() and compact[:2].isalpha()):
        return False
    rearranged = compact[4:] + compact[:4]
    return int("".join(str(int(letter, 36)) for letter in rearranged)) % 97 == 1
