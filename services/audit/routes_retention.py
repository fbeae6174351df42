"""HTTP of retention: policies, legal holds, and the job by hand."""

from fastapi import APIRouter, Request, Response

from services.audit.errors import NoSuchHoldError
from services.audit.routes import answer, caller_of, state_of
from services.audit.schemas import EventClassName, HoldRequest, PolicyRequest

router = APIRouter(tags=["audit"])


@router.get("/v1/audit/retention", summary="Policies, legal holds, what was removed")
async def describe(request: Request) -> Response:
    """Give what concerns the caller's tenant."""
    state = state_of(request)
    found = await state.policies.describe(caller_of().tenant)
    return answer({**found, "min_index": (await state.reader.state()).min_index})


@router.put("/v1/audit/retention/policies/{event_class}", summary="Keep a class so many days")
async def set_policy(
    request: Request, event_class: EventClassName, body: PolicyRequest
) -> Response:
    """Set the policy of the caller's tenant, or of all."""
    tenant = "" if body.applies_to == "all" else caller_of().tenant
    changed = await state_of(request).policies.set(caller_of(), tenant, event_class, body.keep_days)
    return answer(changed)


@router.post("/v1/audit/legal-holds", summary="Place a legal hold")
async def place_hold(request: Request, body: HoldRequest) -> Response:
    """Keep what the hold names, whatever the policies say."""
    tenant = "" if body.applies_to == "all" else caller_of().tenant
    placed = await state_of(request).policies.hold(
        caller_of(), tenant, body.event_class, body.since, body.until, body.reason
    )
    return answer(placed, 201)


@router.delete("/v1/audit/legal-holds/{hold_id}", summary="Release a legal hold")
async def release_hold(request: Request, hold_id: str) -> Response:
    """Release a hold that is in force."""
    if not await state_of(request).policies.release(caller_of(), hold_id):
        raise NoSuchHoldError("No such hold is in force.")
    return Response(status_code=204)


@router.post("/v1/audit/retention:run", summary="Apply the policies now")
async def run(request: Request) -> Response:
    """Remove what is due, as the hourly job does."""
    return answer(await state_of(request).retention.apply())
