"""Wiring of inference: repository, data plane, reader, scorers."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from libs.common import app as common
from libs.common.events.envelope import EventEmitter
from libs.common.features.contract import FeatureReader
from libs.common.features.reader import OnlineFeatureReader
from libs.common.health import Component
from libs.common.platform import Platform
from libs.common.settings import SettingsError
from services.inference.adapters.repository import ModelRepository
from services.inference.adapters.text_loading import TEXT_TASKS
from services.inference.dataplane import DataPlane
from services.inference.domain.lifecycle import VersionState
from services.inference.metrics import InferenceMetrics
from services.inference.routes import models, predict, recommend, score
from services.inference.routes.score import Scoring
from services.inference.scoring.batch import BatchScorer
from services.inference.scoring.fraud import FraudScorer
from services.inference.scoring.personalization import PersonalizationScorer
from services.inference.scoring.recommend import Recommender
from services.inference.settings import InferenceSettings
from services.inference.wiring_text import open_texts


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
        metrics = InferenceMetrics(platform.registry)
        repository = _repository(settings)
        later = TEXT_TASKS if settings.text_loading == "background" else frozenset()
        pending = await asyncio.to_thread(repository.load_all, except_tasks=later)
        _publish(platform, repository, metrics)
        plane = DataPlane(repository, metrics)
        features = reader or OnlineFeatureReader(platform.redis, timeout_s=settings.redis_timeout_s)
        shared = (plane, features, platform.events, metrics)
        fraud = FraudScorer(*shared, review_amount=settings.degraded_review_amount)
        pairs = PersonalizationScorer(*shared)
        batch = BatchScorer(fraud, pairs, chunk_rows=settings.batch_chunk_rows)
        async with open_texts(platform, settings, repository, metrics, pending) as texts:
            yield {
                "scoring": Scoring(plane, fraud, pairs, batch, metrics),
                "recommender": Recommender(*shared),
                "texts": texts,
            }

    return common.create_app(
        "inference",
        settings,
        lifespan,
        routers=[predict.named_router],
        v1_routers=[score.router, recommend.router, predict.router, models.router],
        events=events,
    )


def _repository(settings: InferenceSettings) -> ModelRepository:
    names = None
    if settings.feature_names_path is not None:
        try:
            names = tuple(map(str, json.loads(settings.feature_names_path.read_text())))
        except (OSError, ValueError, TypeError) as error:
            raise SettingsError(
                f"FEATURE_NAMES_PATH: not a readable JSON list ({type(error).__name__})"
            ) from None
    return ModelRepository(
        settings.model_path,
        use_onnx=settings.use_onnx,
        onnx_path=settings.onnx_model_path,
        feature_names=names,
        text_executors=settings.text_executors,
    )


def _publish(platform: Platform, repository: ModelRepository, metrics: InferenceMetrics) -> None:
    """Show the outcome of loading in readiness, health and metrics."""
    if not repository.ready_names:
        platform.health.block("models", "no model could be loaded; GET /health says why")

    async def check() -> Component:
        states = {
            name: {str(item.version): item.state.value for item in repository.versions(name)}
            for name in repository.names()
        }
        if not repository.ready_names:
            return Component("down", "no model is ready", {"models": states})
        is_whole = set(repository.ready_names) == set(repository.names())
        return Component("ok" if is_whole else "degraded", "", {"models": states})

    platform.health.add_check("models", check)
    for name in repository.names():
        for item in repository.versions(name):
            version = str(item.version)
            metrics.model_state.labels(name, version, item.state.value).set(1)
            if item.state is VersionState.READY:
                metrics.model_load.labels(name, version).set(item.load_s)
                metrics.model_memory.labels(name, version).set(item.memory_bytes)
