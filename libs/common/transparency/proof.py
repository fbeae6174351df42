"""The proof file (`c2sp.org/tlog-proof@v1`): read and verified offline, by anybody."""

import base64
import binascii
from dataclasses import dataclass

from libs.common.transparency.note import Checkpoint, Verify
from libs.common.transparency.policy import Policy
from libs.common.transparency.tree import VerificationError, leaf_hash, verify_inclusion

HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class ProofFile:
    """An index, its audit path, and the signed checkpoint that it leads to."""

    index: int
    hashes: tuple[bytes, ...]
    note: str

    def text(self) -> str:
        """Give the file's text."""
        lines = [HEADER, f"index {self.index}"]
        lines += [base64.b64encode(item).decode() for item in self.hashes]
        return "\n".join(lines) + "\n\n" + self.note

    @classmethod
    def parse(cls, text: str) -> "ProofFile":
        """Read a proof file; an `extra` line is tolerated.

        Raises:
            VerificationError: malformed.
        """
        head, separator, note = text.partition("\n\n")
        lines = head.split("\n")
        if lines[0] != HEADER or not separator:
            raise VerificationError("not a tlog proof", expected=HEADER)
        rest = lines[1:]
        if rest and rest[0].startswith("extra "):
            rest = rest[1:]
        name, _, number = rest[0].partition(" ") if rest else ("", "", "")
        if name != "index" or not (number.isascii() and number.isdigit()):
            raise VerificationError("the proof names no index")
        try:
            hashes = tuple(base64.b64decode(line, validate=True) for line in rest[1:])
        except (binascii.Error, ValueError):
            raise VerificationError("a hash of the proof is malformed") from None
        return cls(int(number), hashes, note)

    def verify(self, leaf: bytes, policy: Policy, verify: Verify) -> Checkpoint:
        """Check that the exact leaf bytes are in the log, under a policy.

        Returns:
            The checkpoint that the proof leads to.

        Raises:
            VerificationError: a signature, the origin or the path does not hold.
        """
        checkpoint = policy.checkpoint_of(self.note, verify)
        verify_inclusion(self.index, checkpoint.size, leaf_hash(leaf), self.hashes, checkpoint.root)
        return checkpoint
