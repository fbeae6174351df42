"""Facts for the compliance report, by SQL over committed rows of one tenant and period."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

from libs.common.postgres import Postgres
from libs.common.transparency.leaf import rfc3339
from services.audit.adapters.log_reader import LogReader

_LISTED_MAX = 200
_OVERRIDES = ("rollout.changed", "model.changed", "policy.changed", "threshold.changed")
_ACCESS = ("auth.failed", "auth.revoked", "key.created", "key.rotated", "key.revoked")


class ReportFacts:
    """Collects what a report states; every figure can be found again by a search."""

    def __init__(self, postgres: Postgres, reader: LogReader) -> None:
        self._postgres = postgres
        self._reader = reader

    async def collect(
        self, tenant: str, since: datetime, until: datetime, size: int
    ) -> dict[str, Any]:
        """Give the facts of `[since, until)`, as far as a checkpoint of `size` covers them."""
        first = min(size, await self._reader.index_at(since))
        last = min(size, await self._reader.index_at(until))
        span = (tenant, first, last)
        counts = await self._postgres.fetch(
            "SELECT type, source, count(*) AS events FROM search_row "
            "WHERE tenant = $1 AND index >= $2 AND index < $3 GROUP BY 1, 2 ORDER BY 1, 2",
            *span,
        )
        decisions = await self._postgres.fetch(
            "SELECT model, decision, count(*) AS events FROM search_row "
            "WHERE tenant = $1 AND index >= $2 AND index < $3 AND type = 'prediction.made' "
            "GROUP BY 1, 2 ORDER BY 1, 2",
            *span,
        )
        classes = await self._postgres.fetch(
            "SELECT p.retention AS event_class, count(*) AS events FROM search_row s "
            "JOIN payload p ON p.index = s.index AND p.ingested_at = s.ingested_at "
            "WHERE s.tenant = $1 AND s.index >= $2 AND s.index < $3 GROUP BY 1 ORDER BY 1",
            *span,
        )
        return {
            "from_index": first,
            "to_index": last,
            "by_type": [dict(row) for row in counts],
            "by_class": {row["event_class"]: row["events"] for row in classes},
            "decisions": [dict(row) for row in decisions],
            "overrides": await self._listed(span, _OVERRIDES),
            "access": await self._listed(span, _ACCESS),
            "erasures": await self._listed(span, ("data_subject.erased",)),
            "alerts": await self._listed(span, ("security.alert",)),
            # These concern the log as a whole and carry no tenant.
            "gaps": await self._listed(("", first, last), ("audit.gap",)),
            "prunings": await self._listed(("", first, last), ("retention.pruned",)),
            "unwitnessed": await self._unwitnessed(since, until),
        }

    async def _listed(self, span: tuple[str, int, int], types: tuple[str, ...]) -> dict[str, Any]:
        """Count events of some types and list the newest."""
        tenant, first, last = span
        rows = await self._postgres.fetch(
            "SELECT s.index, s.ingested_at, s.type, p.body, count(*) OVER () AS total "
            "FROM search_row s LEFT JOIN payload p ON p.index = s.index "
            "AND p.ingested_at = s.ingested_at WHERE s.tenant = $1 AND s.type = ANY($4) "
            "AND s.index >= $2 AND s.index < $3 ORDER BY s.index DESC LIMIT $5",
            tenant,
            first,
            last,
            list(types),
            _LISTED_MAX,
        )
        return {"count": rows[0]["total"] if rows else 0, "newest": [_line(row) for row in rows]}

    async def _unwitnessed(self, since: datetime, until: datetime) -> list[dict[str, Any]]:
        """Give the spans in which checkpoints were published without a cosignature."""
        rows = await self._postgres.fetch(
            "WITH marked AS (SELECT size, published_at, witnessed_at IS NOT NULL AS seen, "
            "count(*) FILTER (WHERE witnessed_at IS NOT NULL) OVER (ORDER BY size) AS span "
            "FROM checkpoint WHERE published_at >= $1 AND published_at < $2) "
            "SELECT min(size) AS first, max(size) AS last, min(published_at) AS since, "
            "max(published_at) AS until FROM marked WHERE NOT seen GROUP BY span "
            "ORDER BY 1 DESC LIMIT 200",
            since,
            until,
        )
        return [
            {
                "from_size": row["first"],
                "to_size": row["last"],
                "since": rfc3339(row["since"]),
                "until": rfc3339(row["until"]),
            }
            for row in rows
        ]


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    data = orjson.loads(row["body"])["data"] if row["body"] is not None else None
    return {
        "index": row["index"],
        "ingested_at": rfc3339(row["ingested_at"]),
        "type": row["type"],
        "data": data,
    }
