"""Against RFC 6962 section 2.1 written down as it stands there, and its published test tree."""

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.ledger.merkle import (
    EMPTY_ROOT,
    Tree,
    prove_consistency,
    prove_inclusion,
    root_of,
    verify_consistency,
    verify_inclusion,
)

# the tree that certificate transparency implementations test with
CT_ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
sizes = st.integers(1, 70)


def entries(count: int) -> list[bytes]:
    return [sha256(bytes([n % 256, n // 256])).digest() for n in range(count)]


def mth(d: list[bytes]) -> bytes:
    """MTH as the RFC defines it."""
    if not d:
        return sha256(b"").digest()
    if len(d) == 1:
        return sha256(b"\x00" + d[0]).digest()
    k = 1
    while k * 2 < len(d):
        k *= 2
    return sha256(b"\x01" + mth(d[:k]) + mth(d[k:])).digest()


def test_published_roots_come_out():
    assert [root_of(CT_ENTRIES[: n + 1]).hex() for n in range(8)] == CT_ROOTS
    assert Tree().root() == EMPTY_ROOT == sha256(b"").digest()


@given(st.lists(st.integers(0, 40), max_size=8))
def test_a_tree_grown_in_any_steps_has_the_root_of_the_definition(steps):
    tree = Tree()
    all_entries = entries(sum(steps))
    at = 0
    for step in steps:
        tree.extend(all_entries[at : at + step])
        at += step
        assert tree.root() == mth(all_entries[:at])
    assert tree.size == at


@given(sizes, st.data())
@settings(max_examples=60)
def test_every_entry_can_be_shown_to_be_in_the_tree(size, data):
    index = data.draw(st.integers(0, size - 1))
    tree = entries(size)
    root = mth(tree)
    path = prove_inclusion(tree, index)
    assert verify_inclusion(tree[index], index, size, path, root)
    assert not verify_inclusion(b"\xff" * 32, index, size, path, root)
    assert not verify_inclusion(tree[index], index, size, [*path, b"\0" * 32], root)
    assert not verify_inclusion(tree[index], index + size, size, path, root)
    assert not any(
        verify_inclusion(tree[index], other, size, path, root) for other in range(size) if other != index
    )
    if path:
        assert not verify_inclusion(tree[index], index, size, path[:-1], root)


@given(sizes, st.data())
@settings(max_examples=60)
def test_a_tree_can_be_shown_to_extend_an_older_one(size, data):
    old_size = data.draw(st.integers(1, size))
    tree = entries(size)
    proof = prove_consistency(tree, old_size)
    old_root, root = mth(tree[:old_size]), mth(tree)
    assert verify_consistency(old_size, old_root, size, root, proof)
    assert not verify_consistency(old_size, b"\0" * 32, size, root, proof)
    assert not verify_consistency(old_size, old_root, size, b"\0" * 32, proof)
    assert not verify_consistency(old_size, old_root, size, root, [*proof, b"\0" * 32])
    assert not verify_consistency(0, old_root, size, root, proof)


@given(sizes, st.integers(1, 70), st.lists(st.binary(min_size=32, max_size=32), max_size=8))
def test_made_up_proofs_prove_nothing(size, old_size, proof):
    assert not verify_consistency(old_size, b"\1" * 32, size, b"\2" * 32, proof)
    assert not verify_inclusion(b"\1" * 32, 0, size, proof, b"\2" * 32)


@pytest.mark.parametrize("index", [-1, 5])
def test_there_is_no_proof_for_an_entry_that_is_not_there(index):
    with pytest.raises(IndexError):
        prove_inclusion(entries(5), index)


@pytest.mark.parametrize("old_size", [0, 6])
def test_there_is_no_proof_for_a_tree_that_never_was(old_size):
    with pytest.raises(IndexError):
        prove_consistency(entries(5), old_size)
