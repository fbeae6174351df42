"""Builds what the routes of guardrails need, from settings and the platform, and closes it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from libs.common.platform import Platform
from libs.common.settings import SettingsError
from services.guardrails.adapters.builtin_policies import BuiltinPolicies
from services.guardrails.adapters.entities_v2 import EntityModel, PiiWithNames
from services.guardrails.adapters.floor_file import FlooredPolicies, read_floor
from services.guardrails.adapters.inference_v2 import (
    GuardModel,
    InjectionValidator,
    ToxicityValidator,
)
from services.guardrails.adapters.local import Detector, LocalValidator
from services.guardrails.adapters.plugins import PluginRegistry
from services.guardrails.adapters.postgres_policies import PostgresPolicies
from services.guardrails.adapters.redis_cache import NoCache, RedisVerdictCache
from services.guardrails.adapters.secret_file import SECRET_BYTES, load_or_make
from services.guardrails.adapters.v2_model import V2Model
from services.guardrails.checker import Checker
from services.guardrails.domain.document import Document
from services.guardrails.domain.guard import Guard
from services.guardrails.domain.language import LanguageValidator, TopicsValidator
from services.guardrails.domain.lexical import (
    LengthValidator,
    RegexValidator,
    WordListValidator,
    injection_validator,
    malicious_validator,
)
from services.guardrails.domain.pii import PiiValidator
from services.guardrails.domain.ports import Validator, VerdictCache
from services.guardrails.domain.secrets import SecretsValidator
from services.guardrails.domain.verdict import Span
from services.guardrails.metrics import GuardMetrics
from services.guardrails.plugin_service import PluginService
from services.guardrails.settings import GuardrailsSettings
from services.guardrails.usage import Usage

# What the guard model calls its kinds of toxicity.
TOXICITY_LABELS = ("toxic", "hate", "sexist", "violence", "self_harm", "sexual")


class State(TypedDict):
    """What routes find under `request.state`."""

    checker: Checker
    metrics: GuardMetrics
    cache: VerdictCache
    models: tuple[V2Model, ...]
    names: Callable[[Sequence[Document]], Awaitable[list[list[Span]] | None]]
    usage: Usage
    plugins: PluginService
    offload: Callable[..., Awaitable[Any]]


@asynccontextmanager
async def running(settings: GuardrailsSettings, platform: Platform) -> AsyncIterator[State]:
    """Build the state, keep it up to date while the service runs, close it."""
    metrics = GuardMetrics(platform.registry)
    cache: VerdictCache = (
        RedisVerdictCache(platform.redis, metrics.cache) if settings.redis_dsn else NoCache()
    )
    with ThreadPoolExecutor(settings.pattern_threads, "patterns") as pool:
        model = GuardModel(settings.guard_model, platform.client("inference"))
        entities = EntityModel(settings.entity_model, platform.client("inference"))
        pii = PiiWithNames(LocalValidator(PiiValidator(), pool), entities)
        validators = _validators(pool, model, pii)
        guard = _guard(settings, platform, metrics, cache, validators)
        plugins = _plugins(settings, platform, metrics, guard, pool)
        following = asyncio.create_task(plugins.follow())
        try:
            yield State(
                checker=_checker(settings, platform, metrics, guard),
                metrics=metrics,
                cache=cache,
                models=(model, entities),
                names=pii.names,
                usage=Usage(
                    memory_bytes_max=settings.memory_warn_mib << 20,
                    cpu_share_max=settings.cpu_warn_cores,
                ),
                plugins=plugins,
                offload=_offload(pool),
            )
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await plugins.close()


def _validators(pool: ThreadPoolExecutor, model: GuardModel, pii: PiiWithNames) -> list[Validator]:
    detectors: tuple[Detector, ...] = (
        SecretsValidator(),
        malicious_validator(),
        LengthValidator(),
        WordListValidator(),
        RegexValidator(),
        LanguageValidator(),
        TopicsValidator(),
    )
    return [
        *(LocalValidator(detector, pool) for detector in detectors),
        pii,
        InjectionValidator(LocalValidator(injection_validator(), pool), model),
        ToxicityValidator(model, TOXICITY_LABELS),
    ]


def _guard(
    settings: GuardrailsSettings,
    platform: Platform,
    metrics: GuardMetrics,
    cache: VerdictCache,
    validators: list[Validator],
) -> Guard:
    policies = FlooredPolicies(
        PostgresPolicies(platform.postgres) if settings.postgres_url else BuiltinPolicies(),
        read_floor(settings.floor) if settings.floor else None,
    )
    return Guard(
        {validator.name: validator for validator in validators},
        cache,
        policies,
        secret_of(settings),
        observe=metrics.verdict,
    )


def _checker(
    settings: GuardrailsSettings, platform: Platform, metrics: GuardMetrics, guard: Guard
) -> Checker:
    return Checker(
        guard,
        platform.events,
        ttl_default_s=settings.cache_default_ttl_s,
        text_chars_max=settings.text_chars_max,
        concurrent_max=settings.max_concurrent_requests,
        observe=metrics.decision,
    )


def _plugins(
    settings: GuardrailsSettings,
    platform: Platform,
    metrics: GuardMetrics,
    guard: Guard,
    pool: ThreadPoolExecutor,
) -> PluginService:
    def disabled(name: str, version: str) -> None:
        service.disabled(name, version)

    registry = PluginRegistry(
        guard.validators,
        settings.plugins_path,
        memory_bytes=settings.plugin_memory_mib << 20,
        pool=pool,
        observe=metrics.plugin_failure,
        on_disabled=disabled,
    )
    service = PluginService(
        registry, platform.postgres if settings.postgres_url else None, platform.events
    )
    return service


def _offload(pool: ThreadPoolExecutor) -> Callable[..., Awaitable[Any]]:
    loop = asyncio.get_running_loop()

    async def offload(function: Callable[..., Any], *args: Any) -> Any:
        return await loop.run_in_executor(pool, function, *args)

    return offload


def secret_of(settings: GuardrailsSettings) -> bytes:
    """Give the secret of the setting, or the node's own, made at the first start.

    Raises:
        SettingsError: the setting is no hexadecimal text of at least 32 bytes.
    """
    if settings.secret is None:
        return load_or_make(settings.state_dir / "secrets")
    try:
        secret = bytes.fromhex(settings.secret.get_secret_value())
    except ValueError:
        secret = b""
    if len(secret) < SECRET_BYTES:
        raise SettingsError(
            f"guardrails: GUARDRAILS_SECRET must be at least {2 * SECRET_BYTES} hexadecimal digits"
        )
    return secret
