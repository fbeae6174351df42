"""Decision policies of the caller's tenant: read, set, give back, list what was."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from libs.common.context import current
from services.inference.control.policies import PolicyControl
from services.inference.domain.model import TabularModel
from services.inference.domain.policy import DecisionPolicy
from services.inference.errors import UnknownModelError
from services.inference.schemas_policies import PolicyRequest

router = APIRouter(tags=["decision policies"])
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Expected = Annotated[int | None, Query(alias="version", ge=0)]


def _model(request: Request, name: str) -> TabularModel:
    """Give a model that decides; 404 for one that is unknown or only scores."""
    model = request.state.scoring.plane.resolve(name)
    if model.bands is None:
        raise UnknownModelError("This model makes no decisions.")
    found: TabularModel = model
    return found


def _entry(policy: DecisionPolicy) -> dict[str, Any]:
    changed_at = policy.changed_at.isoformat(timespec="milliseconds")
    return {
        "model": policy.model,
        "version": policy.version,
        **policy.to_json(),
        "reason": policy.reason or None,
        "changed_by": policy.changed_by,
        "changed_at": changed_at.replace("+00:00", "Z"),
    }


@router.get("/decision-policies/{name}", summary="What decides for the caller's tenant")
async def read(name: Name, request: Request) -> dict[str, Any]:
    """Give the thresholds in force, and the tenant's own policy if it has one."""
    policies: PolicyControl = request.state.policies
    model, caller = _model(request, name), current().caller
    deciding = policies.deciding(model)
    own = policies.present(caller.tenant if caller else "", name)
    bands = deciding.bands
    return {
        "model": name,
        "in_force": {
            "policy": deciding.name,
            "thresholds": {
                "review": bands.review,
                "challenge": bands.challenge,
                "decline": bands.decline,
            },
            "review_amount": deciding.review_amount,
        },
        "version": own.version if own else 0,
        "tenant_policy": _entry(own) if own else None,
    }


@router.put("/decision-policies/{name}", summary="Set the tenant's thresholds")
async def put(name: Name, body: PolicyRequest, request: Request) -> dict[str, Any]:
    """Add a version; this replica decides by it at once, the others within seconds."""
    policies: PolicyControl = request.state.policies
    _model(request, name)
    added = await policies.change(
        name,
        body.thresholds.bands(),
        body.review_amount,
        reason=body.reason,
        expected=body.version,
    )
    return _entry(added)


@router.delete("/decision-policies/{name}", summary="Give the decision back to the model's own")
async def give_back(name: Name, request: Request, version: Expected = None) -> dict[str, Any]:
    """Add a version without thresholds; what was stays in the history."""
    policies: PolicyControl = request.state.policies
    _model(request, name)
    added = await policies.change(name, None, None, reason="given back", expected=version)
    return _entry(added)


@router.get("/decision-policies/{name}/history", summary="All versions, newest first")
async def history(name: Name, request: Request) -> dict[str, Any]:
    """List the versions of the caller's tenant."""
    policies: PolicyControl = request.state.policies
    _model(request, name)
    caller = current().caller
    found = await policies.history(caller.tenant if caller else "", name)
    return {"items": [_entry(item) for item in found], "next": None}
