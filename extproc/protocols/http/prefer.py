"""The Prefer header (RFC 7240): whether the caller wants to wait for an approval, and how long."""

from __future__ import annotations


def preferences(values: list[str]) -> dict[str, str]:
    """Preference name to value, first occurrence wins (RFC 7240 §2); parameters are dropped."""
    found: dict[str, str] = {}
    for value in values:
        for part in value.split(","):
            name, _, rest = part.partition(";")[0].partition("=")
            name = name.strip().lower()
            if name and name not in found:
                found[name] = rest.strip().strip('"').lower()
    return found


def without(value: str, names: frozenset[str]) -> str:
    """A Prefer header's value without the preferences `names`; empty when nothing is left.

    With a quoted string in it nothing is taken out: what looks like a wish may be part of another preference.
    """
    if '"' in value:
        return value
    kept = (part.strip() for part in value.split(",") if _name(part) not in names)
    return ", ".join(part for part in kept if part)


def _name(part: str) -> str:
    return part.partition(";")[0].partition("=")[0].strip().lower()


def wait_asked(values: list[str], *, honour_wait: bool, honour_async: bool = False) -> float | None:
    """Seconds the caller wants to wait at most; None when it does not say.

    `hold=async` means 0, and so does `respond-async` (RFC 7240 §4.1) where the target honours it.
    """
    asked = preferences(values)
    if asked.get("hold") == "async" or (honour_async and "respond-async" in asked):
        return 0.0
    seconds = asked.get("wait", "")
    if honour_wait and seconds.isascii() and seconds.isdigit() and len(seconds) < 7:
        return float(seconds)
    return None
