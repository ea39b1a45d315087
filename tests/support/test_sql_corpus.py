"""What counts as an effect of a case of the corpus."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.support.sql_corpus import Case, Heard, has_effect


class Nowhere:
    """A database whose state is of no interest."""

    secrets: Sequence[bytes] = (b"kumquat",)

    def state(self) -> str:
        return ""

    def run(self, case: Case, *, governed: bool, prepared: bool = False) -> tuple[Heard, str]:
        raise NotImplementedError

    def restore(self, case: Case, after: str) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"E decision dec_9e50e4b5b30f9618d867\0", False),
        (b"E held as hold_18, session ses_1818", False),
        (b"D 18", True),
        (b"E decision dec_9e50 18", True),
    ],
)
def test_digits_of_an_id_of_ours_are_no_effect(said: bytes, *, shown: bool) -> None:
    case = Case("family", "case", ("SELECT 1",), effect="shows", shows=(b"18",))
    assert has_effect(Nowhere(), case, Heard(said), "", "") is shown


@pytest.mark.parametrize("said", [b"kumquat", b"tauqmuk", b"6b756d71756174", b"a3VtcXVhd"])
def test_a_secret_counts_in_any_spelling(said: bytes) -> None:
    case = Case("family", "case", ("SELECT 1",), effect="shows")
    assert has_effect(Nowhere(), case, Heard(said), "", "")
