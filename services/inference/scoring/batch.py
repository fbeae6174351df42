"""Scores up to 1,000 requests: each checked by itself, chunks share one read and one model call."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
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
        results = [item async for chunk in self.chunks(batch, batch_id) for item in chunk]
        return {"batch_id": batch_id, "results": results, **summary(results, started)}

    async def chunks(
        self, batch: BatchRequest, batch_id: str
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """Answer in input order, chunk by chunk, each with one feature read and model call."""
        for start in range(0, len(batch.requests), self._chunk_rows):
            raws = batch.requests[start : start + self._chunk_rows]
            yield await self._chunk(batch.model_type, raws, start, batch_id)

    async def _chunk(
        self, model_type: str, raws: Sequence[Any], start: int, batch_id: str
    ) -> list[dict[str, Any]]:
        """Check each request by itself and score those that are right."""
        kind = FraudRequest if model_type == "fraud_detection" else PersonalizationRequest
        results: dict[int, dict[str, Any]] = {}
        accepted: list[tuple[int, Item]] = []
        for index, raw in enumerate(raws, start):
            try:
                item = kind.model_validate(raw)
                event_time_ms(item.timestamp)
                if isinstance(item, FraudRequest):
                    self._fraud.convert(item)
                accepted.append((index, item))
            except ValidationError as error:
                listed = error.errors(include_url=False, include_context=False, include_input=False)
                results[index] = _failed(index, from_pydantic(listed))
            except ServiceError as error:
                results[index] = _failed(index, error)
        if accepted:
            scored = await self._score_chunk(accepted, batch_id)
            results |= {result["index"]: result for result in scored}
        return [results[index] for index in range(start, start + len(raws))]

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


def summary(results: Sequence[Mapping[str, Any]], started: float) -> dict[str, Any]:
    """Count what succeeded; `started` is a reading of the performance counter."""
    succeeded = sum(result["status"] == 200 for result in results)
    return {
        "succeeded": succeeded,
        "failed": len(results) - succeeded,
        "latency_ms": round((time.perf_counter() - started) * 1e3, 3),
    }


def _failed(index: int, error: ServiceError) -> dict[str, Any]:
    return {"index": index, "status": error.status, "error": problem_body(error, ENDPOINT)}
