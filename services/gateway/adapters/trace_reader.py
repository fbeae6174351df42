"""Where the console finds the spans of a trace: the runner's receiver, or a link elsewhere."""

from typing import Any

import aiohttp
import orjson

_TIMEOUT = aiohttp.ClientTimeout(total=1.0)


class TraceReader:
    """Reads traces by id; without a place to read from it only makes links.

    Args:
        base_url: a receiver with `GET /traces/{trace_id}`, as the local runner has it, or None.
        link: address of a trace for people, with `{trace_id}` in it, or None.
    """

    def __init__(self, base_url: str | None, link: str | None) -> None:
        self._base_url = base_url
        self._link = link

    @property
    def reads(self) -> bool:
        """Whether spans can be read at all."""
        return self._base_url is not None

    def link(self, trace_id: str) -> str:
        """Give the address of the trace for people, empty without one."""
        return self._link.replace("{trace_id}", trace_id) if self._link and trace_id else ""

    async def spans(self, trace_id: str) -> list[dict[str, Any]]:
        """Give the spans of a trace; none where they are unknown or cannot be read."""
        if not self._base_url or not trace_id:
            return []
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.get(f"{self._base_url}/traces/{trace_id}") as reply,
            ):
                if reply.status != 200:
                    return []
                found: list[dict[str, Any]] = orjson.loads(await reply.read())["items"]
                return found
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError, KeyError):
            return []
