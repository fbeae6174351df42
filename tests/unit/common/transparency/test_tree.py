"""Tree and tiles against a slow, obvious implementation of RFC 6962."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.transparency import tiles, tree

LEAVES = [tree.leaf_hash(i.to_bytes(4)) for i in range(1500)]


def mth(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 6962 section 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


@st.composite
def growing(draw: st.DrawFn) -> list[int]:
    sizes = draw(st.lists(st.integers(0, 1500), min_size=1, max_size=5))
    return sorted({0, *sizes})


@given(growing())
@settings(max_examples=40, deadline=None)
def test_any_sequence_of_appends_gives_the_root_and_tiles_of_the_definition(sizes):
    edge, stored = tiles.Edge(), {}
    for old, new in pairwise(sizes):
        stored.update(edge.append(LEAVES[old:new]))
        assert edge.root() == mth(LEAVES[:new])
        assert tiles.Edge.from_tiles(new, stored).root() == edge.root()
    size = sizes[-1]
    joined = b"".join(stored[key] for key in sorted(stored) if key[0] == 0)
    assert tiles.split_hashes(joined) == LEAVES[:size]
    for (level, number), hashes in stored.items():
        assert len(hashes) == 32 * tiles.tile_width(level, number, size)


def _stored(size: int) -> dict[tiles.Coordinate, bytes]:
    return tiles.Edge().append(LEAVES[:size])


@given(st.integers(1, 1500), st.data())
@settings(max_examples=60, deadline=None)
def test_inclusion_proofs_from_tiles_are_those_of_the_definition_and_verify(size, data):
    index = data.draw(st.integers(0, size - 1))
    stored = _stored(size)
    proof = [
        tree.range_hash(span, lambda h, i: tiles.node_from_tiles(stored, h, i))
        for span in tree.inclusion_ranges(index, size)
    ]
    assert proof == path(index, LEAVES[:size])
    root = mth(LEAVES[:size])
    tree.verify_inclusion(index, size, LEAVES[index], proof, root)
    with pytest.raises(tree.VerificationError):
        tree.verify_inclusion(index, size, LEAVES[index], [*proof, root], root)
    for i in range(len(proof)):
        wrong = [*proof[:i], bytes(32), *proof[i + 1 :]]
        with pytest.raises(tree.VerificationError):
            tree.verify_inclusion(index, size, LEAVES[index], wrong, root)


@given(st.integers(1, 1500), st.data())
@settings(max_examples=60, deadline=None)
def test_consistency_proofs_verify_and_a_changed_prefix_does_not(size, data):
    old = data.draw(st.integers(1, size))
    stored = _stored(size)
    proof = [
        tree.range_hash(span, lambda h, i: tiles.node_from_tiles(stored, h, i))
        for span in tree.consistency_ranges(old, size)
    ]
    old_root, root = mth(LEAVES[:old]), mth(LEAVES[:size])
    tree.verify_consistency(old, size, old_root, root, proof)
    changed = mth([*LEAVES[: old - 1], bytes(32)])
    with pytest.raises(tree.VerificationError):
        tree.verify_consistency(old, size, changed, root, proof)


def test_from_size_zero_nothing_is_proven_but_emptiness():
    empty = tree.EMPTY_ROOT
    tree.verify_consistency(0, 0, empty, empty, [])
    with pytest.raises(tree.VerificationError):
        tree.verify_consistency(0, 0, bytes(32), bytes(32), [])
    with pytest.raises(tree.VerificationError):
        tree.verify_consistency(0, 5, empty, mth(LEAVES[:5]), [])


def test_paths_of_64_bit_trees_stay_within_64_hashes():
    size = 2**63 + 12345
    assert len(tree.inclusion_ranges(size - 1, size)) <= 64
    assert len(tree.consistency_ranges(2**40 + 7, size)) <= 65
    with pytest.raises(tree.VerificationError):
        tree.inclusion_ranges(size, size)


@given(st.integers(0, 2**56 - 1), st.integers(1, 255))
def test_tile_paths_are_read_back(number, width):
    assert tiles.parse_tile_path(tiles.tile_path(number)) == (number, 256)
    assert tiles.parse_tile_path(tiles.tile_path(number, width)) == (number, width)


@pytest.mark.parametrize(
    "text",
    ["", "0", "0000", "x000/000", "001/002", "x001/x002", "000.p/0", "000.p/256", "000.p/01"],
)
def test_a_path_that_is_not_canonical_is_refused(text):
    with pytest.raises(ValueError, match=r"path|partial"):
        tiles.parse_tile_path(text)
