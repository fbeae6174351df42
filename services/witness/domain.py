"""The judgement of a witness (C2SP tlog-witness): pure, the state comes in and goes out."""

import base64
import binascii
from dataclasses import dataclass

from libs.common.transparency.note import Checkpoint, VerifierKey, Verify, open_note
from libs.common.transparency.tree import EMPTY_ROOT, VerificationError, verify_consistency

PROOF_LINES_MAX = 63
_SIZE_TYPE = "text/x.tlog.size"


class RefusalError(Exception):
    """Why a checkpoint is not cosigned, as the protocol answers it."""

    def __init__(self, status: int, text: str, content_type: str = "text/plain") -> None:
        super().__init__(text)
        self.status = status
        self.content_type = content_type


@dataclass(frozen=True, slots=True)
class Request:
    """Body of add-checkpoint: the size it starts from, the proof, the signed checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    note: str

    @classmethod
    def parse(cls, body: bytes) -> "Request":
        """Read the body.

        Raises:
            RefusalError: 400, malformed.
        """
        try:
            head, separator, note = body.decode().partition("\n\n")
            first, *lines = head.split("\n")
            word, _, size = first.partition(" ")
            proof = tuple(base64.b64decode(line, validate=True) for line in lines)
        except (UnicodeDecodeError, binascii.Error, ValueError):
            raise RefusalError(400, "the body is malformed\n") from None
        is_number = size.isascii() and size.isdigit() and len(size) < 20 and str(int(size)) == size
        if not separator or word != "old" or not is_number or len(proof) > PROOF_LINES_MAX:
            raise RefusalError(400, "the body is malformed\n")
        return cls(int(size), proof, note)


def origin_of(note: str) -> str:
    """Give the first line of a note, by which the log is looked up."""
    return note.partition("\n")[0]


def judge(
    request: Request, key: VerifierKey, last: Checkpoint | None, verify: Verify
) -> Checkpoint:
    """Say whether a checkpoint may be cosigned after the last one.

    Args:
        request: what the log sent.
        key: the log's key.
        last: the last cosigned checkpoint of this origin, None before the first.
        verify: checks a signature.

    Returns:
        The checkpoint to cosign.

    Raises:
        RefusalError: with the protocol's status.
    """
    try:
        text, _ = open_note(request.note, [key], verify)
    except VerificationError as error:
        raise RefusalError(403, f"{error}\n") from None
    try:
        new = Checkpoint.parse(text)
    except VerificationError as error:
        raise RefusalError(400, f"{error}\n") from None
    if request.old > new.size:
        raise RefusalError(400, "old is larger than the checkpoint\n")
    known = last.size if last else 0
    if request.old != known:
        raise RefusalError(409, f"{known}\n", _SIZE_TYPE)
    try:
        _prove(request, last, new)
    except VerificationError as error:
        raise RefusalError(422, f"{error}\n") from None
    return new


def _prove(request: Request, last: Checkpoint | None, new: Checkpoint) -> None:
    """Check the proof; old = 0 never reaches the verifier, which can prove nothing from it."""
    if request.old == 0:
        if request.proof:
            raise VerificationError("from size 0 there is no proof")
        if new.size == 0 and new.root != EMPTY_ROOT:
            raise VerificationError("the empty tree has another root")
        return
    assert last is not None
    verify_consistency(last.size, new.size, last.root, new.root, request.proof)
