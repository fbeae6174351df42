"""Lifecycle and rollouts of models: parse, one call, shape the answer (scope models:admin).

Every change may carry the `generation` that it was decided on; if the record has moved on, the
answer is 409 and nothing happened.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response

from services.inference.control.live import Live
from services.inference.domain.control import ModelRecord, RolloutRecord
from services.inference.schemas_control import (
    AliasRequest,
    Expected,
    RolloutRequest,
    score_edges,
)
from services.inference.wiring_control import Control

router = APIRouter(tags=["lifecycle"])
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Number = Annotated[int, Path(ge=1, le=999_999_999)]
Alias = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
RolloutId = Annotated[str, Path(pattern=r"^[0-9a-f-]{36}$")]


def _control(request: Request) -> Control:
    control: Control = request.state.control
    return control


def _record(record: ModelRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "generation": record.generation,
        "aliases": {
            **{alias: str(version) for alias, version in record.aliases.items()},
            **({"stable": str(record.stable)} if record.stable else {}),
        },
        "previous": str(record.previous) if record.previous else None,
        "standby": [str(version) for version in record.standby],
        "withdrawn": record.withdrawn,
    }


def _expected(body: Expected | None) -> int | None:
    return body.generation if body else None


@router.post("/models/{name}/versions/{version}/load", summary="Load a version", status_code=202)
async def load(
    name: Name, version: Number, request: Request, response: Response, body: Expected | None = None
) -> dict[str, Any]:
    """Begin to load a version; it stands by. GET Location shows state, bytes and seconds."""
    record = await _control(request).models.load(name, version, _expected(body))
    response.headers["Location"] = f"/models/{name}"
    return _record(record)


@router.post(
    "/models/{name}/versions/{version}/unload", summary="Unload a version", status_code=202
)
async def unload(
    name: Name, version: Number, request: Request, response: Response, body: Expected | None = None
) -> dict[str, Any]:
    """Begin to unload a version; calls that hold it finish."""
    record = await _control(request).models.unload(name, version, _expected(body))
    response.headers["Location"] = f"/models/{name}"
    return _record(record)


@router.post("/models/{name}/versions/{version}/promote", summary="Let a version serve")
async def promote(
    name: Name, version: Number, request: Request, body: Expected | None = None
) -> dict[str, Any]:
    """Load, prove, switch, drain; the old version serves until the switch."""
    return _record(await _control(request).models.promote(name, version, _expected(body)))


@router.post("/models/{name}/rollback", summary="Let the version before serve again")
async def rollback(name: Name, request: Request, body: Expected | None = None) -> dict[str, Any]:
    """Promote what served before."""
    return _record(await _control(request).models.rollback(name, _expected(body)))


@router.post("/models/{name}/reload", summary="Look for new versions, retry failed ones")
async def reload(name: Name, request: Request) -> dict[str, Any]:
    """Scan the repository again."""
    models = _control(request).models
    await models.reload(name)
    return _record(models.records.get(name, ModelRecord(name)))


@router.put("/models/{name}/aliases/{alias}", summary="Point an alias at a version")
async def alias(name: Name, alias: Alias, body: AliasRequest, request: Request) -> dict[str, Any]:
    """Point an alias at a version; `stable` is what answers."""
    models = _control(request).models
    return _record(await models.alias(name, alias, int(body.version), body.generation))


@router.post("/models/{name}/rollouts", summary="Start a rollout", status_code=201)
async def start_rollout(
    name: Name, body: RolloutRequest, request: Request, response: Response
) -> dict[str, Any]:
    """Load the candidate, then shadow it, send it a growing share, or split traffic."""
    control = _control(request)
    repository = control.models.repository
    serving = repository.serving_version(name)
    manifest = repository.manifest(name, serving) if serving else None
    edges = score_edges(manifest.reference_statistics) if manifest else None
    plan = body.plan(edges)
    record = await control.rollouts.start(name, int(body.candidate), plan, stable=body.stable())
    response.headers["Location"] = f"/models/{name}/rollouts"
    return rollout_entry(record, control.rollouts.live(name))


@router.get("/models/{name}/rollouts", summary="Rollouts of a model, newest first")
async def list_rollouts(name: Name, request: Request) -> dict[str, Any]:
    """List rollouts with steps, counts and evidence."""
    control = _control(request)
    control.models.repository.versions(name)
    live = control.rollouts.live(name)
    records = await control.rollouts.history(name)
    return {"items": [rollout_entry(item, live) for item in records], "next": None}


@router.post(
    "/models/{name}/rollouts/{rollout_id}/{action}",
    summary="Take the next step, pause, resume or take back",
)
async def act_on_rollout(
    name: Name,
    rollout_id: RolloutId,
    action: Literal["promote", "pause", "resume", "rollback"],
    request: Request,
    body: Expected | None = None,
) -> dict[str, Any]:
    """Act on a live rollout."""
    rollouts = _control(request).rollouts
    record = await rollouts.act(name, rollout_id, action, _expected(body))
    return rollout_entry(record, rollouts.live(name))


def rollout_entry(record: RolloutRecord, live: Live | None) -> dict[str, Any]:
    """Describe a rollout; a live one with its present counts and evidence."""
    counts, evidence = record.counts, record.evidence
    if live is not None and live.id == record.id:
        counts = live.total.wire()
        if live.decision is not None:
            evidence = {str(k): round(v, 3) for k, v in live.decision.evidence.items()}
    return {
        "id": record.id,
        "model": record.model,
        "stable": str(record.stable),
        "candidate": str(record.candidate),
        "mode": record.plan.mode.value,
        "state": record.state,
        "stage": record.stage,
        "weight": record.plan.stages[record.stage].weight_bp / 10_000 if record.is_live else 0,
        "stages": [
            {
                "weight": stage.weight_bp / 10_000,
                "min_requests": stage.min_requests,
                "min_seconds": stage.min_seconds,
            }
            for stage in record.plan.stages
        ],
        "auto_promote": record.plan.auto_promote,
        "generation": record.generation,
        "created_by": record.created_by,
        "created_at": _time(record.created_at),
        "ended_at": _time(record.ended_at) if record.ended_at else None,
        "signal": record.signal or None,
        "reason": record.reason or None,
        "counts": counts,
        "evidence": evidence,
    }


def _time(value: Any) -> str:
    return str(value.isoformat(timespec="milliseconds").replace("+00:00", "Z"))
