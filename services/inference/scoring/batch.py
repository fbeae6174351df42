"""Scores up to 1,000 requests: each checked by itself, chunks share one read and one model call."""

import time
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from libs.common.errors import ServiceError
from libs.common.ids import uuid7
from libs.common.problems import from_pydantic, problem_body
from services.inference.schemas import BatchRequest, FraudRequest, PersonalizationRequest
from services.inference.scoring.base import Origin, event_time_ms
from services.inference.scoring.fraud import FraudScorer
from services.inference.scoring.personalization import PersonalizationScorer

ENDPOINT = "/score/batch"
Item = FraudRequest | PersonalizationRequest


class BatchScorer:
    """Answers `/score/batch`."""

    def __init__(
        self, fraud: FraudScorer, personalization: PersonalizationScorer, *, chunk_rows: int
    ) -> None:
        self._fraud = fraud
        self._personalization = personalization
        self._chunk_rows = chunk_rows

    async def score(self, batch: BatchRequest) -> dict[str, Any]:
        """Answer every request in input order, by a result or by a problem of its own.

        A chunk whose model or store fails gives each of its items that problem; the others stand.
        """
        started = time.perf_counter()
        batch_id = batch.batch_id or uuid7()
        results: list[dict[str, Any]] = [{} for _ in batch.requests]
        accepted: list[tuple[int, Item]] = []
        kind = FraudRequest if batch.model_type == "fraud_detection" else PersonalizationRequest
        for index, raw in enumerate(batch.requests):
            try:
                item = kind.model_validate(raw)
                event_time_ms(item.timestamp)
                accepted.append((index, item))
            except ValidationError as error:
                listed = error.errors(include_url=False, include_context=False, include_input=False)
                results[index] = _failed(index, from_pydantic(listed))
            except ServiceError as error:
                results[index] = _failed(index, error)
        for start in range(0, len(accepted), self._chunk_rows):
            chunk = accepted[start : start + self._chunk_rows]
            for result in await self._score_chunk(chunk, batch_id):
                results[result["index"]] = result
        succeeded = sum(result["status"] == 200 for result in results)
        return {
            "batch_id": batch_id,
            "results": results,
            "succeeded": succeeded,
            "failed": len(results) - succeeded,
            "latency_ms": round((time.perf_counter() - started) * 1e3, 3),
        }

    async def _score_chunk(
        self, chunk: Sequence[tuple[int, Item]], batch_id: str
    ) -> list[dict[str, Any]]:
        indexes = [index for index, _ in chunk]
        origin = Origin(ENDPOINT, batch_id, indexes)
        fraud = [item for _, item in chunk if isinstance(item, FraudRequest)]
        pairs = [item for _, item in chunk if isinstance(item, PersonalizationRequest)]
        try:
            if fraud:
                answers = await self._fraud.score(fraud, origin)
            else:
                answers = await self._personalization.score(pairs, origin)
        except ServiceError as error:
            return [_failed(index, error) for index in indexes]
        return [
            {"index": index, "status": 200, "result": answer}
            for index, answer in zip(indexes, answers, strict=True)
        ]


def _failed(index: int, error: ServiceError) -> dict[str, Any]:
    return {"index": index, "status": error.status, "error": problem_body(error, ENDPOINT)}
