"""Changes of tenants, roles and people: event first, then the row, as everywhere in the gateway."""

from collections.abc import Mapping
from typing import Any

import orjson

from libs.common.context import Caller
from libs.common.errors import InvalidInputError
from services.gateway.adapters.security_events import SecurityEvents
from services.gateway.adapters.tenant_directory import TenantDirectory
from services.gateway.adapters.token_desk import TokenDesk
from services.gateway.adapters.token_store import TokenStore
from services.gateway.errors import InsufficientScopeError


class AdminDesk:
    """Implements Administration."""

    def __init__(
        self,
        tenants: TenantDirectory,
        store: TokenStore,
        tokens: TokenDesk,
        events: SecurityEvents,
    ) -> None:
        self._tenants = tenants
        self._store = store
        self._tokens = tokens
        self._events = events

    async def tenant(self, tenant: str) -> dict[str, Any] | None:
        """Give a tenant's row, or None."""
        return await self._tenants.read(tenant)

    async def tenants(self, limit: int, after: str) -> list[dict[str, Any]]:
        """List tenants by name."""
        return await self._tenants.list(limit, after)

    async def add_tenant(self, tenant: str, name: str, *, by: str) -> dict[str, Any] | None:
        """Make a tenant; None when it exists."""
        await self._events.tenant_changed("tenant.created", f"tenant:{tenant}", by, "", tenant)
        return await self._tenants.add(tenant, name)

    async def change_tenant(
        self, tenant: str, generation: int, values: Mapping[str, Any], *, by: str
    ) -> dict[str, Any] | None:
        """Change a tenant; None when it is of another generation by now."""
        before = await self._tenants.read(tenant)
        if before is None or before["generation"] != generation:
            return None
        await self._events.tenant_changed(
            "tenant.changed", f"tenant:{tenant}", by, _rules(before), _rules(values)
        )
        return await self._tenants.change(tenant, generation, values)

    async def roles(self, tenant: str) -> list[dict[str, Any]]:
        """List a tenant's roles."""
        return await self._store.roles(tenant)

    async def put_role(
        self, caller: Caller, role: str, scopes: list[str], generation: int
    ) -> dict[str, Any] | None:
        """Make or replace a role that the caller does not have; None when it is stale.

        Raises:
            InvalidInputError: the caller has this role.
        """
        await self._not_ones_own(caller, role)
        after = " ".join(sorted(scopes))
        await self._events.tenant_changed(
            "tenant.changed", f"role:{role}", caller.principal, str(generation), after
        )
        return await self._store.put_role(caller.tenant, role, sorted(set(scopes)), generation)

    async def delete_role(self, caller: Caller, role: str) -> bool:
        """Delete a role that the caller does not have.

        Raises:
            InvalidInputError: the caller has this role.
        """
        await self._not_ones_own(caller, role)
        await self._events.tenant_changed(
            "tenant.changed", f"role:{role}", caller.principal, role, ""
        )
        return await self._store.delete_role(caller.tenant, role)

    async def users(self, tenant: str) -> list[dict[str, Any]]:
        """List a tenant's people."""
        return await self._store.users(tenant)

    async def add_user(
        self, caller: Caller, username: str, password: str, roles: list[str]
    ) -> bool:
        """Make a person; False when the name is taken.

        Raises:
            InvalidInputError: no such role. InsufficientScopeError: it grants more than is held.
        """
        await self._may_grant(caller, roles)
        hashed = await self._tokens.hash_password(password)
        await self._events.tenant_changed(
            "tenant.changed", f"user:{username}", caller.principal, "", " ".join(roles)
        )
        return await self._store.add_user(caller.tenant, username, hashed, roles)

    async def change_user(
        self, caller: Caller, username: str, roles: list[str] | None, *, disable: bool
    ) -> bool:
        """Change a person's roles or disable them, and end their tokens. Raises as `add_user`."""
        await self._may_grant(caller, roles or [])
        what = "disabled" if disable else " ".join(roles or [])
        await self._events.tenant_changed(
            "tenant.changed", f"user:{username}", caller.principal, "", what
        )
        found = await self._store.change_user(caller.tenant, username, roles, disable=disable)
        if found:
            await self._tokens.revoke_all_of(caller.tenant, f"user:{username}")
        return found

    async def _not_ones_own(self, caller: Caller, role: str) -> None:
        name = caller.principal.removeprefix("user:")
        if name == caller.principal:
            return
        user = await self._store.user(name)
        if user is not None and role in user.roles:
            raise InvalidInputError.field("path:role", "nobody changes a role that they have")

    async def _may_grant(self, caller: Caller, roles: list[str]) -> None:
        known = {row["role"]: row["scopes"] for row in await self._store.roles(caller.tenant)}
        for index, role in enumerate(roles):
            if role not in known:
                raise InvalidInputError.field(f"/roles/{index}", "no such role")
            for scope in known[role]:
                if not caller.may(scope):
                    raise InsufficientScopeError(scope)


def _rules(values: Mapping[str, Any]) -> str:
    """Give what of a tenant matters to an auditor; the contact is a person's address."""
    return orjson.dumps({name: values[name] for name in ("name", "guard", "limits")}).decode()
