"""Canaries are what recognizers find, differ from one another, and are found however they are written."""

import base64

import pytest

from extproc.ledger.canary import PLACES, Canary, canaries_of, seen_in
from tests.masking.support import found

SEEDS = [f"{number:032x}" for number in range(200)]


@pytest.mark.parametrize("kind", ["EMAIL_ADDRESS", "CREDIT_CARD", "IBAN_CODE"])
def test_every_recognizer_finds_its_canaries(kind):
    values = [canary.value for seed in SEEDS for canary in canaries_of(seed) if canary.kind == kind]
    assert [found(f'"{value}"', kind) for value in values] == [[value] for value in values]


def test_a_seed_gives_the_same_ones_again_and_all_differ():
    assert canaries_of("s") == canaries_of("s")
    values = [canary.value for seed in SEEDS for canary in canaries_of(seed)]
    assert len(set(values)) == len(values) == 200 * 3 * len(PLACES)


@pytest.mark.parametrize("written", ["%s", "x%sy", "\ufeff%s"])
def test_it_is_found_as_it_is_in_an_url_and_in_json(written):
    for canary in canaries_of("s"):
        for value in (canary.value, canary.value.replace("@", "%40"), canary.value.replace("@", "\\u0040")):
            assert seen_in((written % value).encode(), canaries_of("s")) == [canary.name]


def test_what_was_masked_is_not_found():
    (mail, card, iban, *_) = canaries_of("s")
    for text in (
        mail.value[:-1],
        card.value[1:],
        iban.value.lower(),
        base64.b64encode(mail.value.encode()).decode(),
    ):
        assert seen_in(text.encode(), canaries_of("s")) == []


def test_a_canary_does_not_show_its_value():
    assert "secret" not in repr(Canary("value 1", "answer", "secret"))
