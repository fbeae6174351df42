"""Splitting without leaks: near-duplicates, pairs and templates stay on one side."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from training.text.sources import HELD, Row

_WORD = re.compile(r"\w+")


def shingle_clusters(texts: Sequence[str], *, words: int = 8, share: float = 0.5) -> list[int]:
    """Group near-duplicates: joined when they share half of the smaller text's shingles."""
    shingles = []
    for text in texts:
        tokens = _WORD.findall(text.lower())
        shingles.append(
            {" ".join(tokens[at : at + words]) for at in range(max(1, len(tokens) - words + 1))}
        )
    parent = list(range(len(texts)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    seen: dict[str, list[int]] = defaultdict(list)
    for index, own in enumerate(shingles):
        shared: Counter[int] = Counter()
        for shingle in own:
            for other in seen[shingle][:50]:
                shared[other] += 1
            seen[shingle].append(index)
        for other, count in shared.items():
            if count >= share * min(len(own), len(shingles[other])):
                # The smallest number names a cluster, whatever order a set is walked in.
                low, high = sorted((root(index), root(other)))
                parent[high] = low
    return [root(index) for index in range(len(texts))]


def windows(row: Row, characters: int = 480) -> list[Row]:
    """Cut a long text into two windows, so that length is no sign of an attack."""
    if len(row.text) <= characters * 1.3:
        return [row]
    middle = len(row.text) // 2
    later = Row(
        row.text[middle : middle + characters],
        row.source,
        dict(row.labels),
        cluster=row.cluster,
        weight=row.weight * 0.5,
    )
    return [row, later]


def split(rows: Sequence[Row], share: float = 0.1) -> tuple[list[Row], list[Row]]:
    """Split by cluster: a cluster lies on one side as a whole; some are held out by name."""
    held: list[Row] = []
    kept: list[Row] = []
    for row in rows:
        if row.source == "grammar":
            is_held = row.cluster.startswith(HELD)
        else:
            is_held = hashlib.sha256(row.cluster.encode()).digest()[0] < 256 * share
        (held if is_held else kept).append(row)
    return kept, held
