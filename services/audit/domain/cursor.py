"""Opaque, signed cursors: an index that only we can have given out; stable under append."""

import base64
import binascii
import hmac

_TAG_BYTES = 8


def encode_cursor(index: int, key: bytes) -> str:
    """Give the cursor that continues below `index`."""
    data = index.to_bytes(8)
    return base64.urlsafe_b64encode(data + _tag(data, key)).rstrip(b"=").decode()


def decode_cursor(text: str, key: bytes) -> int:
    """Read a cursor.

    Raises:
        ValueError: not one of ours.
    """
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise ValueError("not a cursor") from None
    if len(data) != 8 + _TAG_BYTES or not hmac.compare_digest(data[8:], _tag(data[:8], key)):
        raise ValueError("not a cursor")
    return int.from_bytes(data[:8])


def _tag(data: bytes, key: bytes) -> bytes:
    return hmac.digest(key, b"cursor" + data, "sha256")[:_TAG_BYTES]
