"""Wiring of the control plane: stores, lifecycle, rollouts, the loop, and what health says."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from libs.common.errors import ServiceError, UnavailableError
from libs.common.health import Component
from libs.common.manifest_signing import read_public_key
from libs.common.platform import Platform
from libs.common.settings import SettingsError
from services.inference.adapters.checkpoint_source import CheckpointSource
from services.inference.adapters.control_store import PostgresControlStore
from services.inference.adapters.mlflow_source import MlflowSource
from services.inference.adapters.repository import ModelRepository
from services.inference.adapters.rollout_sums import RedisRolloutSums
from services.inference.control.checkpoints import CheckpointFetch
from services.inference.control.loop import ControlLoop
from services.inference.control.models import ModelControl
from services.inference.control.registry import RegistryWatch
from services.inference.control.rollouts import RolloutControl
from services.inference.domain.checkpoint import Checkpoint
from services.inference.domain.control import ControlStore, RolloutSums, wanted_of
from services.inference.domain.repository import RepositoryPolicy
from services.inference.metrics import InferenceMetrics
from services.inference.settings import InferenceSettings

# How long the start waits for the records; after that the last known ones count.
_START_S = 2.0


@dataclass(frozen=True, slots=True)
class Control:
    """What the model routes use, under `request.state.control`."""

    models: ModelControl
    rollouts: RolloutControl


def build_repository(settings: InferenceSettings) -> ModelRepository:
    """Make the repository as the settings say; nothing is loaded.

    Raises:
        SettingsError: a file that a setting names cannot be read.
    """
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
        staged=settings.staged_models_path,
        checkpoints=settings.checkpoints_path,
        policy=_policy(settings),
    )


def _policy(settings: InferenceSettings) -> RepositoryPolicy:
    key = None
    if settings.model_public_key_path is not None:
        try:
            key = read_public_key(settings.model_public_key_path)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"MODEL_PUBLIC_KEY_PATH: no readable key ({type(error).__name__})"
            ) from None
    elif settings.model_signatures == "required":
        raise SettingsError("MODEL_SIGNATURES=required needs MODEL_PUBLIC_KEY_PATH")
    return RepositoryPolicy(
        only=frozenset(settings.models_served),
        pinned=frozenset(settings.models_pinned),
        budget_bytes=settings.model_memory_mib << 20,
        public_key=key,
        needs_signature=settings.model_signatures == "required",
    )


class Stores:
    """The two stores, where they are configured, and the copy of the records for a start alone."""

    def __init__(self, platform: Platform, settings: InferenceSettings) -> None:
        self.sums: RolloutSums | None = None
        self.records: ControlStore | None = None
        # Without a database the newest versions serve and wishes answer 503; without Redis every
        # replica judges what it saw.
        with suppress(UnavailableError):
            self.records = PostgresControlStore(platform.postgres)
        with suppress(UnavailableError):
            self.sums = RedisRolloutSums(platform.redis)
        self._path = settings.state_dir / "inference" / "stable.json"

    async def wanted(self) -> dict[str, int]:
        """Give what is to serve of each model; from the last copy if Postgres is down."""
        if self.records is None:
            return {}
        try:
            async with asyncio.timeout(_START_S):
                records = await self.records.models()
        except (ServiceError, TimeoutError):
            return self._last()
        found = wanted_of(records)
        self.keep(found)
        return found

    def keep(self, stable: dict[str, int]) -> None:
        """Write the copy, atomically."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(stable))
        part.replace(self._path)

    def _last(self) -> dict[str, int]:
        try:
            return {str(name): int(v) for name, v in json.loads(self._path.read_text()).items()}
        except (OSError, ValueError):
            return {}


@asynccontextmanager
async def open_control(
    platform: Platform,
    settings: InferenceSettings,
    repository: ModelRepository,
    metrics: InferenceMetrics,
    stores: Stores,
) -> AsyncIterator[Control]:
    """Run the control plane around the life of the service; its first round is done inside."""
    models = ModelControl(
        repository, stores.records, stores.sums, platform.events, metrics, keep=stores.keep
    )
    rollouts = RolloutControl(models, stores.sums, platform.events, metrics)
    watch = _watch(settings, models)
    if watch is not None:
        platform.health.add_check("mlflow", watch.health)
    checkpoints = _checkpoints(settings, models)
    if checkpoints is not None:
        platform.health.add_check("checkpoints", checkpoints.health)
    loop = ControlLoop(
        models,
        rollouts,
        stores.sums,
        reconcile_s=settings.models_reconcile_s,
        golden_s=settings.golden_interval_s,
        also=[source.run() for source in (watch, checkpoints) if source is not None],
    )
    models.publish()
    _report(platform, repository)
    if stores.records is not None:
        # The loop goes on trying; what could be loaded serves meanwhile.
        with suppress(ServiceError, TimeoutError):
            async with asyncio.timeout(_START_S):
                await loop.follow()
    await models.tell_failures(
        (name, status) for name in repository.names() for status in repository.versions(name)
    )
    async with loop.running():
        yield Control(models, rollouts)


def _watch(settings: InferenceSettings, models: ModelControl) -> RegistryWatch | None:
    """Make the registry's watch; an embedded tracking store has no server to watch."""
    url = settings.mlflow_tracking_uri
    if url is None or not url.startswith(("http://", "https://")):
        return None
    return RegistryWatch(
        MlflowSource(url, settings.staged_models_path),
        models,
        names=settings.mlflow_models,
        alias=settings.mlflow_alias,
        poll_s=settings.mlflow_poll_s,
    )


def _checkpoints(settings: InferenceSettings, models: ModelControl) -> CheckpointFetch | None:
    """Make what fetches declared checkpoints; None when there are none.

    Raises:
        SettingsError: a declaration cannot be read.
    """
    if not settings.checkpoints:
        return None
    try:
        wanted = [Checkpoint.parse(text) for text in settings.checkpoints]
    except ValueError as error:
        raise SettingsError(f"CHECKPOINTS: {error}") from None
    token = settings.hf_token.get_secret_value() if settings.hf_token else ""
    source = CheckpointSource(settings.checkpoints_path, endpoint=settings.hf_endpoint, token=token)
    return CheckpointFetch(source, models, wanted)


def _report(platform: Platform, repository: ModelRepository) -> None:
    """Show the models in readiness and health."""
    if not repository.ready_names and not repository.is_withdrawn:
        platform.health.block("models", "no model could be loaded; GET /health says why")

    async def check() -> Component:
        states = {
            name: {str(item.version): item.state.value for item in repository.versions(name)}
            for name in repository.names()
        }
        if not repository.ready_names:
            return Component("down", "no model is ready", {"models": states})
        platform.health.release("models")
        is_whole = set(repository.ready_names) == set(repository.names())
        return Component("ok" if is_whole else "degraded", "", {"models": states})

    platform.health.add_check("models", check)
