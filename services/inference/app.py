"""Wiring of inference: repository, data plane, reader, scorers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

from libs.common import app as common
from libs.common.events.envelope import EventEmitter
from libs.common.features.cache import BlobCache
from libs.common.features.contract import FeatureReader
from libs.common.features.reader import OnlineFeatureReader
from libs.common.platform import Platform
from libs.common.redis_lean import LeanRedis
from services.inference.adapters.feature_samples import SampledReader
from services.inference.adapters.text_loading import TEXT_TASKS
from services.inference.dataplane import DataPlane
from services.inference.metrics import InferenceMetrics
from services.inference.routes import lifecycle, models, policies, predict, recommend, score
from services.inference.routes.score import Scoring
from services.inference.routes.v2 import routes as v2
from services.inference.routes.v2.errors import render_error
from services.inference.scoring.batch import BatchScorer
from services.inference.scoring.fraud import FraudScorer
from services.inference.scoring.personalization import PersonalizationScorer
from services.inference.scoring.recommend import Recommender
from services.inference.settings import InferenceSettings
from services.inference.wiring_control import Stores, build_repository, open_control
from services.inference.wiring_policies import open_policies, open_rates
from services.inference.wiring_text import open_texts, v2_state


def create_app(
    settings: InferenceSettings,
    *,
    events: EventEmitter | None = None,
    reader: FeatureReader | None = None,
) -> common.ServiceApp:
    """Build the service.

    Args:
        settings: its settings.
        events: replaces the write-ahead log, in tests.
        reader: replaces the Redis reader, in tests.
    """

    @asynccontextmanager
    async def lifespan(platform: Platform) -> AsyncIterator[Mapping[str, Any]]:
        metrics, rates = InferenceMetrics(platform.registry), open_rates(settings)
        repository = build_repository(settings)
        stores = Stores(platform, settings)
        repository.wanted = await stores.wanted()
        later = TEXT_TASKS if settings.text_loading == "background" else frozenset()
        pending = await asyncio.to_thread(repository.load_all, except_tasks=later)
        plane = DataPlane(repository, metrics, drift_event_s=settings.drift_event_s)
        async with (
            _feature_reader(platform, settings, reader) as features,
            open_control(platform, settings, repository, metrics, stores) as control,
            open_texts(platform, settings, repository, metrics, pending, control) as texts,
            open_policies(platform, settings) as deciding,
        ):
            shared = (plane, features, platform.events, metrics)
            plane.on_missing = control.models.want
            control.models.publish_drift = plane.drift.publish
            control.models.drift_events = plane.drift.due_events
            texts.scorer.on_scores = plane.drift.add_scores
            fraud = FraudScorer(*shared, control.rollouts, policies=deciding, rates=rates)
            pairs = PersonalizationScorer(*shared, control.rollouts)
            batch = BatchScorer(fraud, pairs, chunk_rows=settings.batch_chunk_rows)
            yield {
                "control": control,
                "policies": deciding,
                "scoring": Scoring(plane, fraud, pairs, batch, metrics),
                "recommender": Recommender(*shared, control.rollouts),
                "texts": texts,
                "v2": v2_state(platform, settings, repository, plane, texts, control),
            }

    return common.create_app(
        "inference",
        settings,
        lifespan,
        routers=[predict.named_router, v2.router],
        v1_routers=[
            score.router,
            recommend.router,
            predict.router,
            models.router,
            lifecycle.router,
            policies.router,
        ],
        events=events,
        render_error=render_error,
    )


@asynccontextmanager
async def _feature_reader(
    platform: Platform, settings: InferenceSettings, reader: FeatureReader | None
) -> AsyncIterator[FeatureReader]:
    """Open the reader over Redis, unless there is one already."""
    if reader is not None:
        yield reader
        return
    timeout_s = settings.redis_timeout_s
    cache = BlobCache(
        platform.redis,
        views=settings.feature_cache_views,
        ttl_s=settings.feature_cache_ttl_s,
    )
    async with aclosing(LeanRedis(platform.redis, timeout_s=timeout_s)) as online:
        yield SampledReader(
            OnlineFeatureReader(online, timeout_s=timeout_s, cache=cache),
            platform.client("features"),
            platform.registry,
        )
