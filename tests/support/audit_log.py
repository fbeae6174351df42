"""A tiny real HTTP server with audit's tail contract, filled by tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from libs.common.events.envelope import Event


class AuditLog:
    """The log of the server; `append` is seen by the next read."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any] | None] = []
        self.min_index = 0
        self.fail_with: int | None = None
        self.reads: list[int] = []
        self.url = ""
        self._reads_max: int | None = None

    def append(self, *events: Event) -> None:
        self.documents.extend(event.to_wire() for event in events)

    def fail_after(self, reads: int) -> None:
        """Answer 503 once so many reads were served."""
        self._reads_max = reads

    async def entries(self, request: web.Request) -> web.Response:
        if self._reads_max is not None and len(self.reads) >= self._reads_max:
            self.fail_with, self._reads_max = 503, None
        if self.fail_with:
            return web.json_response({"code": "unavailable"}, status=self.fail_with)
        start = max(int(request.query["from_index"]), self.min_index)
        limit = int(request.query["limit"])
        self.reads.append(start)
        chosen = self.documents[start : start + limit]
        return web.json_response(
            {
                "items": [
                    {"index": start + at, "leaf": "", "payload": document}
                    for at, document in enumerate(chosen)
                ],
                "next_index": start + len(chosen),
                "size": len(self.documents),
                "min_index": self.min_index,
            }
        )


@asynccontextmanager
async def serve_audit_log() -> AsyncIterator[AuditLog]:
    """Serve an empty log on a free port."""
    log = AuditLog()
    app = web.Application()
    app.router.add_get("/v1/audit/log/entries", log.entries)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    log.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield log
    finally:
        await runner.cleanup()
