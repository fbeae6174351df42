"""`/v1/admin`: tenants, roles, people, erasures.

A tenant's administrator sees and changes its own tenant; the platform's tenant sees all of them,
makes new ones and sets quotas. Another tenant's name answers 404, as if it did not exist. Changes
name the generation they were made from; a stale one is 409.
"""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from libs.common.context import Caller
from libs.common.errors import ConflictError, InvalidInputError, NotFoundError
from services.gateway.domain.ports import Administration
from services.gateway.errors import InsufficientScopeError
from services.gateway.routes.keys import caller_of, check_scopes
from services.gateway.schemas import (
    ErasureRequest,
    RoleRequest,
    TenantChange,
    TenantRequest,
    UserChange,
    UserRequest,
)

router = APIRouter(tags=["administration"])

_NO_SUCH_TENANT = "No such tenant."
_STALE = "This was changed in the meantime; read it again."


def _desk(request: Request) -> Administration:
    desk: Administration = request.state.administration
    return desk


def _is_platform(request: Request, caller: Caller) -> bool:
    platform_tenant: str = request.state.platform.settings.platform_tenant
    return caller.tenant == platform_tenant


def _own_or_platform(request: Request, tenant: str) -> Caller:
    caller = caller_of()
    if caller.tenant != tenant and not _is_platform(request, caller):
        raise NotFoundError(_NO_SUCH_TENANT)
    return caller


@router.post("/v1/admin/tenants", status_code=201)
async def make_tenant(body: TenantRequest, request: Request) -> dict[str, Any]:
    """Make a tenant; for the platform's own administrators."""
    caller = caller_of()
    if not _is_platform(request, caller):
        raise InsufficientScopeError("tenants:admin")
    made = await _desk(request).add_tenant(body.tenant, body.name, by=caller.principal)
    if made is None:
        raise ConflictError("A tenant of this name exists.")
    return made


@router.get("/v1/admin/tenants")
async def list_tenants(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str, Query(max_length=63)] = "",
) -> dict[str, Any]:
    """List the tenants that the caller administers."""
    caller = caller_of()
    if not _is_platform(request, caller):
        own = await _desk(request).tenant(caller.tenant)
        return {"items": [own] if own else [], "next": None}
    rows = await _desk(request).tenants(limit + 1, cursor)
    page = rows[:limit]
    return {"items": page, "next": page[-1]["tenant"] if len(rows) > limit else None}


@router.get("/v1/admin/tenants/{tenant}")
async def read_tenant(tenant: str, request: Request) -> dict[str, Any]:
    """Give one tenant."""
    _own_or_platform(request, tenant)
    found = await _desk(request).tenant(tenant)
    if found is None:
        raise NotFoundError(_NO_SUCH_TENANT)
    return found


@router.put("/v1/admin/tenants/{tenant}")
async def change_tenant(tenant: str, body: TenantChange, request: Request) -> dict[str, Any]:
    """Replace what may change; limits are for the platform's administrators."""
    caller = _own_or_platform(request, tenant)
    desk = _desk(request)
    found = await desk.tenant(tenant)
    if found is None:
        raise NotFoundError(_NO_SUCH_TENANT)
    values = body.model_dump(exclude={"generation"})
    values["guard"] = body.guard.model_dump(exclude_none=True)
    values["limits"] = body.limits.model_dump(exclude_none=True)
    if values["limits"] != found["limits"] and not _is_platform(request, caller):
        raise InvalidInputError.field("/limits", "set by the platform's administrators")
    changed = await desk.change_tenant(tenant, body.generation, values, by=caller.principal)
    if changed is None:
        raise ConflictError(_STALE, generation=found["generation"])
    return changed


@router.get("/v1/admin/roles")
async def list_roles(request: Request) -> dict[str, Any]:
    """List the roles of the caller's tenant."""
    return {"items": await _desk(request).roles(caller_of().tenant), "next": None}


@router.put("/v1/admin/roles/{role}")
async def put_role(role: str, body: RoleRequest, request: Request) -> dict[str, Any]:
    """Make (generation 0) or replace a role, with at most the caller's own scopes."""
    caller = caller_of()
    check_scopes(body.scopes, caller)
    changed = await _desk(request).put_role(caller, role, body.scopes, body.generation)
    if changed is None:
        raise ConflictError(_STALE)
    return changed


@router.delete("/v1/admin/roles/{role}", status_code=204)
async def delete_role(role: str, request: Request) -> Response:
    """Delete a role; people who have it lose its scopes."""
    if not await _desk(request).delete_role(caller_of(), role):
        raise NotFoundError("No such role.")
    return Response(status_code=204)


@router.get("/v1/admin/users")
async def list_users(request: Request) -> dict[str, Any]:
    """List the people of the caller's tenant."""
    return {"items": await _desk(request).users(caller_of().tenant), "next": None}


@router.post("/v1/admin/users", status_code=201)
async def make_user(body: UserRequest, request: Request) -> dict[str, Any]:
    """Make a person with a password; roles grant at most what the caller holds."""
    caller = caller_of()
    if not await _desk(request).add_user(
        caller, body.username, body.password.get_secret_value(), body.roles
    ):
        raise ConflictError("This name is taken.")
    return {"username": body.username, "roles": body.roles}


@router.put("/v1/admin/users/{username}")
async def change_user(username: str, body: UserChange, request: Request) -> dict[str, Any]:
    """Give a person other roles or disable them; their tokens end. Nobody edits themselves."""
    caller = caller_of()
    if caller.principal == f"user:{username}":
        raise InvalidInputError.field("path:username", "nobody changes their own roles")
    if not await _desk(request).change_user(caller, username, body.roles, disable=body.disabled):
        raise NotFoundError("No such person.")
    return {"username": username, "roles": body.roles, "disabled": body.disabled}


@router.post("/v1/admin/erasures", status_code=202)
async def erase(body: ErasureRequest, request: Request, response: Response) -> dict[str, Any]:
    """Erase a data subject of the caller's tenant everywhere; the job's state can be read."""
    caller = caller_of()
    subject = body.data_subject.model_dump()
    job, _ = await request.state.erasures.make(caller.tenant, subject, caller.principal)
    response.headers["location"] = f"/v1/admin/erasures/{job['job_id']}"
    shown: dict[str, Any] = job
    return shown


@router.get("/v1/admin/erasures")
async def list_erasures(
    request: Request, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> dict[str, Any]:
    """List the newest erasures of the caller's tenant."""
    return {"items": await request.state.erasures.list(caller_of().tenant, limit), "next": None}


@router.get("/v1/admin/erasures/{job_id}")
async def read_erasure(job_id: uuid.UUID, request: Request) -> dict[str, Any]:
    """Give the state of an erasure."""
    found: dict[str, Any] | None = await request.state.erasures.read(caller_of().tenant, job_id)
    if found is None:
        raise NotFoundError("No such erasure.")
    return found
