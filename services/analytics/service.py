"""The use cases of analytics: read roll-ups, judge them, shape the answer."""

from dataclasses import asdict
from datetime import datetime

from libs.common.errors import InvalidInputError
from services.analytics import schemas, views
from services.analytics.adapters.rollups import RollupStore
from services.analytics.adapters.thresholds import ThresholdStore, ThresholdsVersion
from services.analytics.domain.aggregate import aggregate
from services.analytics.domain.ports import Filters
from services.analytics.domain.thresholds import judge
from services.analytics.domain.windows import (
    MINUTE,
    Window,
    floor_minute,
    open_window,
    window_ending,
)


class Analytics:
    """What the routes call; one per process."""

    def __init__(
        self, store: RollupStore, thresholds: ThresholdStore, *, started_at: datetime
    ) -> None:
        self._store = store
        self._thresholds = thresholds
        self._since = floor_minute(started_at)

    async def count(self, tenant: str) -> schemas.Count:
        """Count a tenant's predictions."""
        far = Window(self._since, self._since + 100 * 365 * 1440 * MINUTE)
        return schemas.Count(
            total_predictions=await self._store.total_predictions(tenant),
            since_start=await self._store.predictions_in(tenant, far),
            since=self._since,
        )

    async def aggregated(
        self, tenant: str, request: schemas.AggregatedRequest, now: datetime
    ) -> schemas.Aggregated:
        """Give the figures of a window; without `end` it includes the running minute.

        Raises:
            InvalidInputError: `end` lies in the future.
            UnavailableError: the database does not answer.
        """
        minutes = request.time_window_minutes
        if request.end is None:
            window = open_window(now, minutes)
        elif request.end > now + MINUTE:
            raise InvalidInputError.field("/end", "must not lie in the future")
        else:
            window = window_ending(request.end, minutes)
        filters = Filters(
            "prediction", request.model, request.version, request.release, request.route
        )
        series = await self._store.read(tenant, window, filters)
        verdicts = await self._store.read(tenant, window, Filters("verdict", histograms=()))
        previous = None
        if request.compare == "previous":
            previous = aggregate(await self._store.read(tenant, window.previous(), filters))
        limits = await self._thresholds.current(tenant)
        return views.aggregated(
            window=views.window_view(window, await self._store.watermark(), now),
            elapsed_s=window.elapsed_s(now),
            series=series,
            verdicts=verdicts,
            previous=previous,
            breaches=judge(aggregate(series), previous, limits.limits),
            thresholds_version=limits.version,
        )

    async def thresholds(self, tenant: str) -> schemas.ThresholdsView:
        """Give the limits in force."""
        return _thresholds_view(await self._thresholds.current(tenant))

    async def change_thresholds(
        self, tenant: str, request: schemas.ThresholdsRequest, *, by: str
    ) -> schemas.ThresholdsView:
        """Change some limits, as a new version.

        Raises:
            CrossedThresholdsError: limits would contradict each other.
            ThresholdsChangedError: somebody was faster.
        """
        changes = request.model_dump(exclude_unset=True, exclude_none=True)
        expected = changes.pop("expected_version", None)
        if not changes:
            raise InvalidInputError.field("", "names no limit to change")
        stored = await self._thresholds.change(tenant, changes, by=by, expected_version=expected)
        return _thresholds_view(stored)


def _thresholds_view(stored: ThresholdsVersion) -> schemas.ThresholdsView:
    return schemas.ThresholdsView(
        version=stored.version,
        changed_at=stored.changed_at,
        changed_by=stored.changed_by,
        **asdict(stored.limits),
    )
