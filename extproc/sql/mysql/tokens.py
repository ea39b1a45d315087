"""A text in words, names, literals and signs, exactly as the server's own lexer cuts it (sql_lex.cc).

What the server would read in another way on another version, and what it may not read at all, is not read here:
`UnreadableError`. Executable comments are opened as the given server opens them.
"""

from __future__ import annotations

import re
from typing import Literal, NoReturn

from extproc.domain.nouns import noun
from extproc.sql.mysql.session import Session

Kind = Literal["word", "name", "string", "number", "bits", "param", "variable", "sign"]

MAX_TOKENS = 100_000
"""How many words, signs and literals a text may hold."""


class UnreadableError(Exception):
    """The text cannot be read with certainty; the message holds nothing of the text."""


@noun(frozen=True, slots=True)
class Token:
    """One piece of the text. `start` and `end` count characters; a charset before a literal is part of it."""

    kind: Kind
    value: str
    """Names, variables and strings without quotes and escapes; the rest as written."""
    start: int
    end: int
    is_apart: bool
    """A space or a comment stands before it."""
    word: str = ""
    """A word in capitals; empty for everything else."""
    is_introduced: bool = False
    """A charset stands before the literal."""

    def is_word(self, *words: str) -> bool:
        return self.word in words

    def is_sign(self, *signs: str) -> bool:
        return self.kind == "sign" and self.value in signs


_PLAIN = re.compile(
    r"[ \t\n\v\f\r]+"
    r"|(?P<w>[A-Za-z][0-9A-Za-z_]*)(?![0-9A-Za-z_$.'\u0080-\U0010ffff])"
    r"|(?P<n>[0-9]+)(?![0-9A-Za-z_$.\u0080-\U0010ffff])"
    r"|(?P<s>[,()=])"
    r"|'(?P<q>[^'\\]*)'(?!')"
)
_KINDS: dict[str, Kind] = {"w": "word", "n": "number", "s": "sign", "q": "string"}
_SPACE = re.compile(r"[ \t\n\v\f\r]+")
_IDENT = re.compile(r"[0-9A-Za-z_$\u0080-\U0010ffff]+")
_LINE = re.compile(r"#[^\n]*|--(?=[\x00-\x20\x7f]|\Z)[^\n]*")
_FLOAT = re.compile(r"\d+[eE][+-]?\d+", re.ASCII)
_REAL = re.compile(r"(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_BITS = re.compile(r"0x[0-9A-Fa-f]+|0b[01]+", re.ASCII)
_QUOTED_BITS = re.compile(r"[xX]'((?:[0-9A-Fa-f]{2})*)'|[bB]'([01]*)'", re.ASCII)
_VARIABLE = re.compile(r"@[0-9A-Za-z_.$]+")
_SIGNS = re.compile(r"<=>|->>|<<|>>|<=|>=|<>|!=|:=|\|\||&&|->|@@|[-+*/%=<>!~^&|(),;.]")
_DIGITS = re.compile(r"\d+", re.ASCII)
_ESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": "\\%", "_": "\\_"}
_FOLDS_TO_ASCII = re.compile("[\u0130\u0131\u017f\u212a]")
"""Letters that some collations take for an i, an s or a k."""
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
_NON_ASCII = re.compile("[^\0-\x7f]")


def tokenize(text: str, session: Session) -> list[Token]:
    """Every token of the text. Raises UnreadableError."""
    if not session.readable:
        raise UnreadableError("the connection is in a mode or charset whose texts are not read")
    if "\0" in text:
        raise UnreadableError("the text holds a NUL")
    return _Lexer(text, session).all()


def as_text(raw: bytes, session: Session) -> str:
    """The characters of a text in the connection's charset. Letters beyond ASCII are only told apart in Unicode; in
    other charsets they may stand in literals alone, byte for byte. Raises UnreadableError."""
    try:
        return raw.decode("utf-8" if session.is_unicode else "latin-1")
    except UnicodeDecodeError:
        raise UnreadableError("the text is not valid UTF-8") from None


class _Lexer:
    """One pass over a text."""

    __slots__ = ("_apart", "_at", "_found", "_introduced", "_opened", "_session", "_text")

    def __init__(self, text: str, session: Session) -> None:
        self._text = text
        self._session = session
        self._at = 0
        self._apart = False
        self._introduced = -1
        """Where the charset of the literal that follows begins."""
        self._opened = False
        """Inside an executable comment."""
        self._found: list[Token] = []

    def all(self) -> list[Token]:
        size = len(self._text)
        while self._at < size:
            if len(self._found) >= MAX_TOKENS:
                raise UnreadableError(f"the text has more than {MAX_TOKENS} words and signs")
            if not self._plain() and not self._skip():
                self._token()
        if self._opened:
            raise UnreadableError("an executable comment has no end")
        return self._found

    def _plain(self) -> bool:
        """Whether something stood here that is the same under every rule below: most of most texts."""
        found = _PLAIN.match(self._text, self._at)
        if found is None or self._touches("."):
            return False
        kind = found.lastgroup
        if kind is None:
            self._at, self._apart = found.end(), True
        else:
            self._add(_KINDS[kind], found[kind], found.end())
        return True

    # ------------------------------------------------------------------ spaces and comments

    def _skip(self) -> bool:
        """Whether spaces or a comment stood here."""
        text, at = self._text, self._at
        found = _SPACE.match(text, at) or _LINE.match(text, at)
        if found is not None:
            self._at = found.end()
        elif text.startswith("/*", at):
            self._comment()
        elif self._opened and text.startswith("*/", at):
            self._opened = False
            self._at = at + 2
        else:
            return False
        self._apart = True
        return True

    def _comment(self) -> None:
        """`/* */`, `/*+ */`, `/*! */`, `/*!80000 */`, `/*M! */`. Nested ones mean different things to different
        versions, so they are not read."""
        text, at = self._text, self._at
        if self._opened:
            raise UnreadableError("a comment stands in an executable comment")
        if text.startswith("/*!", at) or text.startswith("/*M!", at):
            self._executable(at + (3 if text[at + 2] == "!" else 4), is_maria=text[at + 2] == "M")
            return
        end = text.find("*/", at + 2)
        if end < 0:
            raise UnreadableError("a comment has no end")
        inside = text[at + 2 : end]
        if inside.startswith("+") and (re.search(r"[`'\"]", inside) or "SET_VAR" in inside.upper()):
            raise UnreadableError("an optimizer hint sets a variable or holds quotes")
        self._at = end + 2

    def _executable(self, at: int, *, is_maria: bool) -> None:
        flavor, digits = self._session.flavor, _DIGITS.match(self._text, at)
        count = len(digits[0]) if digits is not None else 0
        if is_maria and not flavor:
            raise UnreadableError("whether an executable comment runs is not known")
        if is_maria and flavor == "mysql":
            runs = False
        elif digits is None or count < 5:
            runs = True
        elif not flavor or not self._session.version or count > 6 or (flavor == "mysql" and count > 5):
            raise UnreadableError("whether an executable comment runs is not known")
        else:
            version, at = int(digits[0]), digits.end()
            runs = version <= self._session.version and (
                flavor == "mysql" or is_maria or not 50_700 <= version <= 99_999
            )
        if runs:
            self._opened = True
            self._at = at
            return
        end = self._text.find("*/", at)
        if end < 0 or "/*" in self._text[at:end]:
            raise UnreadableError("an executable comment that does not run holds another or has no end")
        self._at = end + 2

    # ------------------------------------------------------------------ tokens

    def _token(self) -> None:
        text, at = self._text, self._at
        char = text[at]
        ansi = "ANSI_QUOTES" in self._session.modes
        if char == "`" or (char == '"' and ansi):
            name, end = self._quoted(char, at)
            self._check_quoted(name)
            self._add("name", name, end)
        elif char in "'\"":
            self._add("string", *self._quoted(char, at))
        elif char in "nN" and text.startswith("'", at + 1):
            self._add("string", *self._quoted("'", at + 1))
        elif char in "xXbB" and text.startswith("'", at + 1):
            self._quoted_bits()
        elif char in "0123456789." and self._number():
            return
        elif found := _IDENT.match(text, at):
            self._ident(found.end())
        elif char == "@" and not text.startswith("@@", at):
            self._variable()
        elif char == "?":
            self._add("param", "?", at + 1)
        else:
            self._sign()

    def _add(self, kind: Kind, value: str, end: int) -> None:
        word = value.upper() if kind == "word" else ""
        is_introduced = self._introduced >= 0
        start = self._introduced if is_introduced else self._at
        self._found.append(Token(kind, value, start, end, self._apart, word, is_introduced))
        self._at, self._apart, self._introduced = end, False, -1

    def _check_quoted(self, name: str) -> None:
        if not name or name != name.rstrip(" "):
            raise UnreadableError("a name is empty or ends in a space")
        self._check_name(name)

    def _sign(self) -> None:
        found = _SIGNS.match(self._text, self._at)
        if found is None:
            raise UnreadableError("the text holds a sign that is not known")
        if found[0] == ";" and self._opened:
            raise UnreadableError("an executable comment holds a semicolon")
        self._add("sign", found[0], found.end())

    def _ident(self, end: int) -> None:
        """A keyword or a name. What touches a dot is never a keyword."""
        word = self._text[self._at : end]
        self._check_name(word)
        if word.startswith("_") and self._introduces(word, end):
            # _utf8mb4'x': the literal is of that charset, and ends where it would without
            self._introduced, self._at = self._at, end
            return
        dotted = self._text.startswith(".", end) and _IDENT.match(self._text, end + 1) is not None
        self._add("name" if dotted or self._touches(".") else "word", word, end)

    def _touches(self, sign: str) -> bool:
        """Whether that sign stands right before."""
        return bool(self._found) and not self._apart and self._found[-1].is_sign(sign)

    def _introduces(self, word: str, end: int) -> bool:
        space = _SPACE.match(self._text, end)
        at = space.end() if space is not None else end
        return word[1:].lower() in INTRODUCERS and (
            self._text.startswith(("'", '"'), at) or _QUOTED_BITS.match(self._text, at) is not None
            or _BITS.match(self._text, at) is not None
        )  # fmt: skip

    def _check_name(self, name: str) -> None:
        if name.isascii():
            return
        if not self._session.is_unicode and _NON_ASCII.search(name):
            raise UnreadableError("a name holds letters beyond ASCII in a charset that is not Unicode")
        if _FOLDS_TO_ASCII.search(name) or _ASTRAL.search(name):
            raise UnreadableError("a name holds a letter that may be taken for another")

    def _number(self) -> bool:
        """Whether a number stood here, and no name that begins with a digit. A number that runs into a word is not
        read: servers have differed on it (`1e1from`, `1.e(`)."""
        text, at = self._text, self._at
        if self._touches(".") or (text[at] == "." and self._follows_name()):
            return False
        if (bits := _BITS.match(text, at)) and not _IDENT.match(text, bits.end()):
            self._add("bits", bits[0], bits.end())
            return True
        found = _REAL.match(text, at) or _FLOAT.match(text, at)
        if found is not None and _IDENT.match(text, found.end()):
            raise UnreadableError("a number runs into a word")
        found = found or _DIGITS.match(text, at)
        if found is None or _IDENT.match(text, found.end()):
            return False
        self._add("number", found[0], found.end())
        return True

    def _follows_name(self) -> bool:
        return bool(self._found) and not self._apart and self._found[-1].kind in ("word", "name")

    def _quoted_bits(self) -> None:
        found = _QUOTED_BITS.match(self._text, self._at)
        if found is None:
            raise UnreadableError("a literal of bits is damaged")
        self._add("bits", found[0], found.end())

    def _variable(self) -> None:
        text, at = self._text, self._at
        quote = text[at + 1 : at + 2]
        if quote and quote in "`'\"":
            value, end = self._quoted(quote, at + 1)
        elif found := _VARIABLE.match(text, at):
            value, end = found[0][1:], found.end()
        else:
            raise UnreadableError("a variable has no name")
        self._add("variable", value, end)

    def _quoted(self, quote: str, at: int) -> tuple[str, int]:
        """The content of a literal or a name, and where the text goes on."""
        escapes = quote != "`" and "NO_BACKSLASH_ESCAPES" not in self._session.modes
        if quote == '"' and "ANSI_QUOTES" in self._session.modes:
            escapes = False
        text, parts, start, size = self._text, [], at + 1, len(self._text)
        at = start
        while at < size:
            char = text[at]
            if char == "\\" and escapes:
                if at + 1 >= size:
                    break
                parts += [text[start:at], _ESCAPES.get(text[at + 1], text[at + 1])]
                at = start = at + 2
            elif char != quote:
                at += 1
            elif text.startswith(quote, at + 1):
                parts.append(text[start : at + 1])
                at = start = at + 2
            else:
                return "".join([*parts, text[start:at]]), at + 1
        return self._open_end()

    def _open_end(self) -> NoReturn:
        raise UnreadableError("a literal or a name has no end")


_INTRODUCERS_NAMES = """
armscii8 ascii big5 binary cp1250 cp1251 cp1256 cp1257 cp850 cp852 cp866 cp932 dec8 eucjpms euckr filename gb18030
gb2312 gbk geostd8 greek hebrew hp8 keybcs2 koi8r koi8u latin1 latin2 latin5 latin7 macce macroman sjis swe7
tis620 ucs2 ujis utf16 utf16le utf32 utf8 utf8mb3 utf8mb4
"""
INTRODUCERS = frozenset(_INTRODUCERS_NAMES.split())
"""Charsets that may stand before a literal, with an underscore."""
