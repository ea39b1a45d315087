"""What a mask plan is made of: policy files and settings both define these; `masking/` compiles them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OperatorName = Literal["keep", "partial", "hash", "hmac", "replace", "null", "redact"]


@dataclass(frozen=True, slots=True)
class MaskSpec:
    """One named mask: where to look, what to look for, what to do with it.

    `columns` are `table.column` (SQL only), `paths` are JSONPath (`$..card`), `entities` are recognizer names.
    `replacement` is used by `replace`; `partial` keeps `keep_last` characters.
    """

    name: str
    columns: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    operator: OperatorName = "redact"
    replacement: str = ""
    keep_last: int = 4


@dataclass(frozen=True, slots=True)
class Masked:
    """Masked bytes or text with its proof: kinds and counts, never values.

    When nothing was found `changed` is False and `data` is the input itself, byte for byte.
    """

    data: bytes
    changed: bool
    counts: dict[str, int]
