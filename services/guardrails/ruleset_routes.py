"""Routes of uploaded rule sets; put into service, and tried, as plug-in versions are."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from libs.common.context import current
from libs.common.errors import InvalidInputError
from libs.common.events.envelope import event_for_request
from services.guardrails.adapters.rule_sets import RuleSetVersion
from services.guardrails.domain.plugins import NAME_PATTERN, VERSION_PATTERN
from services.guardrails.domain.rulesets import RuleSet, RuleSetError
from services.guardrails.plugin_service import PluginService

router = APIRouter(prefix="/v1/guardrails/rulesets", tags=["plugins"])


@router.post("", status_code=201, summary="Upload a version of a rule set")
async def upload(body: RuleSet, request: Request) -> dict[str, Any]:
    """Check every rule with its own examples and store the version; nothing serves it yet."""
    service: PluginService = request.state.plugins
    caller = current().caller
    version = RuleSetVersion(body, caller.tenant if caller else "")
    by = caller.principal if caller else ""
    try:
        # Compiling and trying some hundred expressions takes a while: off the event loop.
        await request.state.offload(service.registry.compiled, version)
    except RuleSetError as error:
        raise InvalidInputError.field(error.pointer, str(error)) from None
    if await service.upload(version, by):
        await request.state.platform.events.emit(
            event_for_request(
                "validator.changed",
                "guardrails",
                "required",
                {
                    "what": "uploaded",
                    "validator": version.name,
                    "version": f"{version.version}+{version.digest[:8]}",
                    "by": by,
                },
            )
        )
    return _shape(version)


@router.get("", summary="List uploaded rule sets")
async def list_rule_sets(request: Request) -> dict[str, Any]:
    """List the caller's versions."""
    service: PluginService = request.state.plugins
    await service.learn()
    caller = current().caller
    tenant = caller.tenant if caller else ""
    own = [item for item in service.registry.rule_sets() if item.tenant == tenant]
    return {"items": [_shape(item) for item in own], "next": None}


@router.get("/{name}/versions/{version}", summary="Read a version of a rule set")
async def read_rule_set(
    name: Annotated[str, Path(pattern=NAME_PATTERN)],
    version: Annotated[str, Path(pattern=VERSION_PATTERN)],
    request: Request,
) -> dict[str, Any]:
    """Read one version with its rules."""
    service: PluginService = request.state.plugins
    caller = current().caller
    found = await service.rule_set(caller.tenant if caller else "", name, version)
    return {**_shape(found), "body": found.rule_set.model_dump(mode="json")}


def _shape(version: RuleSetVersion) -> dict[str, Any]:
    return {
        "name": version.name,
        "version": version.version,
        "sha256": version.digest,
        "labels": list(version.labels),
        "rules": len(version.rule_set.rules),
    }
