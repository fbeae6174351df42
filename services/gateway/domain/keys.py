"""API keys: their text form, checksum and digest.

`gh_<12 base62 id>_<43 base62 secret><6 base62 CRC32>`: the id finds the row, the secret has 256
bits, the checksum tells a typo from a wrong key without a look-up. Only the digest
HMAC-SHA256(pepper, whole key) is stored, so that a stolen table is useless without the pepper.
"""

import hashlib
import hmac
import re
import secrets
import zlib

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(r"gh_([0-9A-Za-z]{12})_[0-9A-Za-z]{49}")
ID_LENGTH = 12
SECRET_LENGTH = 43
CHECKSUM_LENGTH = 6


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def checksum(text: str) -> str:
    """Give the CRC32 of `text` as six base62 digits."""
    number = zlib.crc32(text.encode())
    digits = []
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def new_key() -> tuple[str, str]:
    """Make a key.

    Returns:
        Its id and its whole text; the text is shown once and never stored.
    """
    key_id = _random_text(ID_LENGTH)
    body = f"gh_{key_id}_{_random_text(SECRET_LENGTH)}"
    return key_id, body + checksum(body)


def looks_like_key(text: str) -> bool:
    """Say whether `text` claims to be an API key at all (rather than a token)."""
    return text.startswith("gh_")


def key_id_of(text: str) -> str | None:
    """Give the id of a well-formed key, or None when the form or the checksum is wrong."""
    match = _SHAPE.fullmatch(text)
    if match is None or checksum(text[:-CHECKSUM_LENGTH]) != text[-CHECKSUM_LENGTH:]:
        return None
    return match[1]


def digest(pepper: bytes, text: str) -> bytes:
    """Give what is stored of a key: HMAC-SHA256 with the pepper over the whole text."""
    return hmac.new(pepper, text.encode(), hashlib.sha256).digest()


def same(left: bytes, right: bytes) -> bool:
    """Compare two digests in constant time."""
    return hmac.compare_digest(left, right)
