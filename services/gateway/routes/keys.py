"""`/v1/auth/keys`: make, list and revoke API keys of the caller's tenant."""

import base64
import binascii
import time
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from libs.common.catalog import SERVICES
from libs.common.context import Caller, current
from libs.common.errors import InvalidInputError, NotFoundError, UnauthenticatedError
from services.gateway.domain.ports import Credential, KeyAdministration
from services.gateway.errors import InsufficientScopeError
from services.gateway.schemas import (
    KeyLimits,
    KeyPage,
    KeyRequest,
    KeyView,
    NewKeyView,
    RotationRequest,
)

router = APIRouter(tags=["identity"])

_KNOWN_SCOPES = frozenset(
    route.scope for entry in SERVICES.values() for route in entry.routes if route.scope
) | {"metrics:read"}


def caller_of() -> Caller:
    """Give the authenticated caller of the running request."""
    caller = current().caller
    if caller is None:
        raise UnauthenticatedError("This route needs a credential.")
    return caller


def check_scopes(scopes: list[str], caller: Caller) -> None:
    """Refuse scopes that do not exist, or that the caller does not hold itself.

    Raises:
        InvalidInputError, InsufficientScopeError.
    """
    resources = {scope.partition(":")[0] for scope in _KNOWN_SCOPES}
    for index, scope in enumerate(scopes):
        resource, _, action = scope.partition(":")
        is_known = scope == "*" or (
            resource in resources
            if action == "*" or resource == "predict"
            else scope in _KNOWN_SCOPES
        )
        if not is_known:
            raise InvalidInputError.field(f"/scopes/{index}", "no route knows this scope")
        if not caller.may(scope):
            raise InsufficientScopeError(scope)


@router.post("/v1/auth/keys", status_code=201, response_model=NewKeyView)
async def make_key(body: KeyRequest, request: Request, response: Response) -> dict[str, Any]:
    """Make a key with at most the caller's own scopes; its text is in this answer only."""
    caller = caller_of()
    check_scopes(body.scopes, caller)
    if (body.exempt_ip or body.exempt_routes) and "*" not in caller.scopes:
        raise InsufficientScopeError("*")
    keyring: KeyAdministration = request.state.keyring
    expires = (
        datetime.fromtimestamp(time.time() + body.expires_in_s, UTC) if body.expires_in_s else None
    )
    text, row = await keyring.make(
        tenant=caller.tenant,
        name=body.name,
        scopes=frozenset(body.scopes),
        created_by=caller.principal,
        expires_at=expires,
        template=Credential(
            key_id="",
            caller=caller,
            requests_max=body.limits.requests_max,
            window_s=body.limits.window_s,
            burst=body.limits.burst,
            concurrency_max=body.limits.concurrency_max,
            exempt_ip=body.exempt_ip,
            exempt_routes=body.exempt_routes,
        ),
    )
    response.headers["cache-control"] = "no-store"
    return {**_shown(row), "key": text}


@router.get("/v1/auth/keys", response_model=KeyPage)
async def list_keys(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """List the keys of the caller's tenant, newest first."""
    keyring: KeyAdministration = request.state.keyring
    before = _decoded(cursor) if cursor else None
    rows = await keyring.list(caller_of().tenant, limit + 1, before)
    page = rows[:limit]
    more = len(rows) > limit
    return {
        "items": [_shown(row) for row in page],
        "next": _encoded(page[-1]) if more else None,
    }


@router.post("/v1/auth/keys/{key_id}/rotate", status_code=201, response_model=NewKeyView)
async def rotate_key(
    key_id: str, request: Request, response: Response, body: RotationRequest | None = None
) -> dict[str, Any]:
    """Make a successor with the same rights and limits; the old key ends after the overlap."""
    caller = caller_of()
    keyring: KeyAdministration = request.state.keyring
    overlap_s = (body or RotationRequest()).overlap_s
    made = await keyring.rotate(
        caller.tenant, key_id, overlap_s=overlap_s, by=caller.principal, may=caller.may
    )
    if made is None:
        raise NotFoundError("No such key.")
    response.headers["cache-control"] = "no-store"
    return {**_shown(made[1]), "key": made[0]}


@router.delete("/v1/auth/keys/{key_id}", status_code=204)
async def revoke_key(key_id: str, request: Request) -> Response:
    """Revoke a key of the caller's tenant; another tenant's key does not exist here."""
    caller = caller_of()
    keyring: KeyAdministration = request.state.keyring
    if not await keyring.revoke(caller.tenant, key_id, by=caller.principal):
        raise NotFoundError("No such key.")
    return Response(status_code=204)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    limits = KeyLimits(**{name: row[name] for name in KeyLimits.model_fields})
    shown = {name: row[name] for name in KeyView.model_fields if name != "limits"}
    return {**shown, "limits": limits}


def _encoded(row: dict[str, Any]) -> str:
    text = f"{row['created_at'].isoformat()}|{row['key_id']}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> tuple[datetime, str]:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        created_at, _, key_id = text.partition("|")
        moment = datetime.fromisoformat(created_at)
        if moment.tzinfo is None:
            raise ValueError
    except (ValueError, binascii.Error):
        raise InvalidInputError.field("query:cursor", "not a cursor of this list") from None
    return moment, key_id
