"""Reads the audit log by index over HTTP, with this service's own identity."""

from libs.common.catalog.audit import LOG_ENTRIES_PATH
from libs.common.errors import UnavailableError
from libs.common.http_client import ServiceClient
from services.analytics.domain.ports import LogBatch

READ_TIMEOUT_S = 10.0


class AuditLogReader:
    """The LogReader over `GET /v1/audit/log/entries`."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    async def read(self, from_index: int, limit: int) -> LogBatch:
        """Give at most `limit` entries from `from_index` on.

        Raises:
            UnavailableError: audit does not answer, refuses, or answers something else.
            DeadlineExceededError: audit is too slow.
        """
        reply = await self._client.request(
            "GET",
            f"{LOG_ENTRIES_PATH}?from_index={from_index}&limit={limit}",
            timeout_s=READ_TIMEOUT_S,
            scopes=("audit:tail",),
        )
        if reply.status != 200:
            raise UnavailableError(f"The audit log answered {reply.status}.")
        try:
            body = reply.json()
            return LogBatch(
                documents=[item.get("payload") for item in body["items"]],
                next_index=int(body["next_index"]),
                size=int(body["size"]),
                min_index=int(body["min_index"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnavailableError("The audit log answered in another shape.") from error
