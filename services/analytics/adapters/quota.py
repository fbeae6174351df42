"""The quota of attempts to reach Gemini: one log for all replicas."""

import time
from collections.abc import Callable

from libs.common.quota import EgressQuota
from libs.common.redis import Redis

WINDOW_S = 60
QUOTA_KEY = "reports:{gemini}:attempts"


class Quota(EgressQuota):
    """Grants attempts, `limit` per sliding minute."""

    def __init__(
        self,
        redis: Redis,
        *,
        limit: int,
        replicas: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            redis, QUOTA_KEY, limit=limit, replicas=replicas, window_s=WINDOW_S, clock=clock
        )
