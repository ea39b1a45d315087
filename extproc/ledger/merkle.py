"""The Merkle tree of RFC 6962 section 2.1, and its proofs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()


class Tree:
    """A tree that only grows, kept as the roots of its complete subtrees (at most one per power of two).

    Entries are raw bytes; here they are 32-byte record hashes.
    """

    __slots__ = ("_peaks", "size")

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []  # by level; b"" where there is no subtree of that size

    def append(self, entry: bytes) -> None:
        """Add one entry at the right."""
        self.extend([entry])

    def extend(self, entries: Sequence[bytes]) -> None:
        """Add entries at the right, level by level."""
        nodes = [sha256(b"\0" + entry).digest() for entry in entries]
        self.size += len(nodes)
        level = 0
        while nodes:
            if level == len(self._peaks):
                self._peaks.append(b"")
            if self._peaks[level]:
                nodes.insert(0, self._peaks[level])
            self._peaks[level] = nodes.pop() if len(nodes) & 1 else b""
            nodes = [
                sha256(b"\1" + left + right).digest()
                for left, right in zip(nodes[::2], nodes[1::2], strict=True)
            ]
            level += 1

    def root(self) -> bytes:
        """The root over all entries so far."""
        node = b""
        for peak in self._peaks:
            if peak:
                node = sha256(b"\1" + peak + node).digest() if node else peak
        return node or EMPTY_ROOT


def hash_leaf(entry: bytes) -> bytes:
    """The leaf of an entry."""
    return sha256(b"\0" + entry).digest()


def hash_pair(left: bytes, right: bytes) -> bytes:
    """The node over two nodes."""
    return sha256(b"\1" + left + right).digest()


def root_of(entries: Iterable[bytes]) -> bytes:
    """The root over `entries`."""
    tree = Tree()
    tree.extend(list(entries))
    return tree.root()


def prove_inclusion(entries: Sequence[bytes], index: int) -> list[bytes]:
    """PATH(index, entries), lowest node first. Raises IndexError."""
    if not 0 <= index < len(entries):
        raise IndexError("no such entry")
    path: list[bytes] = []
    low, high = 0, len(entries)
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(root_of(entries[middle:high]))
            high = middle
        else:
            path.append(root_of(entries[low:middle]))
            low = middle
    return path[::-1]


def prove_consistency(entries: Sequence[bytes], old_size: int) -> list[bytes]:
    """PROOF(old_size, entries): that the tree of the first `old_size` entries is a beginning of this one."""
    if not 0 < old_size <= len(entries):
        raise IndexError("no such tree")
    proof: list[bytes] = []
    low, high = 0, len(entries)
    old_is_whole = True  # the old tree is exactly this subtree, so its root need not be given
    while old_size != high - low:
        middle = _split(high - low)
        if old_size <= middle:
            proof.append(root_of(entries[low + middle : high]))
            high = low + middle
        else:
            proof.append(root_of(entries[low : low + middle]))
            low += middle
            old_size -= middle
            old_is_whole = False
    if not old_is_whole:
        proof.append(root_of(entries[low:high]))
    return proof[::-1]


def verify_inclusion(entry: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Does `path` show that `entry` stands at `index` in the tree of `size` entries with this root?"""
    if not 0 <= index < size:
        return False
    node, last = hash_leaf(entry), size - 1
    for sibling in path:
        if last == 0:
            return False
        if index & 1 or index == last:
            node = hash_pair(sibling, node)
            while not index & 1 and index:  # a right edge without a sibling moves up for free
                index >>= 1
                last >>= 1
        else:
            node = hash_pair(node, sibling)
        index >>= 1
        last >>= 1
    return last == 0 and node == root


def verify_consistency(
    old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> bool:
    """Does `proof` show that the tree with `root` extends the one with `old_root`?"""
    if not 0 < old_size <= size:
        return False
    if old_size == size:
        return not proof and old_root == root
    nodes = list(proof)
    if old_size & (old_size - 1) == 0:
        nodes.insert(0, old_root)
    if not nodes:
        return False
    index, last = old_size - 1, size - 1
    while index & 1:
        index >>= 1
        last >>= 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if index & 1 or index == last:
            old, new = hash_pair(node, old), hash_pair(node, new)
            while not index & 1 and index:
                index >>= 1
                last >>= 1
        else:
            new = hash_pair(new, node)
        index >>= 1
        last >>= 1
    return last == 0 and old == old_root and new == root


def _split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    power: int = 1 << ((size - 1).bit_length() - 1)
    return power


def prove_range(entries: Sequence[bytes], first: int, end: int) -> list[bytes]:
    """What shows that `entries[first:end]` stand there: the roots of the largest subtrees without any of them,
    from left to right. Raises IndexError.
    """
    if not 0 <= first < end <= len(entries):
        raise IndexError("no such range")
    proof: list[bytes] = []

    def visit(low: int, high: int) -> None:
        if high <= first or low >= end:
            proof.append(root_of(entries[low:high]))
        elif high - low > 1:
            middle = low + _split(high - low)
            visit(low, middle)
            visit(middle, high)

    visit(0, len(entries))
    return proof
