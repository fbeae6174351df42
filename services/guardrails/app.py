"""The guardrails app: wiring only."""

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypedDict

from libs.common.app import ServiceApp
from libs.common.app import create_app as build
from libs.common.events.envelope import EventEmitter
from libs.common.platform import Platform
from services.guardrails import routes
from services.guardrails.adapters.builtin_policies import BuiltinPolicies
from services.guardrails.adapters.local import LocalValidator
from services.guardrails.adapters.redis_cache import NoCache, RedisVerdictCache
from services.guardrails.adapters.secret_file import load_or_make
from services.guardrails.checker import Checker
from services.guardrails.domain.guard import Guard
from services.guardrails.domain.pii import PiiValidator
from services.guardrails.domain.secrets import SecretsValidator
from services.guardrails.metrics import GuardMetrics
from services.guardrails.settings import GuardrailsSettings


class State(TypedDict):
    """What routes find under `request.state`."""

    checker: Checker
    metrics: GuardMetrics


def create_app(settings: GuardrailsSettings, *, events: EventEmitter | None = None) -> ServiceApp:
    """Build the service.

    Args:
        settings: its settings.
        events: replaces the write-ahead log, in tests.
    """

    @asynccontextmanager
    async def lifespan(platform: Platform) -> AsyncIterator[State]:
        metrics = GuardMetrics(platform.registry)
        cache = (
            RedisVerdictCache(platform.redis, metrics.cache) if settings.redis_dsn else NoCache()
        )
        secret = load_or_make(settings.state_dir / "secrets")
        with ThreadPoolExecutor(settings.pattern_threads, "patterns") as pool:
            detectors = (PiiValidator(), SecretsValidator())
            guard = Guard(
                {detector.name: LocalValidator(detector, pool) for detector in detectors},
                cache,
                BuiltinPolicies(),
                secret,
                observe=metrics.verdict,
            )
            checker = Checker(
                guard,
                platform.events,
                ttl_default_s=settings.cache_default_ttl_s,
                text_chars_max=settings.text_chars_max,
                concurrent_max=settings.max_concurrent_requests,
            )
            yield State(checker=checker, metrics=metrics)

    return build("guardrails", settings, lifespan, routers=[routes.router], events=events)
