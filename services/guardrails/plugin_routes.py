"""Routes of plug-ins: what is there, what serves, and the swap to another version."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from libs.common.context import current
from libs.common.events.envelope import event_for_request
from services.guardrails.domain.plugins import NAME_PATTERN, VERSION_PATTERN
from services.guardrails.plugin_service import PluginService

router = APIRouter(prefix="/v1/guardrails/plugins", tags=["plugins"])


class ActivatePlugin(BaseModel):
    """The version that shall serve."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: str = Field(pattern=VERSION_PATTERN)


@router.get("", summary="List plug-in versions")
async def list_plugins(request: Request) -> dict[str, Any]:
    """List the versions that are installed and which of them serves."""
    service: PluginService = request.state.plugins
    serving = service.registry.serving()
    items = []
    for item in service.registry.available():
        own = serving.get(item.manifest.name)
        is_serving = own is not None and own.version.startswith(f"{item.manifest.version}+")
        is_disabled = is_serving and own is not None and own.process.is_disabled
        items.append(
            {
                "name": item.manifest.name,
                "version": item.manifest.version,
                "sha256": item.digest,
                "labels": list(item.manifest.labels),
                "max_span": item.manifest.max_span,
                "status": "disabled" if is_disabled else "serving" if is_serving else "available",
            }
        )
    return {"items": items, "next": None}


@router.post("/{name}/activate", summary="Put a plug-in version into service")
async def activate(
    name: Annotated[str, Path(pattern=NAME_PATTERN)], body: ActivatePlugin, request: Request
) -> dict[str, Any]:
    """Start a version, run its examples, swap it in; running requests finish on the old one."""
    service: PluginService = request.state.plugins
    before = service.registry.serving().get(name)
    validator = await service.activate(name, body.version)
    caller = current().caller
    await request.state.platform.events.emit(
        event_for_request(
            "validator.changed",
            "guardrails",
            "required",
            {
                "what": "activated",
                "validator": name,
                "version": validator.version,
                "from": before.version if before else None,
                "to": validator.version,
                "by": caller.principal if caller else "",
            },
        )
    )
    return {
        "name": name,
        "version": validator.version,
        "previous": before.version if before else None,
    }
