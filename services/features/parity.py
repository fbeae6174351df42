"""Parity: what was served, computed again from history with exactly the events served from.

A sample carries the log offset of each blob it was served from, so the delay of the appliers is no
error. Computed again with everything that has arrived since, the difference is lateness skew, a
number of its own.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge

from libs.common.errors import UnavailableError
from libs.common.features.contract import FeatureRows
from libs.common.logging import get_logger
from libs.common.postgres import Postgres
from services.features.adapters.history import History
from services.features.domain.definitions import FEATURE_SERVICES
from services.features.rows_in import Sample

log = get_logger()

_SERVICES = {service.name: service for service in FEATURE_SERVICES}
_TOLERANCE = 1e-9
_BATCH = 200
_KEEP_DAYS = 30
_TAKE = """
SELECT tenant, sample_id, body FROM samples WHERE checked_at IS NULL
ORDER BY received_ms LIMIT $1 FOR UPDATE SKIP LOCKED
"""


class ParityMetrics:
    """What the parity job found."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.mismatch = Counter(
            "gatehouse_feature_parity_mismatch_total",
            "Served values that history does not give again.",
            ("view", "feature"),
            registry=registry,
        )
        self.checked = Counter(
            "gatehouse_feature_parity_checked_total",
            "Served values compared with history.",
            registry=registry,
        )
        self.skew = Counter(
            "gatehouse_feature_lateness_skew_total",
            "Served values that events which arrived later would have changed.",
            ("view", "feature"),
            registry=registry,
        )
        self.last = Gauge(
            "gatehouse_feature_parity_last_run_timestamp_seconds",
            "When samples were last compared.",
            registry=registry,
        )


class Parity:
    """Keeps samples and compares them, batch by batch."""

    def __init__(self, postgres: Postgres, history: History, metrics: ParityMetrics) -> None:
        self._postgres, self._history, self._metrics = postgres, history, metrics

    async def keep(self, tenant: str, samples: Sequence[Sample]) -> int:
        """Keep samples; a known id is skipped. Gives how many are new."""
        now_ms = time.time_ns() // 1_000_000
        async with self._postgres.transaction() as connection:
            rows = await connection.fetch(
                "INSERT INTO samples (tenant, sample_id, service, as_of_ms, received_ms, body) "
                "SELECT $1, x.id, x.service, x.as_of, $5, x.body::jsonb FROM "
                "unnest($2::text[], $3::text[], $4::bigint[], $6::text[]) "
                "AS x (id, service, as_of, body) ON CONFLICT DO NOTHING RETURNING sample_id",
                tenant,
                [sample.sample_id for sample in samples],
                [sample.feature_service for sample in samples],
                [sample.request().now_ms for sample in samples],
                now_ms,
                [sample.model_dump_json(exclude_none=False) for sample in samples],
            )
        return len(rows)

    async def run(self, every_s: float) -> None:
        """Compare new samples for ever; a store that is gone only delays it."""
        while True:
            try:
                while await self.compare() == _BATCH:
                    pass
            except UnavailableError:
                log.warning("parity waits", dependency="postgres")
            await asyncio.sleep(every_s)

    async def compare(self) -> int:
        """Compare one batch; give how many samples it had."""
        async with self._postgres.transaction() as connection:
            taken = await connection.fetch(_TAKE, _BATCH)
            for tenant, sample_id, text in taken:
                sample = Sample.model_validate_json(text)
                mismatches = await self._differences(tenant, sample)
                await connection.execute(
                    "UPDATE samples SET checked_at = now(), mismatches = $3::jsonb "
                    "WHERE tenant = $1 AND sample_id = $2",
                    tenant,
                    sample_id,
                    orjson.dumps(mismatches).decode(),
                )
            await connection.execute(
                f"DELETE FROM samples WHERE checked_at < now() - interval '{_KEEP_DAYS} days'"
            )
        self._metrics.last.set_to_current_time()
        return len(taken)

    async def _differences(self, tenant: str, sample: Sample) -> list[str]:
        service = _SERVICES[sample.feature_service]
        request = sample.request()
        then = await self._history.read(service, tenant, [request], offsets=[sample.offsets])
        later = await self._history.read(
            service, tenant, [request], offsets=[dict.fromkeys(sample.offsets, _EVERYTHING)]
        )
        differing = _differing(service.raw, sample.raw, then)
        for name in differing:
            view, _, feature = name.partition(":")
            self._metrics.mismatch.labels(view, feature).inc()
        for name in _differing(service.raw, sample.raw, later):
            if name not in differing:
                view, _, feature = name.partition(":")
                self._metrics.skew.labels(view, feature).inc()
        self._metrics.checked.inc(len(service.raw))
        return differing

    async def report(self, tenant: str) -> dict[str, Any]:
        """Give what the comparisons of the tenant's samples found."""
        row = await self._postgres.fetchrow(
            "SELECT count(*) FILTER (WHERE checked_at IS NOT NULL), "
            "count(*) FILTER (WHERE checked_at IS NULL), "
            "count(*) FILTER (WHERE mismatches <> '[]'), max(checked_at) "
            "FROM samples WHERE tenant = $1",
            tenant,
        )
        rows = await self._postgres.fetch(
            "SELECT name, count(*) FROM samples, jsonb_array_elements_text(mismatches) AS name "
            "WHERE tenant = $1 AND mismatches <> '[]' GROUP BY name ORDER BY name",
            tenant,
        )
        return {
            "samples_checked": row[0],
            "samples_waiting": row[1],
            "samples_with_mismatch": row[2],
            "last_checked_at": None
            if row[3] is None
            else row[3].isoformat().replace("+00:00", "Z"),
            "mismatches": [
                {
                    "view": name.partition(":")[0],
                    "feature": name.partition(":")[2],
                    "count": count,
                }
                for name, count in rows
            ],
        }


_EVERYTHING = 2**62


def _differing(
    names: Sequence[str], served: Sequence[float | None], again: FeatureRows
) -> list[str]:
    """Name the values that differ; whole numbers compare equal, others to 1e-9 relative."""
    if again.raw is None or len(served) != len(names):
        return list(names)
    found = []
    for name, value, recomputed in zip(names, served, again.raw[0].tolist(), strict=True):
        is_unknown = math.isnan(recomputed)
        if value is None or is_unknown:
            is_same = value is None and is_unknown
        else:
            is_same = math.isclose(value, recomputed, rel_tol=_TOLERANCE, abs_tol=0.0)
        if not is_same:
            found.append(name)
    return found
