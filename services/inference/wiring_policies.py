"""Wiring of decisions: currency rates, policies and the task that follows their store."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from libs.common.errors import ServiceError, UnavailableError
from libs.common.platform import Platform
from libs.common.settings import SettingsError
from services.inference.adapters.policy_store import PostgresPolicyStore
from services.inference.control.policies import PolicyControl
from services.inference.domain.currency import BUILT_IN, CurrencyRates, RatesError
from services.inference.domain.policy import PolicyStore
from services.inference.settings import InferenceSettings

# How long the start waits for the policies; after that the last known ones count.
_START_S = 2.0


@asynccontextmanager
async def open_policies(
    platform: Platform, settings: InferenceSettings
) -> AsyncIterator[PolicyControl]:
    """Follow the policies around the life of the service; they are known before it serves."""
    store: PolicyStore | None = None
    with suppress(UnavailableError):
        store = PostgresPolicyStore(platform.postgres)
    control = PolicyControl(
        store,
        platform.events,
        review_amount=settings.degraded_review_amount,
        copy=settings.state_dir / "inference" / "decision_policies.json",
    )
    if store is not None:
        try:
            async with asyncio.timeout(_START_S):
                await control.follow()
        except (ServiceError, TimeoutError):
            control.recall()
    following = asyncio.create_task(control.run(settings.models_reconcile_s))
    try:
        yield control
    finally:
        while not following.done():
            following.cancel()
            await asyncio.wait([following], timeout=0.2)


def open_rates(settings: InferenceSettings) -> CurrencyRates:
    """Read the table of currency rates.

    Raises:
        SettingsError: the file that the setting names is no such table.
    """
    if settings.currency_rates_path is None:
        return BUILT_IN
    try:
        return CurrencyRates.from_json(json.loads(settings.currency_rates_path.read_text()))
    except (OSError, ValueError) as error:
        told = str(error) if isinstance(error, RatesError) else type(error).__name__
        raise SettingsError(f"CURRENCY_RATES_PATH: {told}") from None
