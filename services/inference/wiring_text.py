"""Wiring of text models: plane, cache, health; opened inside the app's lifespan."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from libs.common.errors import UnavailableError
from libs.common.logging import get_logger
from libs.common.platform import Platform
from services.inference.adapters.prediction_cache import PredictionCache
from services.inference.adapters.repository import ModelRepository
from services.inference.dataplane import DataPlane
from services.inference.domain.batching import Limits
from services.inference.domain.lifecycle import VersionState
from services.inference.domain.tensors import RemoteModel
from services.inference.domain.text import TextModel
from services.inference.execution.plane import PlaneOptions, TextPlane
from services.inference.execution.scheduler import SchedulerOptions
from services.inference.metrics import InferenceMetrics
from services.inference.routes.predict import Texts
from services.inference.routes.v2.routes import OpenInference
from services.inference.routes.v2.serving import V2Serving
from services.inference.scoring.text import TextScorer
from services.inference.settings import InferenceSettings
from services.inference.wiring_control import Control

log = get_logger()


@asynccontextmanager
async def open_texts(
    platform: Platform,
    settings: InferenceSettings,
    repository: ModelRepository,
    metrics: InferenceMetrics,
    pending: Sequence[str],
    control: Control,
) -> AsyncIterator[Texts]:
    """Open what the text routes need, and load text models in the background.

    Args:
        platform: of the service.
        settings: its settings.
        repository: with the tabular models loaded.
        metrics: of the service.
        pending: models still to load, in this order.
        control: who meets a candidate, and what to do about a model that is missing.
    """
    try:
        redis = platform.redis
    except UnavailableError:
        redis = None
    cache = PredictionCache(
        redis, ttl_s=settings.cache_ttl_s, value_bytes_max=settings.cache_value_bytes_max
    )

    def scheduler_options(model: TextModel) -> SchedulerOptions:
        publish_gpu(model, metrics)
        reason = f"executors:{model.name}:{model.version}"

        def on_health(problem: str | None) -> None:
            if problem is None:
                platform.health.release(reason)
            else:
                platform.health.block(reason, f"{model.name}: {problem}")

        return SchedulerOptions(
            limits=Limits(
                batch_items=settings.max_batch_size,
                batch_tokens=settings.text_batch_tokens,
                queue_items=settings.text_queue_items,
                queue_tokens=settings.text_queue_tokens,
                pad_multiple=model.engine.pad_multiple,
                executors=model.engine.executors,
            ),
            fill_delay_s=settings.text_fill_delay_us / 1e6,
            on_health=on_health,
            on_fatal=_end_process,
        )

    options = PlaneOptions(scheduler_options, settings.tokenizer_threads)
    plane = TextPlane(repository, options, cache, metrics)
    repository.on_leaving(plane.leaving)
    loading = asyncio.create_task(_load(platform, repository, metrics, pending))
    try:
        scorer = TextScorer(plane, platform.events, metrics, repository, control.rollouts)
        yield Texts(repository, scorer, metrics, control.models.want)
    finally:
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loading
        await plane.close()
        for name in repository.ready_names:
            model = repository.serving(name)
            if isinstance(model, RemoteModel):
                model.close()
        await asyncio.sleep(0)  # lets the connections close on this loop


def publish_gpu(model: TextModel, metrics: InferenceMetrics) -> None:
    """Let each scrape read memory and utilisation of the GPUs that a model runs on."""
    read: Callable[[], list[dict[str, Any]]] = getattr(model.engine, "gpu_facts", list)
    for index, fact in enumerate(read()):

        def used(index: int = index) -> float:
            return float(read()[index]["used_bytes"])

        def busy(index: int = index) -> float:
            return float(read()[index]["utilisation"] or 0.0)

        metrics.text.gpu_memory.labels(fact["device"]).set_function(used)
        metrics.text.gpu_busy.labels(fact["device"]).set_function(busy)


def v2_state(
    platform: Platform,
    settings: InferenceSettings,
    repository: ModelRepository,
    plane: DataPlane,
    texts: Texts,
    control: Control,
) -> OpenInference:
    """Build what the Open Inference routes use."""
    serving = V2Serving(plane, texts.scorer, platform.events, texts.metrics)
    return OpenInference(
        repository,
        control.models,
        serving,
        texts.metrics,
        platform,
        settings.v2_server_name,
        settings.max_batch_size,
    )


async def _load(
    platform: Platform,
    repository: ModelRepository,
    metrics: InferenceMetrics,
    names: Sequence[str],
) -> None:
    """Load one model after the other; a failure is in its status and never ends the loop."""
    for name in names:
        await asyncio.to_thread(repository.load_newest, name)
        for status in repository.versions(name):
            version = str(status.version)
            metrics.model_state.labels(name, version, status.state.value).set(1)
            if status.state is VersionState.READY:
                platform.health.release("models")
                metrics.model_load.labels(name, version).set(status.load_s)
                metrics.model_memory.labels(name, version).set(status.memory_bytes)


def _end_process() -> None:
    """Drain and stop: a process whose CUDA context is broken cannot get a new one."""
    log.error("the device is lost; the process ends so that it can be started again")
    signal.raise_signal(signal.SIGTERM)
