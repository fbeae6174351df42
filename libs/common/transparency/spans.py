"""Proofs of a whole range of leaves: both edges of the tree around `[start, end)`.

The hashes are those of the maximal subtrees outside of the range, left to right; whoever has every
leaf of the range rebuilds the root from them, so that nothing inside can be left out.
"""

from collections.abc import Iterator, Sequence

from libs.common.transparency.tree import Range, VerificationError, node_hash, root_of


def outside_ranges(start: int, end: int, size: int) -> list[Range]:
    """Give the subtrees of a tree of `size` that do not touch `[start, end)`, left to right.

    Raises:
        VerificationError: the range is empty or outside of the tree.
    """
    if not 0 <= start < end <= size:
        raise VerificationError("range outside of the tree", expected=size, found=end, index=start)
    return list(_outside(0, size, start, end))


def _outside(low: int, high: int, start: int, end: int) -> Iterator[Range]:
    if high <= start or low >= end:
        yield low, high
    elif not (start <= low and high <= end):
        middle = low + (1 << ((high - low - 1).bit_length() - 1))
        yield from _outside(low, middle, start, end)
        yield from _outside(middle, high, start, end)


def verify_range(
    start: int, hashes: Sequence[bytes], size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that consecutive leaf hashes are the leaves from `start` on of the tree with `root`.

    Raises:
        VerificationError: it is not proven.
    """
    end = start + len(hashes)
    if len(outside_ranges(start, end, size)) != len(proof):
        raise VerificationError("the range proof has the wrong length", index=start)
    if any(len(item) != 32 for item in proof):
        raise VerificationError("a hash does not have 32 bytes", index=start)
    edges = iter(proof)

    def fold(low: int, high: int) -> bytes:
        if high <= start or low >= end:
            return next(edges)
        if start <= low and high <= end:
            return root_of(hashes[low - start : high - start])
        middle = low + (1 << ((high - low - 1).bit_length() - 1))
        left = fold(low, middle)
        return node_hash(left, fold(middle, high))

    computed = fold(0, size)
    if computed != root:
        raise VerificationError("root differs", expected=root, found=computed, index=start)
