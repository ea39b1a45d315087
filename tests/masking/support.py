"""What the masking tests share: keys, short ways to build a masker."""

from __future__ import annotations

from extproc.domain.mask import MaskSpec, OperatorName
from extproc.masking import ENTITIES, Masker, MaskSecrets, compile_masker

SECRETS = MaskSecrets(hash_salt=b"a salt of enough bytes", hmac_key=b"a key of enough bytes")
JSON = "application/json"


def masker(
    *specs: MaskSpec,
    entities: tuple[str, ...] = (),
    operator: OperatorName = "replace",
    literals: tuple[str, ...] = (),
) -> Masker:
    """A masker for `specs`, or for one spec over `entities`."""
    if entities:
        specs = (*specs, MaskSpec("m", entities=entities, operator=operator))
    return compile_masker(specs, SECRETS, literals=literals)


EVERYTHING = masker(entities=ENTITIES)


def found(text: str, entity: str) -> list[str]:
    """What one recognizer finds in a text, by masking it and comparing."""
    from extproc.masking.finder import Finder, Tally
    from extproc.masking.recognizers import build_recognizers

    finder = Finder(build_recognizers((entity,), ()))
    data = text.encode()
    findings = finder.find(data, finder.look(data), b"", Tally(1000))
    return [data[finding.start : finding.end].decode() for finding in findings]
