"""What the pure core needs from outside."""

from typing import Protocol


class Verify(Protocol):
    """Checks an Ed25519 signature; fails closed."""

    def __call__(self, public: bytes, signature: bytes, text: bytes) -> None:
        """Return when the signature of `text` holds under the 32-byte public key.

        Raises:
            services.audit.domain.tree.VerificationError: it does not hold.
        """
        ...
