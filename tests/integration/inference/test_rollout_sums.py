"""What replicas add up and read in Redis."""

import time

import pytest

from libs.common.redis import create_redis
from libs.common.rollouts import LABELS_STREAM
from services.inference.adapters.rollout_sums import RedisRolloutSums

pytestmark = pytest.mark.anyio


async def test_a_label_rests_before_it_is_read(redis_url):
    redis = create_redis(redis_url)
    now = int(time.time() * 1e3)
    for name, at in (("old", now - 5_000), ("new", now)):
        await redis.xadd(LABELS_STREAM, {"ref": name, "label": "1"}, id=f"{at}-0")
    found, place = await RedisRolloutSums(redis).labels("0")
    assert (found, place) == ([("old", "1")], f"{now - 5_000}-0")
    assert await RedisRolloutSums(redis).labels(place) == ([], place)
    await redis.aclose()
