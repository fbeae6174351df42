"""C2SP tlog-tiles: which tile holds which hash, paths, and the growing right edge.

Tile n of level l holds the roots of 256 consecutive perfect subtrees of 256**l leaves, starting
with number n * 256. A partial tile is a prefix of the full one, so only the widest is stored.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from libs.common.transparency.tree import EMPTY_ROOT, VerificationError, node_hash, root_of

HASH_BYTES = 32
TILE_WIDTH = 256
LEVEL_MAX = 63

Coordinate = tuple[int, int]  # level, number
_PATH = re.compile(r"((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


def tile_width(level: int, number: int, size: int) -> int:
    """Give how many hashes of a tile exist in a tree of `size` leaves, 0 to 256."""
    return max(0, min(TILE_WIDTH, (size >> (8 * level)) - number * TILE_WIDTH))


def tile_of(height: int, index: int) -> tuple[Coordinate, int, int]:
    """Say where the perfect subtree (height, index) is found.

    Returns:
        Tile coordinate, first hash in it, and how many hashes its root is made of.
    """
    level, rest = divmod(height, 8)
    first = index << rest
    return (level, first // TILE_WIDTH), first % TILE_WIDTH, 1 << rest


def node_from_tiles(tiles: Mapping[Coordinate, bytes], height: int, index: int) -> bytes:
    """Give the hash of a perfect subtree from tiles.

    Raises:
        VerificationError: the tile is missing or too narrow.
    """
    coordinate, first, count = tile_of(height, index)
    hashes = tiles.get(coordinate, b"")
    part = hashes[first * HASH_BYTES : (first + count) * HASH_BYTES]
    if len(part) != count * HASH_BYTES:
        raise VerificationError(
            f"tile {coordinate[0]}/{coordinate[1]} is too narrow",
            expected=first + count,
            found=len(hashes) // HASH_BYTES,
            index=index << height,
        )
    return root_of(split_hashes(part))


def split_hashes(data: bytes) -> list[bytes]:
    """Cut a tile into its hashes."""
    return [data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)]


def parse_tile_path(text: str) -> tuple[int, int]:
    """Read `N[.p/W]` of a tile path.

    Returns:
        Number and width (256 for a full tile).

    Raises:
        ValueError: not canonical (groups, leading zeroes, width).
    """
    match = _PATH.fullmatch(text)
    if match is None:
        raise ValueError("not a tile path")
    number = int("".join(match.group(1).replace("x", "").split("/")) + match.group(2))
    width = int(match.group(3) or TILE_WIDTH)
    if tile_path(number) != match.group(1) + match.group(2) or number >= 1 << 56:
        raise ValueError("not a canonical tile path")
    if match.group(3) and width >= TILE_WIDTH:
        raise ValueError("a partial tile has 1 to 255 hashes")
    return number, width


def tile_path(number: int, width: int = TILE_WIDTH) -> str:
    """Give `N[.p/W]`: groups of three digits, all but the last with an x."""
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    path = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


def bundle(entries: Iterable[bytes]) -> bytes:
    """Give an entry bundle: each entry behind its big-endian uint16 length."""
    return b"".join(len(entry).to_bytes(2) + entry for entry in entries)


def edge_coordinates(size: int) -> list[Coordinate]:
    """List the partial tiles on the right edge of a tree, level by level."""
    found, level = [], 0
    while size >> (8 * level):
        count = size >> (8 * level)
        if count % TILE_WIDTH:
            found.append((level, count // TILE_WIDTH))
        level += 1
    return found


@dataclass(slots=True)
class Edge:
    """The right edge of a growing tree: size and the partial tile of each level."""

    size: int = 0
    partial: list[list[bytes]] = field(default_factory=list)

    @classmethod
    def from_tiles(cls, size: int, tiles: Mapping[Coordinate, bytes]) -> "Edge":
        """Rebuild the edge of a stored tree.

        Raises:
            VerificationError: an edge tile is missing or too narrow.
        """
        levels = max(1, -(-size.bit_length() // 8))
        edge = cls(size, [[] for _ in range(levels)])
        for level, number in edge_coordinates(size):
            width = tile_width(level, number, size)
            hashes = split_hashes(tiles.get((level, number), b"")[: width * HASH_BYTES])
            if len(hashes) != width:
                raise VerificationError(
                    f"edge tile {level}/{number} is too narrow", expected=width, found=len(hashes)
                )
            edge.partial[level] = hashes
        return edge

    def copy(self) -> "Edge":
        """Give an independent copy, to be kept only if its transaction commits."""
        return Edge(self.size, [list(hashes) for hashes in self.partial])

    def append(self, hashes: Iterable[bytes]) -> dict[Coordinate, bytes]:
        """Append leaf hashes and give the new content of each touched tile."""
        touched: dict[Coordinate, bytes] = {}
        dirty: set[int] = set()
        for leaf in hashes:
            self.size += 1
            carry: bytes | None = leaf
            level = 0
            while carry is not None:
                if level == len(self.partial):
                    self.partial.append([])
                tile = self.partial[level]
                tile.append(carry)
                dirty.add(level)
                carry = None
                if len(tile) == TILE_WIDTH:
                    number = (self.size >> (8 * level)) // TILE_WIDTH - 1
                    touched[level, number] = b"".join(tile)
                    carry = root_of(tile)
                    self.partial[level] = []
                    dirty.discard(level)
                    level += 1
        for level in dirty:
            number = (self.size >> (8 * level)) // TILE_WIDTH
            touched[level, number] = b"".join(self.partial[level])
        return touched

    def root(self) -> bytes:
        """Give the root of the whole tree."""
        result: bytes | None = None
        for hashes in self.partial:
            end = len(hashes)
            while end:
                count = end & -end
                subtree = root_of(hashes[end - count : end])
                result = subtree if result is None else node_hash(subtree, result)
                end -= count
        return EMPTY_ROOT if result is None else result
