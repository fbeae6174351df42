"""Whom a verifier trusts: the log's key, and the witnesses that must have cosigned."""

from dataclasses import dataclass

from libs.common.transparency.note import Checkpoint, VerifierKey, Verify, open_note
from libs.common.transparency.tree import VerificationError


@dataclass(frozen=True, slots=True)
class Policy:
    """Verification policy `log` or `log + witness`.

    Attributes:
        log: the log's key; its name is the origin.
        witnesses: every one of them must have cosigned.
    """

    log: VerifierKey
    witnesses: tuple[VerifierKey, ...] = ()

    def checkpoint_of(self, note: str, verify: Verify) -> Checkpoint:
        """Give the checkpoint of a note that satisfies the policy.

        Raises:
            VerificationError: malformed, of another log, or a signature is missing or wrong.
        """
        text, signers = open_note(note, [self.log, *self.witnesses], verify)
        checkpoint = Checkpoint.parse(text)
        if checkpoint.origin != self.log.name:
            raise VerificationError(
                "another log", expected=self.log.name, found=checkpoint.origin, index=0
            )
        for key in (self.log, *self.witnesses):
            if key.name not in signers:
                raise VerificationError(
                    "a signature that the policy asks for is missing",
                    expected=key.name,
                    found=", ".join(signers),
                )
        return checkpoint
