"""Routes of plug-ins: what is there, what serves, and the swap to another version."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from libs.common.context import current
from libs.common.errors import InvalidInputError, NotFoundError
from libs.common.events.envelope import event_for_request
from libs.common.rollouts import BUCKETS, Limits, Mode, Plan, PlanError, Stage
from services.guardrails.domain.plugins import NAME_PATTERN, VERSION_PATTERN
from services.guardrails.domain.trial import Trial
from services.guardrails.plugin_service import PluginService

router = APIRouter(prefix="/v1/guardrails/plugins", tags=["plugins"])
PluginName = Annotated[str, Path(pattern=NAME_PATTERN)]


class ActivatePlugin(BaseModel):
    """The version that shall serve."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: str = Field(pattern=VERSION_PATTERN)


@router.get("", summary="List plug-in versions")
async def list_plugins(request: Request) -> dict[str, Any]:
    """List the versions that the caller could use and which of them serves."""
    service: PluginService = request.state.plugins
    serving = service.registry.serving()
    items = []
    for item in service.registry.available():
        if item.tenant not in {None, _tenant()}:
            continue
        own = serving.get(item.name)
        is_serving = own is not None and own.version.startswith(f"{item.version}+")
        is_disabled = is_serving and own is not None and own.is_disabled
        items.append(
            {
                "name": item.name,
                "version": item.version,
                "kind": "plugin" if item.tenant is None else "rules",
                "sha256": item.digest,
                "labels": list(item.labels),
                "status": "disabled" if is_disabled else "serving" if is_serving else "available",
            }
        )
    return {"items": items, "next": None}


@router.post("/{name}/activate", summary="Put a plug-in version into service")
async def activate(name: PluginName, body: ActivatePlugin, request: Request) -> dict[str, Any]:
    """Start a version, run its examples, swap it in; running requests finish on the old one."""
    service = await _owned(request, name)
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


class StageIn(BaseModel):
    """One step of a trial."""

    model_config = ConfigDict(extra="forbid")

    weight: float = Field(gt=0, le=1, allow_inf_nan=False)
    min_requests: int = Field(default=2_000, ge=0)
    min_seconds: float = Field(default=600, ge=0, allow_inf_nan=False)


class StartTrial(BaseModel):
    """A version to try beside the one that serves."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(pattern=VERSION_PATTERN)
    mode: Mode
    stages: list[StageIn] = Field(min_length=1, max_length=20)
    max_flip_rate: float = Field(default=0.02, gt=0, le=0.5, allow_inf_nan=False)
    auto_promote: bool = False


class EndTrial(BaseModel):
    """How a trial ends."""

    model_config = ConfigDict(extra="forbid", strict=True)

    action: Literal["promote", "rollback"]


@router.post("/{name}/trial", status_code=201, summary="Try a version: shadow, canary or A/B")
async def start_trial(name: PluginName, body: StartTrial, request: Request) -> dict[str, Any]:
    """Start a trial; it is taken back by itself on errors, latency or disagreement."""
    service = await _owned(request, name)
    stages = tuple(
        Stage(round(stage.weight * BUCKETS), stage.min_requests, stage.min_seconds)
        for stage in body.stages
    )
    try:
        plan = Plan(
            body.mode,
            stages,
            Limits(max_flip_rate=body.max_flip_rate),
            auto_promote=body.auto_promote,
        )
    except PlanError as error:
        raise InvalidInputError.field(error.pointer, error.message) from None
    return _trial(await service.try_out(name, body.version, plan))


@router.get("/{name}/trial", summary="Read the trial of a plug-in")
async def read_trial(name: PluginName, request: Request) -> dict[str, Any]:
    """Read counts and evidence of the trial that runs."""
    service = await _owned(request, name)
    trial = service.registry.trials().get(name)
    if trial is None:
        raise NotFoundError("No trial of this plug-in runs.")
    return _trial(trial)


@router.post("/{name}/trial/end", summary="Promote the candidate or take it back")
async def end_trial(name: PluginName, body: EndTrial, request: Request) -> dict[str, Any]:
    """End the trial by hand."""
    service = await _owned(request, name)
    caller = current().caller
    by = caller.principal if caller else ""
    return _trial(await service.finish(name, promote=body.action == "promote", by=by))


async def _owned(request: Request, name: str) -> PluginService:
    """Give the service, once it is sure that the name is not another tenant's."""
    service: PluginService = request.state.plugins
    if name not in service.registry.serving():
        await service.learn()
    service.check_owner(_tenant(), name)
    return service


def _tenant() -> str:
    caller = current().caller
    return caller.tenant if caller else ""


def _trial(trial: Trial) -> dict[str, Any]:
    decision = trial.decision
    return {
        "id": trial.id,
        "validator": trial.name,
        "mode": trial.plan.mode.value,
        "stable": trial.stable.version,
        "candidate": trial.candidate.version,
        "step": trial.stage,
        "weight": trial.plan.stages[trial.stage].weight_bp / BUCKETS,
        "status": trial.ended or "running",
        "counts": trial.counts.wire(),
        "dropped": trial.dropped,
        "evidence": {signal.value: round(value, 3) for signal, value in decision.evidence.items()}
        if decision
        else {},
        "threshold": round(decision.threshold, 3) if decision else None,
    }
