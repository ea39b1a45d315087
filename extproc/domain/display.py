"""Text that cannot lie about itself: what has no shape, or changes the shape of other text, is spelled out."""

from __future__ import annotations

INVISIBLE = frozenset(
    {
        0x034F,  # combining grapheme joiner
        0x115F, 0x1160, 0x3164, 0xFFA0,  # Hangul fillers: letters that draw nothing
        0x17B4, 0x17B5,  # Khmer inherent vowels
        0x180B, 0x180C, 0x180D, 0x180F,  # Mongolian variation selectors
        0x2800,  # blank Braille pattern
        *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0),  # variation selectors
    }
)  # fmt: skip
"""Printable to Python, invisible to people. Control, format (bidirectional, zero-width, tags), surrogate,
private-use, unassigned and separator characters need no list: `str.isprintable` is false for them."""


def escape_for_display(text: str, *, multiline: bool = False) -> str:
    r"""`text` with every character that hides or moves others spelled as `\u{202E}`.

    No two texts come out alike: a literal `\u{` is spelled `\u{5C}u{`. With `multiline`, line feed and tab stay.
    """
    if "\\u{" in text:
        text = text.replace("\\u{", "\\u{5C}u{")
    return escape_unprintable(text, multiline=multiline)


def escape_unprintable(text: str, *, multiline: bool = False) -> str:
    """The same, but leaves what is already spelled out alone: for a second channel behind the first."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if _is_plain(char) or (multiline and char in "\n\t") else f"\\u{{{ord(char):X}}}"
        for char in text
    )


def _is_plain(char: str) -> bool:
    return char.isprintable() and ord(char) not in INVISIBLE


def escape_json(value: object, *, multiline: bool = True) -> object:
    """A JSON value with every text in it, names included, escaped for display."""
    if isinstance(value, str):
        return escape_for_display(value, multiline=multiline)
    if isinstance(value, dict):
        return {
            escape_for_display(str(name)): escape_json(item, multiline=multiline)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [escape_json(item, multiline=multiline) for item in value]
    return value
