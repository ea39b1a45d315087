"""Mask a JSON document in place: only the strings and numbers that must change are rewritten.

Spelling of numbers, order and repetition of keys, white space and escapes elsewhere stay byte for byte.
The document is checked by `msgspec` first (strict RFC 8259), so what follows may trust its structure.
Without path rules only tokens that can hold a finding are visited: those where a pattern matched the raw bytes,
and those with a backslash, which may spell anything. With path rules the document is walked once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from extproc.domain.errors import MaskingError
from extproc.masking.finder import Search, Tally
from extproc.masking.operators import WHOLE_VALUE, Operator, strictest
from extproc.masking.paths import Node
from extproc.masking.recognizers import CONTEXT_BYTES
from extproc.masking.rules import Rules
from extproc.masking.views import Edit, View, apply_edits, escape_json, json_view

MAX_DEPTH = 200
"""Deepest nesting of objects and arrays; a document inside a string counts on its own."""
MAX_DOCUMENTS = 3
"""How many times a JSON document may stand inside a string of another."""


def mask_json(data: bytes, rules: Rules, tally: Tally) -> bytes:
    """`data` masked, or `data` itself when nothing was found.

    Raises MaskingError: unparsable-body, too-deep, charset, over-budget.
    """
    check_json(data)
    searches = first_look(data, rules)
    root = rules.root if rules.paths_may_apply(data) else None
    if not searches and root is None:
        return data
    edits = _document(data, rules, searches, tally, root, 0)
    return apply_edits(data, edits) if edits else data


def check_json(data: bytes) -> None:
    """Accept exactly one JSON value in UTF-8, no deeper than `MAX_DEPTH`. Raises MaskingError."""
    if not _is_json(data):
        raise MaskingError("unparsable-body", "the body is not the JSON that its content type promises")
    if not data.isascii():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            raise MaskingError("charset", "the JSON body is not UTF-8") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _depth_exceeds(data, MAX_DEPTH):
        raise _too_deep()


def first_look(data: bytes, rules: Rules) -> tuple[Search, ...]:
    """Which recognizers may find something in valid JSON, its escapes undone. It may say too much, never too little.

    A backslash that is itself escaped may begin an escape of a document inside a string: then there is no look.
    """
    if _BACKSLASH not in data:
        return rules.finder.look(data)
    if b"\\\\" in data or b"\\u005" in data:
        return rules.finder.searches
    text = data
    for escape, plain in _SHORT_ESCAPES:
        text = text.replace(escape, plain)
    if b"\\u" in text:
        if rules.finder.looks_beyond_ascii:
            return rules.finder.searches
        text = _NEAR_ASCII.sub(_near_ascii, text)
    return rules.finder.look(text)


_BACKSLASH: Final = 0x5C
_decode = msgspec.json.Decoder(msgspec.Raw).decode
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_MEMBER = re.compile(
    rb'(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"\s*:\s*)?'
    rb'(?:("[^"\\]*+(?:\\.[^"\\]*+)*+")|([{\[])|([^\s,:{}\[\]"]++))|([}\]])',
    re.DOTALL,
)
_NAME, _TEXT, _OPEN, _SCALAR, _CLOSE = 1, 2, 3, 4, 5
"""Groups of `_MEMBER`: an optional key, then a string, an opening bracket or another scalar; or a closing bracket."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_NEAR_ASCII = re.compile(rb"\\u(00[0-7][0-9a-fA-F]|00[aA]0|20(?:1[0-5]|2[fF]))")
"""Escapes of what patterns are made of: ASCII, and the gaps between the digits of a number."""
_SHORT_ESCAPES = (
    (b"\\n", b"\n"), (b"\\t", b"\t"), (b"\\r", b"\r"), (b"\\b", b"\b"), (b"\\f", b"\f"),
    (b"\\/", b"/"), (b'\\"', b'"'),
)  # fmt: skip
_BRACKETS = bytes(0x5B if byte in b"[{" else 0x5D if byte in b"]}" else byte for byte in range(256))
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b'[]{}"')


def _near_ascii(match: re.Match[bytes]) -> bytes:
    return chr(int(match.group(1), 16)).encode()


def _is_json(data: bytes) -> bool:
    try:
        _decode(data)
    except msgspec.DecodeError:
        if _SURROGATE.search(data) is None:
            return False
    except RecursionError:
        raise _too_deep() from None
    else:
        return True
    # a lone surrogate is JSON by its grammar (RFC 8259 §8.2) but not to the checker: check with a stand-in
    try:
        _decode(_SURROGATE.sub(rb"\\ufffd", data))
    except msgspec.DecodeError:
        return False
    except RecursionError:
        raise _too_deep() from None
    return True


def _too_deep() -> MaskingError:
    return MaskingError("too-deep", f"the JSON body is nested deeper than {MAX_DEPTH} levels")


def _depth_exceeds(data: bytes, limit: int) -> bool:
    """Valid JSON only. Each round removes the innermost brackets, so rounds count levels."""
    if _BACKSLASH in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    left = data.translate(_BRACKETS, _NO_BRACKETS).replace(b'""', b"")
    if b'"' in left:  # some strings hold brackets
        left = b"".join(left.split(b'"')[::2])
    for _ in range(limit):
        left = left.replace(b"[]", b"")
        if not left:
            return False
    return True


def _document(
    data: bytes, rules: Rules, searches: Sequence[Search], tally: Tally, node: Node | None, level: int
) -> list[Edit]:
    if node is None:
        return _sweep(data, rules, searches, tally, level)
    return _walk(data, rules, searches, tally, level, node)


def _sweep(data: bytes, rules: Rules, searches: Sequence[Search], tally: Tally, level: int) -> list[Edit]:
    """Visit only the tokens around `places`. Outside strings the number of quotes so far is even."""
    edits: list[Edit] = []
    at = 0
    for place in _places(data, searches, tally):
        if place < at:
            continue
        if data.count(b'"', at, place) & 1:
            start = data.rfind(b'"', at, place)
        elif data[place] == 0x22:  # a pattern that begins with a quote (a literal)
            start = place
        else:
            number = _NUMBER.match(data, _number_start(data, place, at))
            if number is not None and number.end() > place:
                edits += _number(data, *number.span(), rules, searches, tally)
                at = number.end()
            continue
        string = _STRING.match(data, start)
        if string is None:
            raise MaskingError("unparsable-body", "the JSON body could not be read")
        at = string.end()
        edits += _string(data, start, at, rules, searches, tally, level, _is_key(data, at))
    return edits


_NUMBER = re.compile(rb"-?[0-9][0-9.eE+-]*")
_COLON = re.compile(rb"\s*:")


def _is_key(data: bytes, end: int) -> bool:
    return _COLON.match(data, end) is not None


def _number_start(data: bytes, place: int, floor: int) -> int:
    while place > floor and data[place - 1] in b"0123456789.eE+-":
        place -= 1
    return place


def _places(data: bytes, searches: Sequence[Search], tally: Tally) -> list[int]:
    places: set[int] = set()
    for search in searches:
        places.update(search.places(data, tally))
    at = data.find(b"\\")
    while at >= 0:
        places.add(at)
        at = data.find(b"\\", at + 2)
    return sorted(places)


def _number(
    data: bytes, start: int, end: int, rules: Rules, searches: Sequence[Search], tally: Tally
) -> list[Edit]:
    """A number with a finding becomes a string, or null; a fraction or an exponent is never a finding."""
    text = data[start:end]
    if not text.removeprefix(b"-").isdigit():
        return []
    before = data[max(0, start - CONTEXT_BYTES) : start]
    edits, is_null = rules.edits(text, searches, before, tally)
    if is_null:
        return [Edit(start, end, b"null")]
    return [Edit(start, end, _quoted(apply_edits(text, edits)))] if edits else []


def _string(
    data: bytes, start: int, end: int, rules: Rules, searches: Sequence[Search], tally: Tally,
    level: int, is_key: bool, node: Node | None = None,
) -> list[Edit]:  # fmt: skip
    """Changes inside one string token, quotes included; a document in it is masked as one."""
    raw = data[start + 1 : end - 1]
    view: View | None = json_view(raw) if _BACKSLASH in raw else None
    text = raw if view is None else view.text
    before = data[max(0, start - CONTEXT_BYTES) : start]
    inner: list[Edit] | None = None
    if not is_key and _looks_like_document(text) and _is_json(text):
        if level >= MAX_DOCUMENTS:
            raise MaskingError(
                "too-deep", f"JSON inside strings is nested deeper than {MAX_DOCUMENTS} levels"
            )
        check_json(text)
        inner_searches = searches if view is None else first_look(text, rules)
        inner = _document(text, rules, inner_searches, tally, node, level + 1)
    if inner is None:
        inner, is_null = rules.edits(text, searches, before, tally)
        if is_null and not is_key:
            return [Edit(start, end, b"null")]
        if is_null:
            inner = [Edit(0, len(text), b"")]
    if view is not None:
        return view.edits(inner, start + 1)
    return [Edit(a + start + 1, b + start + 1, escape_json(new)) for a, b, new in inner]


def _looks_like_document(text: bytes) -> bool:
    head = text[:64].lstrip(b" \t\r\n")[:1] or text.lstrip(b" \t\r\n")[:1]
    return head in (b"{", b"[")


def _quoted(text: bytes) -> bytes:
    return b'"' + escape_json(text) + b'"'


def _walk(
    data: bytes, rules: Rules, searches: Sequence[Search], tally: Tally, level: int, root: Node
) -> list[Edit]:
    """One pass over every member of a valid document, following the path automaton."""
    edits: list[Edit] = []
    places = [*_places(data, searches, tally), len(data)]
    coming = 0  # the next place where a pattern matched or a backslash stands
    frames: list[tuple[bool, Node | None, Operator | None, str, int]] = []
    # the root value is like the only element of an array
    node: Node | None = Node(other_index=root)
    is_array, label, index = True, "", 0
    inherited: Operator | None = None
    operator: Operator | None
    replaced = 0  # depth inside a container that is replaced as a whole
    whole_from, whole = 0, b""
    for member in _MEMBER.finditer(data):
        kind = member.lastindex or _CLOSE
        if kind == _CLOSE:
            if not replaced:
                is_array, node, inherited, label, index = frames.pop()
                continue
            replaced -= 1
            if not replaced:
                edits.append(Edit(whole_from, member.end(), whole))
            continue
        if replaced:
            replaced += kind == _OPEN
            continue
        here = None
        if is_array:
            if node is not None:
                here = node.indexed.get(index, node.other_index) if node.indexed else node.other_index
                index += 1
        elif node is not None:
            name = member[_NAME]
            here = node.named.get(json_view(name).text if _BACKSLASH in name else name, node.other_name)
        end = member.end()
        if places[coming] < end:
            coming = _key_place(data, member, places, coming, edits, rules, searches, tally, level)
        operator, title = inherited, label
        if here is not None and here.operator is not None:
            operator = strictest(here.operator, inherited)
            title = here.label if operator is here.operator else label
        if kind == _OPEN:
            if operator is not None and operator.name in WHOLE_VALUE:
                whole_from, whole = end - 1, _whole(operator, title, tally)
                replaced = 1
                continue
            frames.append((is_array, node, inherited, label, index))
            is_array, node, inherited, label, index = data[end - 1] == 0x5B, here, operator, title, 0
            continue
        is_near = places[coming] < end
        if here is None and operator is None and not is_near:
            continue
        start = member.start(kind)
        if operator is not None and operator.rank:
            if kind == _TEXT or data[start] != 0x6E:  # null tells nothing and stays
                edits.append(
                    _by_path(data, start, end, operator, title, rules, searches if is_near else (), tally)
                )
        elif kind == _TEXT:
            if is_near or (here is not None and data[start + 1] in _MAY_BE_DOCUMENT):
                edits += _string(data, start, end, rules, searches, tally, level, False, here)
        elif is_near:
            edits += _number(data, start, end, rules, searches, tally)
        while places[coming] < end:
            coming += 1
    return edits


def _key_place(
    data: bytes, member: re.Match[bytes], places: list[int], coming: int,
    edits: list[Edit], rules: Rules, searches: Sequence[Search], tally: Tally, level: int,
) -> int:  # fmt: skip
    """Go on to the first place in the member's value; where the key has one, the key is visited."""
    start, end = member.span(_NAME)
    is_near = False
    while places[coming] < max(end, member.start()):
        is_near = is_near or start <= places[coming] < end
        coming += 1
    if is_near:
        edits += _string(data, start - 1, end + 1, rules, searches, tally, level, True)
    return coming


def _whole(operator: Operator, label: str, tally: Tally) -> bytes:
    tally.count(label)
    new = operator.apply(PATH_ENTITY, "")
    return b"null" if new is None else _quoted(new.encode("utf-8", "surrogatepass"))


def _by_path(
    data: bytes, start: int, end: int, operator: Operator, label: str,
    rules: Rules, searches: Sequence[Search], tally: Tally,
) -> Edit:  # fmt: skip
    """A string, a number, true or false that a path rule names."""
    text = data[start:end]
    if text[0] == 0x22:
        text = text[1:-1]
        if _BACKSLASH in text:
            text = json_view(text).text
    tally.count(label)
    before = data[max(0, start - CONTEXT_BYTES) : start]
    new = rules.change(text, operator, searches, before, tally, PATH_ENTITY)
    return Edit(start, end, b"null" if new is None else _quoted(new))


PATH_ENTITY = "MASKED"
"""What a path rule calls a value it knows nothing else about: `replace` writes `[MASKED]`."""
_MAY_BE_DOCUMENT = b"{[ \\"
