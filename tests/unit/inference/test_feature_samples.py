"""A share of served vectors goes to the features service; scoring never waits for it."""

import asyncio
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from libs.common.errors import UnavailableError
from libs.common.features.contract import FeatureRequest, FeatureRows, FeatureService
from libs.common.features.fraud import FRAUD_V1
from libs.common.http_client import Reply, ServiceClient
from services.features.rows_in import SamplesBody
from services.inference.adapters.feature_samples import SampledReader


class StandInReader:
    """Gives the same row for every request."""

    def __init__(self, *reasons: str) -> None:
        self._reasons = list(reasons)

    async def read(
        self, service: FeatureService, tenant: str, requests: list[FeatureRequest]
    ) -> FeatureRows:
        raw = np.full((len(requests), len(service.raw)), 2.5)
        raw[:, 0] = np.nan
        count = len(requests)
        return FeatureRows(
            matrix=raw.astype(np.float32),
            missing=[[] for _ in requests],
            stale=[[] for _ in requests],
            freshness_s=[None for _ in requests],
            degraded_reasons=self._reasons,
            read_s=0.0,
            raw=raw,
            offsets={"card": [7] * count, "merchant": [-1] * count},
        )


class StandInClient:
    """Records what is posted."""

    def __init__(self, *, is_down: bool = False) -> None:
        self.posted: list[tuple[str, Any]] = []
        self._is_down = is_down

    async def request(
        self, method: str, path: str, *, json: Any, tenant: str, scopes: tuple[str, ...]
    ) -> Reply:
        if self._is_down:
            raise UnavailableError("gone")
        assert (method, path, scopes) == ("POST", "/features/samples", ("features:samples",))
        self.posted.append((tenant, json))
        return Reply(200, {}, b"{}")


def _request() -> FeatureRequest:
    entities = {"card": "c", "merchant": "m"}
    values = {"amount_minor": 5, "mcc_code": "5411", "country_code": None, "other": 1}
    return FeatureRequest(entities, values, 1_760_000_000_123, "e1")


def _read(client: StandInClient, share: float, calls: int = 1, *reasons: str) -> CollectorRegistry:
    registry = CollectorRegistry()

    async def run() -> None:
        inner = StandInReader(*reasons)
        reader = SampledReader(inner, cast(ServiceClient, client), registry, share=share)
        for _ in range(calls):
            await reader.read(FRAUD_V1, "t1", [_request()])
        while reader.waiting:
            await reader.post()

    asyncio.run(run())
    return registry


def _count(registry: CollectorRegistry, outcome: str) -> float:
    name = "gatehouse_inference_feature_samples_total"
    return registry.get_sample_value(name, {"outcome": outcome}) or 0.0


def test_a_sample_is_what_the_features_service_takes() -> None:
    client = StandInClient()
    _read(client, 1.0)
    [(tenant, document)] = client.posted
    assert tenant == "t1"
    sample = SamplesBody.model_validate(document).samples[0]
    request = sample.request()
    assert request.entities == {"card": "c", "merchant": "m"}
    assert request.values == {"amount_minor": 5, "mcc_code": "5411"}
    assert (request.now_ms, request.event_id) == (1_760_000_000_123, "e1")
    assert sample.offsets == {"card": 7, "merchant": -1}
    assert sample.raw == [None, *[2.5] * (len(FRAUD_V1.raw) - 1)]


def test_about_the_asked_share_is_kept() -> None:
    client = StandInClient()
    registry = _read(client, 0.1, 900)
    assert 40 < _count(registry, "posted") < 160


@pytest.mark.parametrize("reason", ["redis_unavailable", "store_not_ready"])
def test_degraded_rows_are_no_samples(reason: str) -> None:
    client = StandInClient()
    _read(client, 1.0, 3, reason)
    assert client.posted == []


def test_what_cannot_be_posted_or_kept_is_dropped_and_counted() -> None:
    registry = _read(StandInClient(is_down=True), 1.0, 1100)
    assert _count(registry, "dropped") == 1100
