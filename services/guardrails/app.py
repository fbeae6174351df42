"""The guardrails app: which routes it serves; `wiring` builds what they need."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from libs.common.app import ServiceApp
from libs.common.app import create_app as build
from libs.common.events.envelope import EventEmitter
from libs.common.platform import Platform
from services.guardrails import (
    bedrock_routes,
    feedback_routes,
    moderation_routes,
    plugin_routes,
    policy_routes,
    presidio_routes,
    protocol_errors,
    reveal_routes,
    routes,
    ruleset_routes,
    stream_routes,
)
from services.guardrails.settings import GuardrailsSettings
from services.guardrails.wiring import State, running


def create_app(settings: GuardrailsSettings, *, events: EventEmitter | None = None) -> ServiceApp:
    """Build the service.

    Args:
        settings: its settings.
        events: replaces the write-ahead log, in tests.
    """

    @asynccontextmanager
    async def lifespan(platform: Platform) -> AsyncIterator[State]:
        async with running(settings, platform) as state:
            yield state

    return build(
        "guardrails",
        settings,
        lifespan,
        routers=[
            routes.plain,
            routes.router,
            feedback_routes.router,
            reveal_routes.router,
            policy_routes.router,
            plugin_routes.router,
            ruleset_routes.router,
            presidio_routes.router,
            moderation_routes.router,
            bedrock_routes.router,
            stream_routes.router,
        ],
        events=events,
        render_error=protocol_errors.render,
    )
