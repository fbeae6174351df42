"""Tells labels to whoever judges rollouts: one Redis stream, bounded, under a hash of the id.

Best effort: the label itself is kept in Postgres and told to the event log; with Redis down a
rollout misses it.
"""

from typing import Any

from libs.common.redis import UNAVAILABLE, Redis
from libs.common.rollouts import LABELS_KEPT, LABELS_STREAM, label_ref


async def tell_label(redis: Redis, tenant: str, kind: str, subject_id: str, label: str) -> bool:
    """Add a label to the stream; a repeated one does no harm.

    Args:
        redis: a client that may write.
        tenant: whose label it is.
        kind: `transaction` or `prediction`, what `subject_id` names.
        subject_id: the id.
        label: what it turned out to be.

    Returns:
        Whether the stream has it.
    """
    entry: dict[Any, Any] = {"ref": label_ref(tenant, kind, subject_id), "label": label}
    try:
        await redis.xadd(LABELS_STREAM, entry, maxlen=LABELS_KEPT, approximate=True)
    except UNAVAILABLE:
        return False
    return True
