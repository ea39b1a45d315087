"""A range of a tree is shown without the rest, and two implementations agree on it."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.ledger.alone.verify import Bad, Tree, is_beginning, root_of_range
from extproc.ledger.cut import span
from extproc.ledger.merkle import prove_consistency, prove_inclusion, prove_range, root_of


def entries(count: int) -> list[bytes]:
    return [sha256(bytes([n % 256, n // 256])).digest() for n in range(count)]


def mth(d: list[bytes]) -> bytes:
    """MTH as RFC 6962 section 2.1 defines it, as a third implementation."""
    if not d:
        return sha256(b"").digest()
    if len(d) == 1:
        return sha256(b"\x00" + d[0]).digest()
    k = 1
    while k * 2 < len(d):
        k *= 2
    return sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


sizes = st.integers(1, 90)


@given(sizes)
def test_three_implementations_agree_on_roots(size):
    tree = Tree()
    for entry in entries(size):
        tree.append(entry)
    assert tree.root() == root_of(entries(size)) == mth(entries(size))


@given(
    sizes.flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n - 1)).flatmap(
            lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(pair[1] + 1, pair[0]))
        )
    )
)
def test_a_range_gives_the_root_with_its_proof_and_no_other_range_does(case):
    size, first, end = case
    every = entries(size)
    proof = prove_range(every, first, end)
    assert root_of_range(every[first:end], first, size, proof) == mth(every)
    spoiled = [sha256(b"forged").digest(), *every[first + 1 : end]]
    assert root_of_range(spoiled, first, size, proof) != mth(every)
    with pytest.raises(Bad):
        root_of_range(every[first:end], first, size, [*proof, b"x" * 32])
    if proof:
        with pytest.raises(Bad):
            root_of_range(every[first:end], first, size, proof[:-1])


@given(sizes.flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_a_range_of_one_has_the_nodes_of_an_inclusion_proof(case):
    size, index = case
    assert sorted(prove_range(entries(size), index, index + 1)) == sorted(
        prove_inclusion(entries(size), index)
    )


@given(sizes.flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_consistency_proofs_hold_in_the_other_implementation(case):
    size, old = case
    every = entries(size)
    proof = prove_consistency(every, old)
    assert is_beginning(old, mth(every[:old]), size, mth(every), proof)
    assert not is_beginning(old, sha256(b"other").digest(), size, mth(every), proof)
    assert old == size or not is_beginning(old, mth(every[:old]), size, sha256(b"other").digest(), proof)
    assert not is_beginning(old, mth(every[:old]), size, mth(every), [*proof, b"x" * 32])


SPANS = {
    "all": ("a", "z", (0, 4)),
    "the middle with its borders": ("c", "d", (1, 3)),
    "two in the middle": ("b", "d", (0, 3)),
    "before everything": ("A", "B", (0, 0)),
    "after everything": ("x", "z", (4, 4)),
    "between two": ("cc", "cd", (2, 3)),
}


@pytest.mark.parametrize("case", SPANS.values(), ids=SPANS.keys())
def test_a_period_takes_one_record_on_each_side(case):
    since, until, found = case
    assert span(["a", "b", "c", "d", "e"], since, until) == found


def test_a_clock_that_was_set_back_loses_nothing():
    assert span(["a", "d", "b", "e"], "c", "e") == (0, 3)
    assert span([], "a", "b") == (0, -1)
