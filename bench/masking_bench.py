"""Masking cost as ratios within one run: `python -m bench.masking_bench`.

The unit is one `re2.Set` pass over the clean body, so figures compare across machines. Absolute times are not
printed: they say more about the machine than about the code.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from functools import partial
from time import process_time

from extproc.domain.mask import MaskSpec
from extproc.masking import ENTITIES, Masker, MaskSecrets, compile_masker
from extproc.masking.finder import Finder
from extproc.masking.recognizers import build_recognizers

SECRETS = MaskSecrets(hash_salt=b"bench-salt-bench-salt", hmac_key=b"bench-key-bench-key")
ROUNDS = 7


def documents(size: int) -> dict[str, bytes]:
    """Bodies of about `size` bytes: clean, clean with escapes, sparsely and densely dirty, all of one shape."""
    rows = max(1, size // 150)

    def body(dirty_every: int, *, note: str = "lorem ipsum dolor sit amet") -> bytes:
        return json.dumps(
            [
                {
                    "id": row,
                    "name": f"customer number {row}",
                    "mail": f"c{row}@example.com" if dirty_every and row % dirty_every == 0 else "on file",
                    "note": note,
                    "tags": ["a", "b"],
                    "total": 12.5 * row,
                    "when": "2024-01-15T10:00:00Z",
                }
                for row in range(rows)
            ]
        ).encode()

    return {
        "clean": body(0),
        "clean, escapes in every row": body(0, note='caf\u00e9\n"quoted"'),
        "dirty, one row in twenty": body(20),
        "dirty, every row": body(1),
    }


def cost(work: Callable[[], object], repeat: int) -> float:
    """CPU seconds for one call: the best of several rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = process_time()
        for _ in range(repeat):
            work()
        best = min(best, (process_time() - start) / repeat)
    return best


def walked(data: bytes, find: Callable[[bytes], object]) -> None:
    """The obvious way: parse, look at every string, serialise again."""

    def walk(value: object) -> object:
        if isinstance(value, str):
            find(value.encode())
        elif isinstance(value, dict):
            for key, member in value.items():
                walk(key)
                walk(member)
        elif isinstance(value, list):
            for member in value:
                walk(member)
        return value

    json.dumps(walk(json.loads(data)))


def main() -> None:
    entities = compile_masker([MaskSpec("all", entities=ENTITIES, operator="replace")], SECRETS)
    paths = compile_masker(
        [MaskSpec("all", entities=ENTITIES, paths=("$..card", "$[*].note"), operator="partial")], SECRETS
    )
    gc.disable()
    for label, size, repeat in (("20 KB", 20_000, 40), ("1 MB", 1_000_000, 1)):
        report(label, documents(size), entities, paths, repeat)


def report(label: str, bodies: dict[str, bytes], entities: Masker, paths: Masker, repeat: int) -> None:
    """One table, in units of a first look at the clean body."""
    look = Finder(build_recognizers(ENTITIES, ())).look
    unit = cost(lambda: look(bodies["clean"]), repeat)
    fewer = max(1, repeat // 8)
    print(f"{label} JSON, in passes of the first look (re2.Set)")
    for name, data in bodies.items():
        masked = cost(partial(entities.body, data, "application/json"), fewer) / unit
        by_path = cost(partial(paths.body, data, "application/json"), fewer) / unit
        print(f"  {name:30} entities {masked:6.1f}   entities and paths {by_path:6.1f}")
    walk = cost(lambda: walked(bodies["clean"], look), fewer) / unit
    print(f"  {'clean':30} parsing and walking every string {walk:6.1f}")


if __name__ == "__main__":
    main()
