"""Which requests create something, so that their answer is kept under an Idempotency-Key."""

from libs.common.catalog.model import Route

# Beside the administration: ingestion, labels, loads of history.
_CREATING = frozenset({"/features/events", "/features/backfills", "/push", "/v1/feedback"})
# Answers that say nothing about the request itself: the same one may pass later.
_PASSING = frozenset({408, 425, 429})


def creates(service: str, route: Route) -> bool:
    """Say whether a POST of this route may be told apart from its repetition by a key."""
    return route.method == "POST" and (
        service == "gateway" or route.lane == "admin" or route.path in _CREATING
    )


def is_final(status: int) -> bool:
    """Say whether the same request would be answered the same way again."""
    return status < 500 and status not in _PASSING
