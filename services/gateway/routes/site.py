"""Status page, merged API description and its two readers, from packaged assets (no CDN)."""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from starlette.responses import FileResponse

from libs.common.context import Caller
from libs.common.errors import NotFoundError
from libs.common.platform import VERSION
from services.gateway.domain.api_description import only_for
from services.gateway.domain.ports import ApiDescriber

router = APIRouter(tags=["documentation"])

# Both readers inject styles; Redoc also runs its search in a worker made from a blob.
_DOCS_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
}
_SWAGGER_INIT = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#reader", deepLinking: true, persistAuthorization: false,
  docExpansion: "list", tryItOutEnabled: true, validatorUrl: null,
});
"""


def _page(title: str, head: str, body: str) -> Response:
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{head}</head><body>{body}</body></html>"
    )
    headers = {"content-security-policy": _DOCS_POLICY, "cache-control": "no-cache"}
    return Response(html, media_type="text/html; charset=utf-8", headers=headers)


@cache
def asset_folder() -> Path:
    """Give the folder of the packaged readers; found without importing the package."""
    spec = find_spec("fastapi_offline")
    if spec is None or not spec.submodule_search_locations:
        raise NotFoundError(
            "The documentation readers are not installed.", hint="pip install gatehouse[gateway]"
        )
    return Path(spec.submodule_search_locations[0]) / "static"


@router.get("/", summary="Service status and links to the documentation")
async def root(request: Request) -> dict[str, Any]:
    """Say what this is, whether it is ready, and where to read on."""
    platform = request.state.platform
    return {
        "service": "gatehouse",
        "version": VERSION,
        "status": "ready" if platform.health.is_ready else "starting",
        "links": {
            "docs": "/docs",
            "reference": "/redoc",
            "openapi": "/openapi.json",
            "health": "/health",
            "console": "/console",
        },
    }


@router.get("/openapi.json", include_in_schema=False)
async def description(
    request: Request, scopes: Annotated[str | None, Query(max_length=2_000)] = None
) -> Response:
    """Give the merged description; with `scopes` only what a caller with those may call."""
    monitor: ApiDescriber = request.state.monitor
    body = monitor.description(request.app.openapi())
    if scopes is not None:
        held = Caller("", "", frozenset(scopes.replace(",", " ").split()))
        body = orjson.dumps(only_for(orjson.loads(body), held))
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"cache-control": "no-cache", "etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Show Swagger UI."""
    return _page(
        "Gatehouse API",
        '<link rel="stylesheet" href="/docs/assets/swagger-ui.css">',
        '<div id="reader"></div><script src="/docs/assets/swagger-ui-bundle.js"></script>'
        '<script src="/docs/assets/init.js"></script>',
    )


@router.get("/redoc", include_in_schema=False)
async def redoc() -> Response:
    """Show Redoc."""
    return _page(
        "Gatehouse API reference",
        "",
        '<redoc spec-url="/openapi.json"></redoc>'
        '<script src="/docs/assets/redoc.standalone.js"></script>',
    )


@router.get("/docs/assets/{name}", include_in_schema=False)
async def docs_asset(name: str) -> Response:
    """Give one file of the readers."""
    headers = {"cache-control": "public, max-age=86400"}
    if name == "init.js":
        return Response(_SWAGGER_INIT, media_type="text/javascript", headers=headers)
    if name not in _ASSETS:
        raise NotFoundError("No such file.")
    return FileResponse(asset_folder() / name, media_type=_ASSETS[name], headers=headers)
