"""Monthly partitions, made ahead of time."""

from datetime import UTC, datetime
from typing import Any

RETENTIONS = ("required", "standard", "sampled")
MONTHS_AHEAD = 2


def month_start(moment: datetime, ahead: int = 0) -> datetime:
    """Give the first instant of the month that lies `ahead` months after `moment`."""
    months = moment.year * 12 + moment.month - 1 + ahead
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)


async def ensure_partitions(connection: Any, moment: datetime) -> None:
    """Make the partitions of a month and of those after it, where they are missing."""
    parents = ["leaf", "search_row", *(f"payload_{name}" for name in RETENTIONS)]
    statements = []
    for ahead in range(MONTHS_AHEAD + 1):
        start, end = month_start(moment, ahead), month_start(moment, ahead + 1)
        statements += [
            f"CREATE TABLE IF NOT EXISTS {parent}_{start:%Y%m} PARTITION OF {parent} "
            f"FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
            for parent in parents
        ]
    await connection.execute("; ".join(statements))
