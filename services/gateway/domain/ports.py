"""What the gateway's edge needs from the outside; adapters implement these."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from libs.common.context import Caller
from services.gateway.domain.limits import Decision, Policy


@dataclass(frozen=True, slots=True)
class Credential:
    """A verified credential: who calls, what it may do, which limits it carries.

    `key_id` is the API key, or the client of a token; `marks` are what revokes a token.
    """

    key_id: str
    caller: Caller
    requests_max: int | None = None
    window_s: int | None = None
    burst: int | None = None
    concurrency_max: int | None = None
    exempt_ip: bool = False
    exempt_routes: bool = False
    expires_at: float | None = None  # seconds since the epoch
    marks: tuple[str, ...] = ()


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


class UpstreamChooser(Protocol):
    """Says which instances of a service may get a call; the least loaded of them gets it."""

    def candidates(self, service: str, model: str | None, urls: Sequence[str]) -> Sequence[str]:
        """Give the base URLs, out of `urls`, of the instances that serve a model.

        Args:
            service: catalogue name.
            model: the model that the path names; None where it names none.
            urls: the instances that settings list.

        Returns:
            Some of `urls`; an empty answer means that any of them may be asked.
        """
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

    async def rotate(
        self, tenant: str, key_id: str, *, overlap_s: int, by: str, may: Callable[[str], bool]
    ) -> tuple[str, dict[str, Any]] | None:
        """Make the successor of a key; gives its text and row, or None for no such live key.

        Raises ConflictError when two keys of the principal are live already, and
        InsufficientScopeError when the key holds a scope that `may` denies.
        """
        ...


class TokenIssuing(Protocol):
    """Issues and revokes tokens. Raises TokenError, and UnavailableError with the store down."""

    async def client_credentials(
        self, client_id: str, client_secret: str, scope: str, network: str
    ) -> dict[str, Any]:
        """Issue tokens to the holder of an API key."""
        ...

    async def password(
        self, username: str, password: str, scope: str, network: str
    ) -> dict[str, Any]:
        """Issue tokens to a person."""
        ...

    async def refresh(self, token: str, network: str) -> dict[str, Any]:
        """Trade a refresh token for new tokens."""
        ...

    async def revoke(self, token: str, network: str) -> None:
        """Revoke a token; unknown ones are fine."""
        ...


class Administration(Protocol):
    """Tenants, roles and people; each change is an event. UnavailableError with a store down."""

    async def tenant(self, tenant: str) -> dict[str, Any] | None:
        """Give a tenant, or None."""
        ...

    async def tenants(self, limit: int, after: str) -> list[dict[str, Any]]:
        """List tenants by name, after the given one."""
        ...

    async def add_tenant(self, tenant: str, name: str, *, by: str) -> dict[str, Any] | None:
        """Make a tenant; None when it exists."""
        ...

    async def change_tenant(
        self, tenant: str, generation: int, values: Mapping[str, Any], *, by: str
    ) -> dict[str, Any] | None:
        """Change a tenant; None when it is of another generation by now."""
        ...

    async def roles(self, tenant: str) -> list[dict[str, Any]]:
        """List the roles of a tenant."""
        ...

    async def put_role(
        self, caller: Caller, role: str, scopes: list[str], generation: int
    ) -> dict[str, Any] | None:
        """Make (generation 0) or replace a role; None when it is of another generation."""
        ...

    async def delete_role(self, caller: Caller, role: str) -> bool:
        """Delete a role; False when there is none."""
        ...

    async def users(self, tenant: str) -> list[dict[str, Any]]:
        """List the people of a tenant."""
        ...

    async def add_user(
        self, caller: Caller, username: str, password: str, roles: list[str]
    ) -> bool:
        """Make a person; False when the name is taken."""
        ...

    async def change_user(
        self, caller: Caller, username: str, roles: list[str] | None, *, disable: bool
    ) -> bool:
        """Change a person and end their tokens; False when there is none."""
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

    async def login_person(self, username: str, password: str, network: str) -> str:
        """Give a session id for a person; UnauthenticatedError for a wrong name or password."""
        ...

    async def logout(self, session: str) -> None:
        """Close a session; unknown ones are fine."""
        ...
