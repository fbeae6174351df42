"""What the gateway's edge needs from the outside; adapters implement these."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from libs.common.context import Caller
from services.gateway.domain.limits import Decision, Policy


@dataclass(frozen=True, slots=True)
class Credential:
    """A verified credential: who calls, what it may do, which limits it carries."""

    key_id: str
    caller: Caller
    requests_max: int | None = None
    window_s: int | None = None
    burst: int | None = None
    concurrency_max: int | None = None
    exempt_ip: bool = False
    exempt_routes: bool = False
    expires_at: float | None = None  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One row of the key table, as verification needs it."""

    credential: Credential
    mac: bytes
    revoked: bool


class KeyStore(Protocol):
    """Finds keys. Raises UnavailableError when the store does not answer: never a made-up miss."""

    async def find(self, key_id: str) -> StoredKey | None:
        """Give the row of a key, or None when there is none."""
        ...


class IpLimiter(Protocol):
    """Counts requests of one bucket exactly. None means: the store cannot say, decide locally."""

    async def take(self, bucket: str, policy: Policy) -> Decision | None:
        """Count one request."""
        ...


class KeyLimiter(Protocol):
    """Counts requests of one principal over all replicas. None means: decide locally."""

    async def take(self, tenant: str, principal: str, policy: Policy) -> Decision | None:
        """Count one request."""
        ...


class KeyAdministration(Protocol):
    """Makes, lists and revokes a tenant's keys. Raises UnavailableError when the store is down."""

    async def make(
        self,
        *,
        tenant: str,
        name: str,
        scopes: frozenset[str],
        created_by: str,
        expires_at: datetime | None,
        template: Credential,
    ) -> tuple[str, dict[str, Any]]:
        """Make a key with the limits of `template`; gives its text and its public row."""
        ...

    async def list(
        self, tenant: str, limit: int, before: tuple[datetime, str] | None
    ) -> list[dict[str, Any]]:
        """List a tenant's keys, newest first, at most `limit`, older than `before`."""
        ...

    async def revoke(self, tenant: str, key_id: str, *, by: str) -> bool:
        """Revoke a key of the tenant; False when the tenant has no such key."""
        ...


class ApiDescriber(Protocol):
    """Merges the services' API descriptions."""

    def description(self, own: Mapping[str, Any]) -> bytes:
        """Give the merged OpenAPI document as JSON; `own` is the gateway's part."""
        ...


class ConsoleFigures(Protocol):
    """What the console shows."""

    @property
    def is_draining(self) -> bool:
        """Whether live streams should end."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Give all figures; JSON-ready."""
        ...


class LoginDesk(Protocol):
    """Opens and closes console sessions. Raises UnavailableError when they cannot be kept."""

    async def login(self, api_key: str, network: str) -> str:
        """Give a session id for a valid key; UnauthenticatedError for any other text."""
        ...

    async def logout(self, session: str) -> None:
        """Close a session; unknown ones are fine."""
        ...
