"""The leaf: a commitment to an event in canonical JSON (RFC 8785), not the event itself.

`payload_hash` = SHA-256(salt || stored bytes). The salt lies beside the payload and goes with it:
without it a bare hash of low-entropy personal data would fall to a dictionary attack.
"""

import hashlib
from datetime import UTC, datetime

import orjson

# The note's bound; our leaves have about 350 bytes.
LEAF_BYTES_MAX = 4096
SALT_BYTES = 32


def payload_hash(salt: bytes, body: bytes) -> str:
    """Give the commitment to the stored bytes, hex."""
    return hashlib.sha256(salt + body).hexdigest()


def leaf_bytes(
    *,
    event_id: str,
    source: str,
    event_type: str,
    ingested_at: str,
    retention: str,
    subject: str | None,
    commitment: str,
) -> bytes:
    """Give the exact bytes that the tree hashes.

    Raises:
        ValueError: longer than `LEAF_BYTES_MAX`.
    """
    document: dict[str, str | int] = {
        "v": 1,
        "id": event_id,
        "source": source,
        "type": event_type,
        "ingested_at": ingested_at,
        "retention": retention,
        "payload_hash": commitment,
    }
    if subject is not None:
        document["subject"] = subject
    # Equal to RFC 8785 for ASCII keys, strings and small integers (a test compares), 10x faster.
    data = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    if len(data) > LEAF_BYTES_MAX:
        raise ValueError(f"a leaf has at most {LEAF_BYTES_MAX} bytes")
    return data


def rfc3339(moment: datetime) -> str:
    """Give a moment as RFC 3339 in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def next_moment(previous: datetime, now: datetime) -> datetime:
    """Give the ingestion time: never before the previous one, so time order is index order."""
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    return max(previous, now)
