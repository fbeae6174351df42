"""The whole log, checked from its rows: leaves, payloads, tiles, root, checkpoints, keys.

Pure and incremental: a driver feeds batches of records in index order and the tiles that they
touch; the first bad index of a batch is raised. What is checked against what: payload -> leaf
(salted commitment) -> level-0 tile -> upper tiles -> root -> signed checkpoints -> cosignatures ->
a checkpoint that was kept elsewhere, without which a log that was cut or forked as a whole looks
sound.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from libs.common.transparency.note import Checkpoint, Verify
from libs.common.transparency.policy import Policy
from libs.common.transparency.records import (
    Pruned,
    Record,
    check_commitment,
    differences,
    parse_leaf,
)
from libs.common.transparency.tiles import HASH_BYTES, TILE_WIDTH, Coordinate, Edge, tile_width
from libs.common.transparency.tree import VerificationError, leaf_hash

ERASED = "data_subject.erased"


@dataclass(frozen=True, slots=True)
class Head:
    """What the log says about itself."""

    size: int
    root: bytes
    min_index: int


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A row of the checkpoint table."""

    size: int
    root: bytes
    note: str
    is_witnessed: bool


@dataclass(slots=True)
class Findings:
    """What a sound log turned out to be."""

    size: int = 0
    leaves: int = 0
    payloads: int = 0
    checkpoints: int = 0
    witnessed: int = 0
    unsigned_tail: int = 0
    unwitnessed_tail: int = 0
    pseudonyms: set[str] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)


class LogCheck:
    """One pass over a log."""

    def __init__(
        self,
        policy: Policy,
        verify: Verify,
        head: Head,
        *,
        checkpoints: Sequence[StoredCheckpoint],
        pruned: Sequence[Pruned] = (),
        kept: Sequence[str] = (),
        edge: Edge | None = None,
    ) -> None:
        """Check what does not need the records.

        Args:
            policy: whom the verifier trusts; its witnesses must have cosigned some checkpoint.
            verify: checks a signature.
            head: size, root and minimum index.
            checkpoints: every stored checkpoint, by size.
            pruned: what was removed on record.
            kept: notes that were kept outside of the log, by the witness or by an auditor.
            edge: right edge of the tree at the minimum index; None when nothing was removed.

        Raises:
            VerificationError: a checkpoint is bad, or the log is smaller than one.
        """
        self.findings = Findings(size=head.size)
        self._policy = policy
        self._verify = verify
        self._head = head
        self._pruned = pruned
        self._edge = edge or Edge()
        self._next = self._edge.size
        self._moment = ""
        # Once an erasure's own record may lie in what was removed, a gone key proves nothing.
        self._hides_erasures = head.min_index > 0
        self._signed: dict[int, bytes] = {}
        self._good = 0
        self._witnessed_to = 0
        for stored in checkpoints:
            self._take(stored)
        for note in kept:
            self._promise(policy.checkpoint_of(note, verify))
        if not self._signed and head.size:
            raise VerificationError("no checkpoint is stored", expected=head.size, found=0, index=0)
        if policy.witnesses and head.size and not self.findings.witnessed:
            raise VerificationError(
                "no checkpoint is cosigned", expected=policy.witnesses[0].name, index=0
            )
        self.findings.unsigned_tail = head.size - max(self._signed, default=0)
        self.findings.unwitnessed_tail = head.size - self._witnessed_to

    def _take(self, stored: StoredCheckpoint) -> None:
        is_cosigned = stored.is_witnessed and bool(self._policy.witnesses)
        policy = self._policy if is_cosigned else Policy(self._policy.log)
        try:
            checkpoint = policy.checkpoint_of(stored.note, self._verify)
        except VerificationError as error:
            raise VerificationError(
                f"checkpoint of size {stored.size}: {error}",
                expected=error.expected,
                found=error.found,
                index=stored.size,
            ) from None
        if (checkpoint.size, checkpoint.root) != (stored.size, stored.root):
            raise VerificationError(
                "a checkpoint's row differs from its note",
                expected=checkpoint.size,
                found=stored.size,
                index=stored.size,
            )
        self.findings.checkpoints += 1
        if is_cosigned:
            self.findings.witnessed += 1
            self._witnessed_to = max(self._witnessed_to, checkpoint.size)
        self._promise(checkpoint)

    def _promise(self, checkpoint: Checkpoint) -> None:
        known = self._signed.setdefault(checkpoint.size, checkpoint.root)
        if known != checkpoint.root:
            raise VerificationError(
                "two checkpoints of one size differ",
                expected=known,
                found=checkpoint.root,
                index=checkpoint.size,
            )
        if checkpoint.size > self._head.size:
            raise VerificationError(
                "the log is smaller than a signed checkpoint",
                expected=checkpoint.size,
                found=self._head.size,
                index=self._head.size,
            )

    def feed(self, batch: Sequence[Record], tiles: Mapping[Coordinate, bytes]) -> None:
        """Check the next records against their leaves, tiles and checkpoints.

        Args:
            batch: in index order, without a gap to the former batch.
            tiles: stored content of every tile of `tiles_over(first, last + 1)`.

        Raises:
            VerificationError: names the first bad index.
        """
        hashes: list[bytes] = []
        fault: VerificationError | None = None
        for record in batch:
            try:
                hashes.append(self._record(record, tiles))
            except VerificationError as error:
                fault = error
                break
        self._grow(hashes, tiles)
        if fault:
            raise fault

    def _record(self, record: Record, tiles: Mapping[Coordinate, bytes]) -> bytes:
        index = self._next
        if index >= self._head.size:
            raise VerificationError(
                "a leaf beyond the log",
                expected=self._head.size,
                found=record.index,
                index=record.index,
            )
        if record.index != index:
            what = "a leaf is missing" if record.index > index else "an index is there twice"
            where = min(index, record.index)
            raise VerificationError(what, expected=index, found=record.index, index=where)
        found = leaf_hash(record.leaf)
        at = index % TILE_WIDTH * HASH_BYTES
        expected = tiles.get((0, index // TILE_WIDTH), b"")[at : at + HASH_BYTES]
        if found != expected:
            raise VerificationError(
                "leaf and tile differ", expected=expected, found=found, index=index
            )
        leaf = parse_leaf(record)
        check_commitment(record, leaf)
        for name, wanted, present in differences(record, leaf):
            if wanted != present:
                raise VerificationError(
                    f"{name} differs", expected=wanted, found=present, index=index
                )
        if leaf["ingested_at"] < self._moment:
            raise VerificationError(
                "time runs backwards", expected=self._moment, found=leaf["ingested_at"], index=index
            )
        self._complete(record, leaf)
        self._moment = leaf["ingested_at"]
        self._next += 1
        self._note(record, leaf)
        return found

    def _complete(self, record: Record, leaf: Mapping[str, Any]) -> None:
        """Check that no row is missing, unless it was removed on record."""
        if record.key is None:
            raise VerificationError("the dedupe row is missing", index=record.index)
        is_pruned = any(span.covers(record.index, leaf["retention"]) for span in self._pruned)
        if record.body is None and not is_pruned:
            raise VerificationError("the payload is missing", index=record.index)
        if record.search is None and not is_pruned:
            raise VerificationError("the search row is missing", index=record.index)

    def _note(self, record: Record, leaf: Mapping[str, Any]) -> None:
        self.findings.leaves += 1
        if leaf.get("subject"):
            self.findings.pseudonyms.add(leaf["subject"])
        if record.body is None:
            self._hides_erasures |= leaf["type"] == ERASED
        else:
            self.findings.payloads += 1
            if leaf["type"] == ERASED:
                self.findings.erased.add(json.loads(record.body)["data"]["pseudonym"])

    def _grow(self, hashes: Sequence[bytes], tiles: Mapping[Coordinate, bytes]) -> None:
        """Append leaf hashes; compare the root at each checkpoint and every touched tile."""
        start, base = 0, self._edge.size
        stops = sorted(size - base for size in self._signed if base < size <= base + len(hashes))
        for stop in [*stops, len(hashes)]:
            touched = self._edge.append(hashes[start:stop])
            start = stop
            for coordinate, content in sorted(touched.items()):
                _compare(coordinate, content, tiles.get(coordinate, b""))
            self._meet()

    def _meet(self) -> None:
        size = self._edge.size
        if size in self._signed:
            if self._edge.root() != self._signed[size]:
                raise VerificationError(
                    f"the log is not the signed one somewhere in [{self._good}, {size})",
                    expected=self._signed[size],
                    found=self._edge.root(),
                    index=self._good,
                )
            self._good = size

    def finish(
        self, subjects: Mapping[str, bool], shapes: Iterable[tuple[int, int, int]]
    ) -> Findings:
        """Check what only the whole log can show.

        Args:
            subjects: whether the key lives, by pseudonym.
            shapes: level, number and bytes of every stored tile, sorted.

        Raises:
            VerificationError: names the first bad index.
        """
        if self._next != self._head.size:
            raise VerificationError(
                "leaves are missing at the end",
                expected=self._head.size,
                found=self._next,
                index=self._next,
            )
        root = self._edge.root()
        if root != self._head.root:
            raise VerificationError(
                "the stored root differs", expected=root, found=self._head.root, index=self._good
            )
        self._check_shapes(shapes)
        self._check_subjects(subjects)
        return self.findings

    def _check_shapes(self, shapes: Iterable[tuple[int, int, int]]) -> None:
        found = {(level, number): length for level, number, length in shapes}
        for level, number, length in _expected_shapes(self._head.size):
            present = found.pop((level, number), 0)
            if present != length:
                first = number * TILE_WIDTH + min(present, length) // HASH_BYTES
                raise VerificationError(
                    f"tile {level}/{number} has another length",
                    expected=length,
                    found=present,
                    index=first << (8 * level),
                )
        for level, number in sorted(found):
            raise VerificationError(
                f"tile {level}/{number} is not of this log", index=self._head.size
            )

    def _check_subjects(self, subjects: Mapping[str, bool]) -> None:
        """A key may be gone only on record, and must be gone when the record says so."""
        for pseudonym in sorted(self.findings.pseudonyms):
            if pseudonym not in subjects:
                raise VerificationError("the key of a data subject is missing", expected=pseudonym)
        for pseudonym, is_alive in subjects.items():
            is_recorded = pseudonym in self.findings.erased
            if is_alive and is_recorded:
                raise VerificationError("an erased key is back", found=pseudonym)
            if not (is_alive or is_recorded or self._hides_erasures):
                raise VerificationError("a key was erased off the record", found=pseudonym)


def tiles_over(start: int, end: int) -> list[Coordinate]:
    """List the tiles, of every level, that hold or summarize the leaves `[start, end)`."""
    found: list[Coordinate] = []
    level = 0
    while level == 0 or end >> (8 * level):
        shift = 8 * (level + 1)
        found += [(level, n) for n in range(start >> shift, ((end - 1) >> shift) + 1)]
        level += 1
    return found


def _compare(coordinate: Coordinate, content: bytes, stored: bytes) -> None:
    level, number = coordinate
    if stored[: len(content)] == content:
        return
    at = next(
        i
        for i in range(0, len(content), HASH_BYTES)
        if stored[i : i + HASH_BYTES] != content[i : i + HASH_BYTES]
    )
    raise VerificationError(
        f"tile {level}/{number} differs",
        expected=content[at : at + HASH_BYTES],
        found=stored[at : at + HASH_BYTES],
        index=(number * TILE_WIDTH + at // HASH_BYTES) << (8 * level),
    )


def _expected_shapes(size: int) -> Iterator[tuple[int, int, int]]:
    level = 0
    while size >> (8 * level):
        number = 0
        while width := tile_width(level, number, size):
            yield level, number, width * HASH_BYTES
            number += 1
        level += 1
