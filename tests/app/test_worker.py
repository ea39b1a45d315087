"""Parts of the worker that need no process."""

from __future__ import annotations

from extproc.adapters.random_hex import RandomHex


def test_ids_have_their_size_and_never_repeat() -> None:
    draw = RandomHex()
    drawn = [draw(size) for _ in range(3000) for size in (8, 16)]
    assert len(set(drawn)) == len(drawn)
    assert {len(text) for text in drawn} == {16, 32}
    assert all(set(text) <= set("0123456789abcdef") for text in drawn)
