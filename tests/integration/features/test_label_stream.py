"""Labels reach who judges rollouts: by a hash of what they name, again and again, best effort."""

from typing import Any

import pytest
from redis import Redis

from libs.common.rollouts import LABELS_STREAM, label_ref
from tests.integration.features.conftest import Start
from tests.integration.features.worlds import TENANT

pytestmark = pytest.mark.anyio


async def test_feedback_is_in_the_stream_without_its_id(start: Start, redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    async with start() as running:
        for body in (
            {"transaction_id": "tx_1", "label": "fraud"},
            {"transaction_id": "tx_1", "label": "fraud"},
            {"prediction_id": "p_1", "label": False},
        ):
            answer = await running.client.post("/v1/feedback", json=body)
            assert answer.status_code == 200
    entries: Any = client.xrange(LABELS_STREAM)
    told = [entry for _, entry in entries]
    first = {b"ref": label_ref(TENANT, "transaction", "tx_1").encode(), b"label": b"fraud"}
    second = {b"ref": label_ref(TENANT, "prediction", "p_1").encode(), b"label": b"false"}
    assert told == [first, first, second]
    assert b"tx_1" not in b"".join(value for entry in told for value in entry.values())
    client.close()
