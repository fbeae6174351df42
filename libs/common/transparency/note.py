"""C2SP signed notes and checkpoints: Ed25519 (type 0x01) and cosignatures of witnesses (0x04).

A note is text, an empty line, and signature lines `— <name> base64(key id || signature)`.
A checkpoint's text is origin, size and base64 root, one per line. Ed25519 is deterministic: the
same tree, key and origin give the same bytes everywhere. A cosignature carries its time: eight
bytes of POSIX seconds, then a signature over `cosignature/v1\ntime <seconds>\n` and the text.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from libs.common.transparency.tree import SIZE_MAX, VerificationError

ED25519 = 0x01
COSIGNATURE = 0x04
SIGNATURES_MAX = 64
_PREFIX = "— "
_NAME = re.compile(r"[^\s+]+")


class Verify(Protocol):
    """Checks an Ed25519 signature; fails closed."""

    def __call__(self, public: bytes, signature: bytes, text: bytes) -> None:
        """Return when the signature of `text` holds under the 32-byte public key.

        Raises:
            VerificationError: it does not hold.
        """
        ...


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key as notes name it; `kind` says whether it signs as a log or as a witness."""

    name: str
    key_id: bytes
    public: bytes
    kind: int = ED25519

    @classmethod
    def of(cls, name: str, public: bytes, kind: int = ED25519) -> "VerifierKey":
        """Name an Ed25519 public key.

        Raises:
            ValueError: the name holds white space or a plus sign.
        """
        if not _NAME.fullmatch(name):
            raise ValueError("a key name has no white space and no plus sign")
        digest = hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()
        return cls(name, digest[:4], public, kind)

    @classmethod
    def parse(cls, text: str) -> "VerifierKey":
        """Read `<name>+<hex key id>+base64(type || public key)`.

        Raises:
            ValueError: malformed, of another type, or the key id does not fit.
        """
        name, key_id, encoded = text.strip().split("+", 2)
        data = base64.b64decode(encoded, validate=True)
        if len(data) != 33 or data[0] not in (ED25519, COSIGNATURE):
            raise ValueError("not an Ed25519 verifier key")
        key = cls.of(name, data[1:], data[0])
        if key.key_id.hex() != key_id:
            raise ValueError("the key id does not fit the key")
        return key

    def __str__(self) -> str:
        encoded = base64.b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Origin, size and root of a log at one moment."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Give the signed text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Read the text of a checkpoint; extension lines are tolerated.

        Raises:
            VerificationError: malformed.
        """
        lines = text.split("\n")
        try:
            origin, size, root = lines[0], lines[1], base64.b64decode(lines[2], validate=True)
        except (IndexError, binascii.Error, ValueError):
            raise VerificationError("the checkpoint is malformed") from None
        is_number = size.isascii() and size.isdigit() and str(int(size)) == size
        if not origin or not is_number or int(size) > SIZE_MAX or len(root) != 32:
            raise VerificationError("the checkpoint is malformed")
        return cls(origin, int(size), root)


def signature_line(key: VerifierKey, signature: bytes) -> str:
    """Give one signature line, with its newline."""
    return f"{_PREFIX}{key.name} {base64.b64encode(key.key_id + signature).decode()}\n"


def sign_note(text: str, key: VerifierKey, sign: Callable[[bytes], bytes]) -> str:
    """Sign a text that ends in a newline."""
    return f"{text}\n{signature_line(key, sign(text.encode()))}"


def cosign(text: str, key: VerifierKey, seconds: int, sign: Callable[[bytes], bytes]) -> str:
    """Give a witness's signature line over a checkpoint's text at a POSIX time."""
    signature = sign(_cosigned(text, seconds))
    return signature_line(key, seconds.to_bytes(8) + signature)


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _check(key: VerifierKey, signature: bytes, text: str, verify: Verify) -> None:
    if key.kind == ED25519:
        verify(key.public, signature, text.encode())
    else:
        verify(key.public, signature[8:], _cosigned(text, int.from_bytes(signature[:8])))


def open_note(note: str, keys: Iterable[VerifierKey], verify: Verify) -> tuple[str, list[str]]:
    """Check a note against known keys; unknown keys are ignored.

    Returns:
        The text, and the names of the known keys that signed it (at least one).

    Raises:
        VerificationError: malformed, no known key, or a known key's signature fails.
    """
    if any((ord(c) < 0x20 and c != "\n") or ord(c) == 0x7F for c in note):
        raise VerificationError("the note holds control characters")
    head, separator, tail = note.rpartition("\n\n")
    lines = tail.split("\n")
    if not separator or lines[-1] != "" or not 1 <= len(lines) - 1 <= SIGNATURES_MAX:
        raise VerificationError("the note has no signatures")
    text = head + "\n"
    known = {(key.name, key.key_id): key for key in keys}
    signers: list[str] = []
    for line in lines[:-1]:
        name, key_id, signature = _parse_line(line)
        key = known.get((name, key_id))
        if key is not None and name not in signers:
            _check(key, signature, text, verify)
            signers.append(name)
    if not signers:
        raise VerificationError("no known key signed the note")
    return text, signers


def _parse_line(line: str) -> tuple[str, bytes, bytes]:
    name, _, encoded = line.removeprefix(_PREFIX).partition(" ")
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not line.startswith(_PREFIX) or not _NAME.fullmatch(name) or len(data) < 5:
        raise VerificationError("a signature line is malformed")
    return name, data[:4], data[4:]
