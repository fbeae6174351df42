"""About one percent of served feature vectors, posted to the features service for its parity job.

Best effort: a bounded queue beside the answer, batches in the background, and whatever does not fit
or cannot be sent is dropped and counted. Scoring never waits for it.
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Mapping
from contextvars import Context
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from libs.common.errors import ServiceError
from libs.common.features.contract import FeatureReader, FeatureRequest, FeatureRows, FeatureService
from libs.common.http_client import ServiceClient
from libs.common.ids import uuid7

SHARE = 0.01
_WAITING_MAX, _BATCH, _EVERY_S = 1000, 100, 1.0
_PATH, _SCOPE = "/features/samples", "features:samples"
# What the features service takes of a request's values.
_VALUES = ("amount_minor", "price_minor", "mcc_code", "country_code", "device_id", "item_category")


class SampledReader:
    """A `FeatureReader` that keeps a share of what another one reads."""

    def __init__(
        self,
        reader: FeatureReader,
        client: ServiceClient,
        registry: CollectorRegistry,
        *,
        share: float = SHARE,
    ) -> None:
        self._reader, self._client, self._share = reader, client, share
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._posting: asyncio.Task[None] | None = None
        self._samples = Counter(
            "gatehouse_inference_feature_samples_total",
            "Served feature vectors kept for the parity job, by what became of them.",
            ("outcome",),
            registry=registry,
        )

    async def read(
        self, service: FeatureService, tenant: str, requests: list[FeatureRequest]
    ) -> FeatureRows:
        """Read, and keep some of the rows."""
        rows = await self._reader.read(service, tenant, requests)
        if rows.raw is not None and not rows.degraded_reasons:
            for index, request in enumerate(requests):
                if random.random() < self._share:
                    self._keep(tenant, _sample(service, request, rows, index))
        return rows

    def _keep(self, tenant: str, sample: dict[str, Any]) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            self._samples.labels("dropped").inc()
            return
        self._waiting.append((tenant, sample))
        if self._posting is None or self._posting.done():
            # Not of the request: neither its deadline nor its end concerns the post.
            self._posting = asyncio.create_task(self._drain(), context=Context())

    @property
    def waiting(self) -> int:
        """How many samples are kept and not posted yet."""
        return len(self._waiting)

    async def _drain(self) -> None:
        """Post what waits, then end; the next sample starts it again."""
        while self._waiting:
            await asyncio.sleep(_EVERY_S)
            while self._waiting:
                await self.post()

    async def post(self) -> None:
        """Post the next batch, of one tenant."""
        tenant = self._waiting[0][0]
        batch: list[dict[str, Any]] = []
        while self._waiting and self._waiting[0][0] == tenant and len(batch) < _BATCH:
            batch.append(self._waiting.popleft()[1])
        try:
            reply = await self._client.request(
                "POST", _PATH, json={"samples": batch}, tenant=tenant, scopes=(_SCOPE,)
            )
            outcome = "posted" if reply.status == 200 else "refused"
        except ServiceError:
            outcome = "dropped"
        self._samples.labels(outcome).inc(len(batch))


def _sample(
    service: FeatureService, request: FeatureRequest, rows: FeatureRows, index: int
) -> dict[str, Any]:
    raw = [] if rows.raw is None else rows.raw[index].tolist()
    values: Mapping[str, object] = request.values
    moment = datetime.fromtimestamp(request.now_ms / 1000, UTC)
    return {
        "sample_id": uuid7(),
        "feature_service": service.name,
        "entities": {f"{name}_id": value for name, value in request.entities.items() if value},
        "as_of": moment.isoformat(timespec="milliseconds"),
        "values": {name: values[name] for name in _VALUES if values.get(name) is not None},
        "event_id": request.event_id,
        "offsets": {view: offsets[index] for view, offsets in rows.offsets.items()},
        "raw": [None if math.isnan(value) else value for value in raw],
    }
