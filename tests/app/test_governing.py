"""Settings become a governance: what is compiled, and how much of it is kept."""

from __future__ import annotations

from itertools import combinations

from extproc.app.governing import MAX_COMBINATIONS, _maskers
from extproc.domain.mask import MaskSpec
from extproc.masking import MaskSecrets

SECRETS = MaskSecrets(hash_salt=b"s" * 32, hmac_key=b"k" * 32)


def test_combinations_of_masks_that_callers_choose_do_not_pile_up() -> None:
    specs = {f"m{n}": MaskSpec(f"m{n}", entities=("US_SSN",)) for n in range(9)}
    masker_for = _maskers(specs, SECRETS, [], 1 << 20)
    single = masker_for(("m1",))
    pairs = [masker_for(names) for size in (2, 3) for names in combinations(specs, size)]
    assert len(pairs) > MAX_COMBINATIONS
    kept = [
        cell.cell_contents for cell in masker_for.__closure__ or () if isinstance(cell.cell_contents, dict)
    ]
    (made,) = [found for found in kept if () in found]
    assert len(made) == 1 + len(specs) + MAX_COMBINATIONS
    assert masker_for(("m1",)) is single
    assert masker_for(("m6", "m7", "m8")) is pairs[-1]
