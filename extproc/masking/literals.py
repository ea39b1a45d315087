"""A configured value (an injected credential) as a recognizer: found in every spelling an echo may give it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from urllib.parse import quote, quote_plus

import re2

from extproc.domain.errors import PolicyError
from extproc.masking.confirm import BASE64_CHARS, Confirm, Spans

LITERAL = "LITERAL"
MIN_LITERAL = 8


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


def literal_pattern(literals: Sequence[str]) -> tuple[bytes, Confirm]:
    """The pattern for all spellings of `literals`, and its confirmation. Raises PolicyError: too short a literal."""
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
            start -= start > 0 and text[start - 1] in BASE64_CHARS
            end += end < len(text) and text[end] in BASE64_CHARS
        return ((start, end),)

    return pattern, confirm
