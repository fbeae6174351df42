"""What happens to a span that is masked: replace, redact, mask, hash, encrypt, keep, synthetic.

Operators are pure functions from a span's text to its replacement. Keyed ones take their key from
the tenant, so that equal values give equal pseudonyms within a tenant and joins still work.
"""

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, ConfigDict, Field

# Ciphertext format, version 1: URL-safe base64 of nonce and sealed text behind this mark.
_SEALED = "gh1."
_NONCE_BYTES = 12
_SEALED_IN_TEXT = re.compile(r"gh1\.[A-Za-z0-9_-]{36,}={0,2}")


class CipherError(ValueError):
    """The ciphertext is not ours, was altered, or the key is another."""


class OperatorSpec(BaseModel):
    """One operator with its parameters, as a policy or a request writes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: str = Field(pattern="^(replace|redact|mask|hash|encrypt|keep|synthetic)$")
    new_value: str | None = Field(default=None, max_length=256)
    masking_char: str = Field(default="*", min_length=1, max_length=1)
    chars_to_mask: int | None = Field(default=None, ge=0)
    from_end: bool = False


@dataclass(frozen=True)
class TenantKeys:
    """Keys of one tenant, derived from the node's secret; 32 bytes each."""

    cache: bytes
    pseudonym: bytes
    cipher: bytes

    @classmethod
    def derive(cls, secret: bytes, tenant: str) -> "TenantKeys":
        """Derive the three keys of a tenant (HMAC-SHA256 as a PRF, one label each)."""

        def key(purpose: str) -> bytes:
            return hmac.digest(secret, f"guardrails:{purpose}:{tenant}".encode(), "sha256")

        return cls(key("cache"), key("pseudonym"), key("cipher"))


REPLACE = OperatorSpec(type="replace")


def edit(spec: OperatorSpec, label: str, text: str, keys: TenantKeys) -> str:
    """Give what stands in place of `text`.

    Args:
        spec: the operator.
        label: entity type of the span.
        text: the span's text.
        keys: of the tenant, for hash, encrypt and synthetic.
    """
    return _OPERATORS[spec.type](spec, label, text, keys)


def mask(text: str, char: str, count: int | None, *, from_end: bool) -> str:
    """Cover `count` characters (all when None or more than there are) from one end."""
    covered = len(text) if count is None else min(count, len(text))
    if from_end:
        return text[: len(text) - covered] + char * covered
    return char * covered + text[covered:]


def pseudonym(key: bytes, label: str, text: str) -> str:
    """Give the keyed hash of a value: equal values of a label join, nobody else can compute it."""
    digest = hmac.digest(key, f"{label}\x00{text}".encode(), "sha256").hex()
    return f"{label}_{digest[:24]}"


def seal(key: bytes, text: str, *, nonce: bytes | None = None) -> str:
    """Encrypt with AES-GCM under a random 96-bit nonce.

    Args:
        key: 16, 24 or 32 bytes.
        text: to encrypt.
        nonce: only for tests with published vectors.
    """
    used = nonce or os.urandom(_NONCE_BYTES)
    sealed = used + AESGCM(key).encrypt(used, text.encode(), _SEALED.encode())
    return _SEALED + base64.urlsafe_b64encode(sealed).decode()


def unseal(key: bytes, sealed: str) -> str:
    """Decrypt what `seal` made.

    Raises:
        CipherError: another format, an altered text or a wrong key.
    """
    if not sealed.startswith(_SEALED):
        raise CipherError("the text carries no known version mark")
    try:
        raw = base64.urlsafe_b64decode(sealed.removeprefix(_SEALED))
        plain = AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _SEALED.encode())
    except (ValueError, InvalidTag):
        raise CipherError("the ciphertext does not open with this key") from None
    return plain.decode()


def reveal(key: bytes, text: str) -> tuple[str, int]:
    """Open every ciphertext that `seal` left in a text; give the text and how many there were.

    Raises:
        CipherError: one of them was altered, or made with another key.
    """
    return _SEALED_IN_TEXT.subn(lambda match: unseal(key, match[0]), text)


def synthetic(key: bytes, label: str, text: str) -> str:
    """Give a stand-in of the same shape: digits for digits, letters for letters, by keyed hash.

    Equal values get equal stand-ins; punctuation and length stay, so formats still parse.
    """
    stream = hashlib.shake_256(hmac.digest(key, f"{label}\x00{text}".encode(), "sha256"))
    random_bytes = stream.digest(len(text))
    return "".join(_stand_in(char, byte) for char, byte in zip(text, random_bytes, strict=True))


def _stand_in(char: str, byte: int) -> str:
    if char.isdigit():
        return str(byte % 10)
    if char.isalpha():
        letter = chr(ord("a") + byte % 26)
        return letter.upper() if char.isupper() else letter
    return char


_OPERATORS: dict[str, Callable[[OperatorSpec, str, str, TenantKeys], str]] = {
    "replace": lambda spec, label, text, keys: spec.new_value or f"<{label}>",
    "redact": lambda spec, label, text, keys: "",
    "keep": lambda spec, label, text, keys: text,
    "mask": lambda spec, label, text, keys: mask(
        text, spec.masking_char, spec.chars_to_mask, from_end=spec.from_end
    ),
    "hash": lambda spec, label, text, keys: pseudonym(keys.pseudonym, label, text),
    "encrypt": lambda spec, label, text, keys: seal(keys.cipher, text),
    "synthetic": lambda spec, label, text, keys: synthetic(keys.pseudonym, label, text),
}
