"""`/v1/auth/token`, `/v1/auth/revoke` and the keys that verify our tokens.

Requests are forms and answers JSON, as OAuth 2.0 clients speak (RFC 6749, 7009).
"""

from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from services.gateway.domain.ports import TokenIssuing
from services.gateway.errors import TokenError

router = APIRouter(tags=["identity"])

_NO_STORE = {"cache-control": "no-store", "pragma": "no-cache"}
_FIELDS_MAX = 16


async def _form(request: Request) -> dict[str, str]:
    """Read a form; a repeated field is refused (RFC 6749 section 3.2)."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/x-www-form-urlencoded":
        raise TokenError("invalid_request", "Send a form (application/x-www-form-urlencoded).")
    try:
        fields = parse_qs(
            (await request.body()).decode(), keep_blank_values=True, max_num_fields=_FIELDS_MAX
        )
    except ValueError:
        raise TokenError("invalid_request", "The form cannot be read.") from None
    if any(len(values) > 1 for values in fields.values()):
        raise TokenError("invalid_request", "A field is repeated.")
    return {name: values[0] for name, values in fields.items()}


@router.post("/v1/auth/token", summary="Access and refresh tokens")
async def token(request: Request) -> Response:
    """Issue tokens for client credentials, a person's password or a refresh token."""
    desk: TokenIssuing = request.state.tokens
    form = await _form(request)
    network = request.scope["gatehouse.network"]
    scope = form.get("scope", "")
    grant = form.get("grant_type")
    if grant == "client_credentials":
        made = await desk.client_credentials(
            form.get("client_id", ""), form.get("client_secret", ""), scope, network
        )
    elif grant == "password":
        made = await desk.password(
            form.get("username", ""), form.get("password", ""), scope, network
        )
    elif grant == "refresh_token":
        made = await desk.refresh(form.get("refresh_token", ""), network)
    else:
        raise TokenError("unsupported_grant_type", "This grant type is not offered.")
    return JSONResponse(made, headers=_NO_STORE)


@router.post("/v1/auth/revoke", summary="Revoke a token")
async def revoke(request: Request) -> Response:
    """Revoke a token; one that is not known is fine (RFC 7009)."""
    desk: TokenIssuing = request.state.tokens
    form = await _form(request)
    await desk.revoke(form.get("token", ""), request.scope["gatehouse.network"])
    return Response(status_code=200, headers=_NO_STORE)


@router.get("/.well-known/jwks.json", summary="Keys that sign access tokens")
async def jwks(request: Request) -> Response:
    """Give the public keys, newest first."""
    document: dict[str, Any] = await request.state.token_keys.document()
    return JSONResponse(document, headers={"cache-control": "public, max-age=300"})
