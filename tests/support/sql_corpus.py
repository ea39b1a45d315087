"""A corpus of statements that must not have their effect, for any database: run past us, then through us.

A file is one family; its keys are defaults for its cases:

```yaml
family: hidden writes
as: readers            # the caller's group
effect: changes        # or: shows
cases:
  - id: cte-delete
    do: WITH gone AS (DELETE FROM ledger RETURNING *) SELECT count(*) FROM gone
  - id: two-in-one
    do: ["BEGIN", "SELECT 1; DELETE FROM ledger"]
    gate: refused
```

`do` is one step or several; a step is a text, or whatever else the database's own side understands.
`effect: changes` wants the state of the server to differ afterwards, while the connection is still open;
`effect: shows` wants the client to receive `shows` (without it, any canary, plain or encoded).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

OUR_IDS = re.compile(rb"\b(dec|ses|hold)_[0-9a-f]+")
"""What a refusal of ours names: drawn at random, so that any two digits are in some of them."""
Gate = Literal["refused", "masked", "nothing", "passes"]
"""What comes of a case behind us: an error of ours; rows without the canary; nothing of what was asked, without an
error of ours; or, declared as a miss, the effect itself."""


@dataclass(frozen=True)
class Case:
    """One statement, or a few that belong together, with an effect that the caller must not have."""

    family: str
    id: str
    do: tuple[Any, ...]
    caller: str = "readers"
    effect: Literal["changes", "shows"] = "changes"
    shows: tuple[bytes, ...] = ()
    gate: Gate = "refused"
    prepared: bool = True
    """Whether its texts are run as prepared statements as well."""
    startup: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""
    """What is sent where the server asks for COPY data."""
    given: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    needs: str = ""
    declared: str = ""
    """For a miss: words of the documentation that admit it."""

    @property
    def can_be_prepared(self) -> bool:
        return self.prepared and all(isinstance(step, str) for step in self.do)

    @property
    def name(self) -> str:
        return f"{self.family}/{self.id}".replace(" ", "-")


@dataclass
class Heard:
    """What a client was told in all. `refused` by us; `answered` with rows or data."""

    said: bytes = b""
    refused: bool = False
    answered: bool = False
    closed: bool = False


class Database(Protocol):
    """One server with a world of tables on it, reached in two ways."""

    secrets: Sequence[bytes]

    def state(self) -> str:
        """Text that differs when anything that a case may change does."""
        ...

    def run(self, case: Case, *, governed: bool, prepared: bool = False) -> tuple[Heard, str]:
        """What the client heard, and the state before it left."""
        ...

    def restore(self, case: Case, after: str) -> None:
        """The state of the beginning; `after` is what `run` saw."""
        ...


def load(folder: Path) -> list[Case]:
    """Every case of every file. Raises ValueError for a name given twice or a key that nobody knows."""
    found: dict[str, Case] = {}
    for path in sorted(folder.glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        cases = document.pop("cases")
        for written in cases:
            case = _case({**document, **written})
            if case.name in found:
                raise ValueError(f"{path.name}: {case.name} is there twice")
            found[case.name] = case
    return list(found.values())


def _case(written: dict[str, Any]) -> Case:
    for name in ("do", "given", "undo", "shows"):
        value = written.get(name, [])
        written[name] = tuple(value if isinstance(value, list) else [value])
    written["caller"] = written.pop("as", "readers")
    written["shows"] = tuple(text.encode("latin-1") for text in written["shows"])
    written["data"] = written.get("data", "").encode()
    written["id"] = str(written["id"])
    try:
        return Case(**written)
    except TypeError as error:
        raise ValueError(f"{written['id']}: {error}") from None


def spellings(secret: bytes) -> Iterator[bytes]:
    """A secret as a result could carry it."""
    yield secret
    yield secret.upper()
    yield secret[::-1]
    yield secret.hex().encode()
    yield base64.b64encode(secret).rstrip(b"=")[:-2]


def has_effect(database: Database, case: Case, heard: Heard, before: str, after: str) -> bool:
    """Whether a case did what it is there for."""
    if case.effect == "changes":
        return after != before
    sought = case.shows or [each for secret in database.secrets for each in spellings(secret)]
    said = OUR_IDS.sub(b"", heard.said)
    return any(each in said for each in sought)


def stop_as_declared(case: Case, heard: Heard) -> bool:
    """Whether it was stopped in the way that the corpus says."""
    match case.gate:
        case "refused":
            return heard.refused
        case "masked":
            return heard.answered and not heard.refused
        case "nothing":
            return not heard.refused
        case _:
            return True
