"""Where the gateway answers and with which key: from the environment or the state directory."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson


class NotRunningError(Exception):
    """No suite can be found; the text says how to start one."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway to talk to."""

    url: str
    key: str

    @classmethod
    def find(cls, state_dir: Path, environ: "os._Environ[str]" = os.environ) -> "Gateway":
        """Take GATEWAY_URL and GATEHOUSE_API_KEY, else what the local runner wrote down.

        Raises:
            NotRunningError: neither is there.
        """
        url, key = environ.get("GATEWAY_URL"), environ.get("GATEHOUSE_API_KEY")
        if url and key:
            return cls(url.rstrip("/"), key)
        try:
            suite: dict[str, Any] = orjson.loads((state_dir / "run" / "suite.json").read_bytes())
            key_text = Path(suite["demo_key_file"]).read_text().strip()
        except (OSError, KeyError, ValueError):
            raise NotRunningError(
                f"No suite runs over {state_dir}. Start one with `make run` in another terminal, "
                "or set GATEWAY_URL and GATEHOUSE_API_KEY."
            ) from None
        return cls(str(suite["services"]["gateway"]["url"]), key_text)

    def session(self, connections_max: int = 16) -> aiohttp.ClientSession:
        """Open a session that carries the key."""
        return aiohttp.ClientSession(
            self.url,
            connector=aiohttp.TCPConnector(limit=connections_max),
            headers={"X-API-Key": self.key},
            timeout=aiohttp.ClientTimeout(total=30),
        )
