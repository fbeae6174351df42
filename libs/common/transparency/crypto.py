"""Checks Ed25519 signatures with `cryptography`; fails closed."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from libs.common.transparency.tree import VerificationError


def verify_ed25519(public: bytes, signature: bytes, text: bytes) -> None:
    """Return when the signature of `text` holds under the 32-byte public key.

    Raises:
        VerificationError: it does not hold, or key or signature are malformed.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except (InvalidSignature, ValueError):
        raise VerificationError("a signature does not hold") from None
