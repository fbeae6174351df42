"""RFC 6962 Merkle tree: hashing, ranges of proofs, verification (RFC 9162 sections 2.1.3, 2.1.4).

A proof is described by leaf ranges `[start, end)`; whoever can hash a range can build it, from
leaves or from tiles. Sizes and indices are any non-negative 64-bit integers. Verification never
gives a bare False: it raises with expected, found and index.
"""

import hashlib
from collections.abc import Callable, Sequence

Range = tuple[int, int]
# Gives the hash of the perfect subtree of 2**height leaves number `index` at that height.
NodeOf = Callable[[int, int], bytes]

EMPTY_ROOT = hashlib.sha256(b"").digest()
SIZE_MAX = 2**64 - 1


class VerificationError(Exception):
    """A proof or a record does not fit; says what was expected, what was found, and where."""

    def __init__(
        self, what: str, *, expected: object = None, found: object = None, index: int | None = None
    ) -> None:
        super().__init__(what)
        self.expected = expected
        self.found = found
        self.index = index


def leaf_hash(entry: bytes) -> bytes:
    """Hash a leaf: SHA-256(0x00 || entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash an inner node: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Give the root over leaf hashes (or over roots of equal perfect subtrees)."""
    level = list(hashes)
    if not level:
        return EMPTY_ROOT
    while len(level) > 1:
        paired = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        # An odd last node rises unchanged: that is the split at the largest power of two.
        level = paired + level[len(level) & ~1 :]
    return level[0]


def perfect_nodes(span: Range) -> list[tuple[int, int]]:
    """Split a range into maximal perfect subtrees, left to right, as (height, index).

    The start must be a multiple of the smallest power of two that covers the range.
    """
    start, end = span
    nodes = []
    while start < end:
        height = (end - start).bit_length() - 1
        nodes.append((height, start >> height))
        start += 1 << height
    return nodes


def range_hash(span: Range, node_of: NodeOf) -> bytes:
    """Give MTH(D[start:end]) from perfect subtrees."""
    nodes = perfect_nodes(span)
    if not nodes:
        return EMPTY_ROOT
    result = node_of(*nodes[-1])
    for height, index in reversed(nodes[:-1]):
        result = node_hash(node_of(height, index), result)
    return result


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """Give the ranges whose hashes prove leaf `index` in a tree of `size`, leaf to root.

    Raises:
        VerificationError: the index is outside of the tree.
    """
    if not 0 <= index < size:
        raise VerificationError("index outside of the tree", expected=size, found=index)
    ranges: list[Range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old: int, new: int) -> list[Range]:
    """Give the ranges whose hashes prove that size `old` is a prefix of size `new`."""
    return [] if old == 0 else subtree_consistency_ranges(0, old, new)


def subtree_consistency_ranges(start: int, end: int, size: int) -> list[Range]:
    """Give the ranges that prove the subtree `[start, end)` consistent with a tree of `size`.

    Source: RFC 6962 section 2.1.2, generalized as in draft-ietf-plants-merkle-tree-certs.

    Raises:
        VerificationError: the subtree does not lie in the tree.
    """
    if not 0 <= start < end <= size:
        raise VerificationError("subtree outside of the tree", expected=size, found=end)
    ranges: list[Range] = []
    low, high, is_known = 0, size, True
    while (start, end) != (low, high):
        middle = low + _split(high - low)
        if end <= middle:
            ranges.append((middle, high))
            high = middle
            continue
        ranges.append((low, middle))
        if start < middle:
            start, is_known = middle, False
        low = middle
    return ranges[::-1] if is_known else [(low, high), *ranges[::-1]]


def verify_inclusion(
    index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that a leaf hash is at `index` in the tree of `size` with `root`.

    Raises:
        VerificationError: it is not proven.
    """
    if not 0 <= index < size:
        raise VerificationError("index outside of the tree", expected=size, found=index)
    _check_hashes([leaf, root, *proof])
    position, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise VerificationError("proof is too long", index=index)
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise VerificationError("proof is too short", index=index)
    if computed != root:
        raise VerificationError("root differs", expected=root, found=computed, index=index)


def verify_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of size `old` is a prefix of the tree of size `new`.

    From size 0 nothing can be proven unless both are empty, with the empty root on both sides.

    Raises:
        VerificationError: it is not proven.
    """
    if old == new:
        expected = EMPTY_ROOT if old == 0 else old_root
        if proof or old_root != new_root or old_root != expected:
            raise VerificationError("roots of equal sizes differ", expected=expected, index=old)
        return
    if not 0 < old < new:
        raise VerificationError("sizes are not provable", expected=new, found=old)
    _check_hashes([old_root, new_root, *proof])
    nodes = list(proof)
    if old & (old - 1) == 0:
        nodes.insert(0, old_root)
    if not nodes:
        raise VerificationError("proof is empty", index=old)
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    from_old = from_new = nodes[0]
    for sibling in nodes[1:]:
        if last == 0:
            raise VerificationError("proof is too long", index=old)
        if position & 1 or position == last:
            from_old, from_new = node_hash(sibling, from_old), node_hash(sibling, from_new)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            from_new = node_hash(from_new, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise VerificationError("proof is too short", index=old)
    if from_old != old_root:
        raise VerificationError("old root differs", expected=old_root, found=from_old, index=old)
    if from_new != new_root:
        raise VerificationError("new root differs", expected=new_root, found=from_new, index=new)


def _split(count: int) -> int:
    """Give the largest power of two below `count` (> 1)."""
    return 1 << ((count - 1).bit_length() - 1)


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(item) != 32 for item in hashes):
        raise VerificationError("a hash does not have 32 bytes")
