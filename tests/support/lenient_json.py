"""JSON as careless readers take it: comments, stray commas, any quotes, several documents, junk in front."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_WORD = re.compile(r"[^\W\d][\w$]*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_BLANK = re.compile(r"(?:[\s\x00\ufeff]|/\*.*?(?:\*/|\Z)|//[^\n]*|#[^\n]*)+", re.DOTALL)
MAX_DEPTH = 50


class Pairs(list[tuple[str, object]]):
    """A JSON object with every key it had, in order."""


class NotJsonError(ValueError):
    """Not even a careless reader finds a value here."""


def read_documents(text: str) -> list[object]:
    """Every object and array in `text`, one after another; empty when there is none."""
    documents: list[object] = []
    at = 0
    while (starts := [found for found in (text.find("{", at), text.find("[", at)) if found >= 0]) != []:
        reader = _Reader(text, min(starts))
        try:
            documents.append(reader.value(0))
            at = reader.at
        except (NotJsonError, IndexError):
            at = min(starts) + 1
            if documents:
                break
    return documents


class _Reader:
    def __init__(self, text: str, at: int) -> None:
        self._text = text
        self.at = at

    def value(self, depth: int) -> object:
        if depth > MAX_DEPTH:
            raise NotJsonError("too deep")
        self._skip()
        start = self._text[self.at]
        if start == "{":
            return self._object(depth)
        if start == "[":
            return self._array(depth)
        if start in "\"'":
            return self._string(start)
        if number := _NUMBER.match(self._text, self.at):
            self.at = number.end()
            return float(int(number[0], 16)) if "x" in number[0].lower() else float(number[0])
        return self._word() in ("true", "True", "yes")

    def _object(self, depth: int) -> Pairs:
        made = Pairs()
        self.at += 1
        while not self._closes("}"):
            start = self._text[self.at]
            key = self._string(start) if start in "\"'" else self._word()
            self._skip()
            if self._text[self.at] not in ":=":
                raise NotJsonError("no colon")
            self.at += 1
            made.append((key, self.value(depth + 1)))
        return made

    def _array(self, depth: int) -> list[object]:
        made: list[object] = []
        self.at += 1
        while not self._closes("]"):
            made.append(self.value(depth + 1))
        return made

    def _closes(self, bracket: str) -> bool:
        """Past blanks and commas, the bracket (or the end of the text) is next."""
        self._skip()
        while self.at < len(self._text) and self._text[self.at] == ",":
            self.at += 1
            self._skip()
        if self.at >= len(self._text):
            return True
        if self._text[self.at] == bracket:
            self.at += 1
            return True
        return False

    def _string(self, quote: str) -> str:
        parts: list[str] = []
        self.at += 1
        while (letter := self._text[self.at]) != quote:
            if letter == "\\":
                self.at += 1
                letter = self._text[self.at]
                if letter == "u":
                    letter = chr(int(self._text[self.at + 1 : self.at + 5], 16))
                    self.at += 4
                else:
                    letter = _ESCAPES.get(letter, letter)
            parts.append(letter)
            self.at += 1
        self.at += 1
        return "".join(parts)

    def _word(self) -> str:
        found = _WORD.match(self._text, self.at)
        if found is None:
            raise NotJsonError("no value")
        self.at = found.end()
        return found[0]

    def _skip(self) -> None:
        if found := _BLANK.match(self._text, self.at):
            self.at = found.end()
