"""Who meets which version: a keyed hash of tenant and data subject, in basis points.

The bucket depends on the rollout's salt, the tenant and the subject only, so an assignment is the
same in every replica and survives restarts. A higher weight only adds subjects.
"""

from collections.abc import Mapping
from enum import StrEnum
from hashlib import blake2b

# Weights are in basis points: 10,000 are all subjects.
BUCKETS = 10_000


class Arm(StrEnum):
    """Which version answered; `fallback` is stable answering for a candidate that failed."""

    STABLE = "stable"
    CANDIDATE = "candidate"
    FALLBACK = "fallback"


def subject_key(salt: str, tenant: str, subject: str) -> int:
    """Hash a subject to 64 bits; the salt keeps the assignments of two rollouts independent.

    Args:
        salt: of the rollout, at most 64 bytes; its id.
        tenant: whose data it is.
        subject: card, user or session; length-prefixing keeps ("a", "bc") and ("ab", "c") apart.
    """
    text = f"{len(tenant)}:{tenant}{subject}"
    digest = blake2b(text.encode(), digest_size=8, key=salt.encode())
    return int.from_bytes(digest.digest(), "big")


def bucket_of(salt: str, tenant: str, subject: str) -> int:
    """Give the subject's bucket, 0 to 9,999."""
    return subject_key(salt, tenant, subject) % BUCKETS


def arm_of(bucket: int, weight_bp: int) -> Arm:
    """Give the arm of a bucket: the candidate has the first `weight_bp` of them."""
    return Arm.CANDIDATE if bucket < weight_bp else Arm.STABLE


def choose(bucket: int, weights_bp: Mapping[str, int]) -> str:
    """Pick one of several versions; weights are in basis points and sum to 10,000.

    Raises:
        ValueError: they do not sum to 10,000.
    """
    if sum(weights_bp.values()) != BUCKETS:
        raise ValueError("weights must sum to 10,000 basis points")
    end = 0
    for version, weight in weights_bp.items():
        end += weight
        if bucket < end:
            return version
    raise ValueError("a bucket is 0 to 9,999")
