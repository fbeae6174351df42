"""Learns which models each instance of inference serves, so that calls go where the model is.

Each instance is asked for `GET /v1/models` every few seconds. One that does not answer keeps what
it said last; one that never answered counts as serving everything. With a single instance there is
nothing to choose and nobody is asked.
"""

import asyncio
from collections.abc import Sequence

import aiohttp

from libs.common.identity import IDENTITY_HEADER, Signer
from libs.common.logging import get_logger

log = get_logger()

SERVICE = "inference"
_POLL_S = 5.0
_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
_BYTES_MAX = 4 << 20


class ServedModels:
    """Implements UpstreamChooser from what the instances say."""

    def __init__(self, urls: Sequence[str], signer: Signer | None) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._signer = signer
        self._served: dict[str, frozenset[str]] = {}

    def candidates(self, service: str, model: str | None, urls: Sequence[str]) -> Sequence[str]:
        """Give the instances that know the model; none means that any may be asked."""
        if service != SERVICE or model is None:
            return urls
        known = self._served
        return [url for url in urls if url not in known or model in known[url]]

    async def run(self) -> None:
        """Ask all instances for ever; at once, then every few seconds."""
        if len(self._urls) < 2:
            return
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            while True:
                await asyncio.gather(*(self._ask(session, url) for url in self._urls))
                await asyncio.sleep(_POLL_S)

    async def _ask(self, session: aiohttp.ClientSession, url: str) -> None:
        """Ask one instance; what cannot be read changes nothing."""
        headers = {}
        if self._signer is not None:
            header = self._signer.header(SERVICE, tenant="default", scopes=("models:read",))
            headers = {IDENTITY_HEADER: header}
        try:
            async with session.get(f"{url}/v1/models", headers=headers) as response:
                response.raise_for_status()
                if (response.content_length or 0) > _BYTES_MAX:
                    return
                document = await response.json(content_type=None)
            names = frozenset(str(item["name"]) for item in document["items"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            return
        if self._served.get(url) != names:
            self._served[url] = names
            log.info("instance serves models", index=self._urls.index(url), models=len(names))
