"""The guardrails app: wiring only."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from libs.common.app import ServiceApp
from libs.common.app import create_app as build
from libs.common.events.envelope import EventEmitter
from libs.common.platform import Platform
from services.guardrails import (
    bedrock_routes,
    moderation_routes,
    plugin_routes,
    policy_routes,
    presidio_routes,
    protocol_errors,
    routes,
    stream_routes,
)
from services.guardrails.adapters.builtin_policies import BuiltinPolicies
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
from services.guardrails.adapters.secret_file import load_or_make
from services.guardrails.checker import Checker
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
from services.guardrails.metrics import GuardMetrics
from services.guardrails.plugin_service import PluginService
from services.guardrails.settings import GuardrailsSettings
from services.guardrails.usage import Usage

# What the guard model calls its kinds of toxicity.
TOXICITY_LABELS = ("toxic", "hate", "sexist")


class State(TypedDict):
    """What routes find under `request.state`."""

    checker: Checker
    metrics: GuardMetrics
    cache: VerdictCache
    model: GuardModel
    usage: Usage
    plugins: PluginService
    offload: Callable[..., Awaitable[Any]]


def create_app(settings: GuardrailsSettings, *, events: EventEmitter | None = None) -> ServiceApp:
    """Build the service.

    Args:
        settings: its settings.
        events: replaces the write-ahead log, in tests.
    """

    @asynccontextmanager
    async def lifespan(platform: Platform) -> AsyncIterator[State]:
        metrics = GuardMetrics(platform.registry)
        cache: VerdictCache = (
            RedisVerdictCache(platform.redis, metrics.cache) if settings.redis_dsn else NoCache()
        )
        policies = FlooredPolicies(
            PostgresPolicies(platform.postgres) if settings.postgres_url else BuiltinPolicies(),
            read_floor(settings.floor) if settings.floor else None,
        )
        secret = load_or_make(settings.state_dir / "secrets")
        with ThreadPoolExecutor(settings.pattern_threads, "patterns") as pool:
            detectors: tuple[Detector, ...] = (
                PiiValidator(),
                SecretsValidator(),
                malicious_validator(),
                LengthValidator(),
                WordListValidator(),
                RegexValidator(),
                LanguageValidator(),
                TopicsValidator(),
            )
            model = GuardModel(settings.guard_model, platform.client("inference"))
            injection = LocalValidator(injection_validator(), pool)
            validators: list[Validator] = [
                *(LocalValidator(detector, pool) for detector in detectors),
                InjectionValidator(injection, model),
                ToxicityValidator(model, TOXICITY_LABELS),
            ]
            guard = Guard(
                {validator.name: validator for validator in validators},
                cache,
                policies,
                secret,
                observe=metrics.verdict,
            )
            checker = Checker(
                guard,
                platform.events,
                ttl_default_s=settings.cache_default_ttl_s,
                text_chars_max=settings.text_chars_max,
                concurrent_max=settings.max_concurrent_requests,
                observe=metrics.decision,
            )
            loop = asyncio.get_running_loop()

            async def offload(function: Callable[..., Any], *args: Any) -> Any:
                return await loop.run_in_executor(pool, function, *args)

            usage = Usage(
                memory_bytes_max=settings.memory_warn_mib << 20,
                cpu_share_max=settings.cpu_warn_cores,
            )
            plugins = PluginService(
                PluginRegistry(
                    guard.validators,
                    settings.plugins_path,
                    memory_bytes=settings.plugin_memory_mib << 20,
                    observe=metrics.plugin_failure,
                    on_disabled=lambda name, version: plugins.disabled(name, version),
                ),
                platform.postgres if settings.postgres_url else None,
                platform.events,
            )
            following = asyncio.create_task(plugins.follow())
            try:
                yield State(
                    checker=checker,
                    metrics=metrics,
                    cache=cache,
                    model=model,
                    usage=usage,
                    plugins=plugins,
                    offload=offload,
                )
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                await plugins.registry.close()

    return build(
        "guardrails",
        settings,
        lifespan,
        routers=[
            routes.plain,
            routes.router,
            policy_routes.router,
            plugin_routes.router,
            presidio_routes.router,
            moderation_routes.router,
            bedrock_routes.router,
            stream_routes.router,
        ],
        events=events,
        render_error=protocol_errors.render,
    )
