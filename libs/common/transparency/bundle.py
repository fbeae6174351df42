"""The evidence file: a zip that proves a range of the log without the log's server.

`manifest.json` (what it is), `checkpoint` (signed note), `leaves.jsonl` (exact leaf bytes, one per
line), `hashes.bin` (their hashes, which tell which leaf is wrong), `proof.txt` (both edges of the
tree, base64, one hash per line), `payloads.jsonl` (index, salt and stored bytes of the events that
the exporter may see). It holds no key: a verifier brings those.
"""

import base64
import binascii
import itertools
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from libs.common.transparency.note import Checkpoint, Verify
from libs.common.transparency.policy import Policy
from libs.common.transparency.records import Record, check_commitment, parse_leaf
from libs.common.transparency.spans import verify_range
from libs.common.transparency.tiles import split_hashes
from libs.common.transparency.tree import VerificationError, leaf_hash

FORMAT = "gatehouse-audit-evidence/1"
Payload = tuple[int, bytes, bytes]  # index, salt, stored bytes


class NotEvidenceError(Exception):
    """The file is not an evidence file, so nothing can be said about a log."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the file holds; nothing is trusted yet."""

    manifest: dict[str, Any]
    note: str
    leaves: list[bytes]
    hashes: list[bytes]
    proof: list[bytes]
    payloads: list[Payload]


def write_evidence(
    file: IO[bytes],
    manifest: dict[str, Any],
    note: str,
    leaves: Iterable[bytes],
    proof: Sequence[bytes],
    payloads: Iterable[Payload],
) -> None:
    """Write an evidence file."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps({"format": FORMAT, **manifest}, indent=1))
        archive.writestr("checkpoint", note)
        archive.writestr("proof.txt", "".join(f"{_text(item)}\n" for item in proof))
        hashes = bytearray()
        with archive.open("leaves.jsonl", "w", force_zip64=True) as out:
            for leaf in leaves:
                out.write(leaf + b"\n")
                hashes += leaf_hash(leaf)
        archive.writestr("hashes.bin", bytes(hashes))
        with archive.open("payloads.jsonl", "w", force_zip64=True) as out:
            for index, salt, body in payloads:
                row = {"index": index, "salt": _text(salt), "body": _text(body)}
                out.write(json.dumps(row).encode() + b"\n")


def read_evidence(path: Path) -> Evidence:
    """Read an evidence file.

    Raises:
        NotEvidenceError: missing, not such a file, or a member cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read("manifest.json"))
            if manifest["format"] != FORMAT or not isinstance(manifest["from_index"], int):
                raise NotEvidenceError(f"{path} is of another format")
            rows = [json.loads(line) for line in archive.read("payloads.jsonl").splitlines()]
            return Evidence(
                manifest=manifest,
                note=archive.read("checkpoint").decode(),
                leaves=archive.read("leaves.jsonl").split(b"\n")[:-1],
                hashes=split_hashes(archive.read("hashes.bin")),
                proof=[_bytes(line) for line in archive.read("proof.txt").decode().split()],
                payloads=[(row["index"], _bytes(row["salt"]), _bytes(row["body"])) for row in rows],
            )
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise NotEvidenceError(f"{path} cannot be read: {error}") from None


def verify_evidence(
    evidence: Evidence,
    policy: Policy,
    verify: Verify,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Check that the leaves are the log's, all of them in the range, and fit their payloads.

    Returns:
        Counts: leaves, payloads, size of the log that they were proven in.

    Raises:
        VerificationError: names the first bad index.
    """
    start, leaves = evidence.manifest["from_index"], evidence.leaves
    checkpoint = policy.checkpoint_of(evidence.note, verify)
    stored = {index: (salt, body) for index, salt, body in evidence.payloads}
    fault: VerificationError | None = None
    for offset, entry in enumerate(leaves):
        salt, body = stored.pop(start + offset, (None, None))
        record = Record(start + offset, entry, salt=salt, body=body)
        try:
            check_commitment(record, parse_leaf(record))
        except VerificationError as error:
            fault = error
            break
        if offset % 1000 == 0:
            progress(offset, len(leaves))
    hashes = [leaf_hash(entry) for entry in leaves]
    try:
        verify_range(start, hashes, checkpoint.size, evidence.proof, checkpoint.root)
    except VerificationError as error:
        named = _named(start, hashes, evidence, checkpoint, error)
        if fault is None or (named.index or 0) <= (fault.index or 0):
            fault = named
    if fault:
        raise fault
    if stored:
        raise VerificationError("a payload belongs to no leaf", index=min(stored))
    progress(len(leaves), len(leaves))
    return {
        "from_index": start,
        "to_index": start + len(leaves),
        "leaves": len(leaves),
        "payloads": len(evidence.payloads),
        "log_size": checkpoint.size,
    }


def _named(
    start: int,
    hashes: list[bytes],
    evidence: Evidence,
    checkpoint: Checkpoint,
    error: VerificationError,
) -> VerificationError:
    """Find the first wrong leaf by the file's own hashes, if these are the log's."""
    try:
        verify_range(start, evidence.hashes, checkpoint.size, evidence.proof, checkpoint.root)
    except VerificationError:
        return error
    for index, (expected, found) in enumerate(
        itertools.zip_longest(evidence.hashes, hashes, fillvalue=b""), start
    ):
        if expected != found:
            what = "the leaf is not the log's"
            return VerificationError(what, expected=expected, found=found, index=index)
    return error


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
