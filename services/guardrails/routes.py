"""Native routes: check one text or many, health, validators."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from libs.common.context import current
from libs.common.errors import ServiceError
from libs.common.ids import uuid7
from libs.common.plain import PlainRoute, respond
from libs.common.problems import problem_body
from services.guardrails.adapters.v2_model import V2Model
from services.guardrails.checker import Checker
from services.guardrails.plain import described, parse
from services.guardrails.schemas import (
    BatchRequest,
    BatchResponse,
    ValidateRequest,
    ValidateResponse,
    decision_out,
)

router = APIRouter(prefix="/v1/guardrails", tags=["guardrails"])
plain = APIRouter(prefix="/v1/guardrails", tags=["guardrails"], route_class=PlainRoute)
NDJSON = "application/x-ndjson"
# Texts of one part of a batch with progress.
PART_TEXTS = 10


@plain.post("/validate", summary="Check one text", **described(ValidateRequest, ValidateResponse))
async def validate(request: Request) -> Response:
    """Check one text under a policy."""
    body = await parse(request, ValidateRequest)
    checker: Checker = request.state.checker
    checked = await checker.check(
        [body.text],
        pointers=["/text"],
        policy=body.policy,
        validators=body.validators,
        ttl_s=body.cache_ttl,
    )
    outcome = checked.outcome
    return respond(decision_out(outcome, outcome.decisions[0], checked.ids[0], checked.latency_ms))


@plain.post(
    "/validate/batch", summary="Check up to 100 texts", **described(BatchRequest, BatchResponse)
)
async def validate_batch(request: Request) -> Response:
    """Check up to 100 texts; equal ones are computed once, the order is kept.

    With `Accept: application/x-ndjson` each result is a line as soon as it is there.
    """
    body = await parse(request, BatchRequest)
    checker: Checker = request.state.checker
    batch_id = uuid7()
    pointers = [f"/texts/{index}" for index in range(len(body.texts))]
    if NDJSON in request.headers.get("accept", ""):
        checker.refuse_long(body.texts, pointers)
        return StreamingResponse(progress(checker, body, batch_id), media_type=NDJSON)
    checked = await checker.check(
        body.texts,
        pointers=pointers,
        policy=body.policy,
        validators=body.validators,
        ttl_s=body.cache_ttl,
        batch_id=batch_id,
    )
    outcome = checked.outcome
    results = [
        decision_out(outcome, decision, event_id, checked.latency_ms)
        for decision, event_id in zip(outcome.decisions, checked.ids, strict=True)
    ]
    return respond({"batch_id": batch_id, "results": results})


async def progress(checker: Checker, body: BatchRequest, batch_id: str) -> AsyncIterator[bytes]:
    """Give the lines of a batch: `result` per text in order, `progress` per part, then `end`.

    A part that fails ends the lines with `error`, a problem document; what came before counts.
    """
    total = len(body.texts)
    for begin in range(0, total, PART_TEXTS):
        texts = body.texts[begin : begin + PART_TEXTS]
        try:
            checked = await checker.check(
                texts,
                pointers=[f"/texts/{begin + index}" for index in range(len(texts))],
                policy=body.policy,
                validators=body.validators,
                ttl_s=body.cache_ttl,
                batch_id=batch_id,
                first_index=begin,
            )
        except ServiceError as error:
            problem = problem_body(error, "/v1/guardrails/validate/batch")
            yield _line({"type": "error", "problem": problem})
            return
        for index, decision in enumerate(checked.outcome.decisions):
            result = decision_out(checked.outcome, decision, checked.ids[index], checked.latency_ms)
            yield _line({"type": "result", "index": begin + index, **result})
        yield _line({"type": "progress", "done": begin + len(texts), "total": total})
    yield _line({"type": "end", "batch_id": batch_id, "total": total})


def _line(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document) + b"\n"


@router.delete("/cache", summary="Empty the caller's verdict cache")
async def clear_cache(request: Request) -> dict[str, Any]:
    """Raise the tenant's epoch: every verdict stored before counts as absent from now on."""
    checker: Checker = request.state.checker
    caller = current().caller
    epoch = await checker.guard.forget(caller.tenant if caller else "")
    return {"cleared": True, "epoch": epoch}


@router.get("/validators", summary="List the validators")
async def validators(request: Request) -> dict[str, Any]:
    """List what the caller's policies can check with."""
    return {"items": _usable(request), "next": None}


def _usable(request: Request) -> list[dict[str, Any]]:
    """Describe the validators that are everybody's or the caller's own."""
    checker: Checker = request.state.checker
    registry = request.state.plugins.registry
    caller = current().caller
    owners = {None, caller.tenant if caller else ""}
    found = checker.guard.validators.values()
    return [_described(item) for item in found if registry.owner(item.name) in owners]


def _described(validator: Any) -> dict[str, Any]:
    return {
        "name": validator.name,
        "version": validator.version,
        "kind": validator.kind,
        "labels": list(validator.labels),
        "max_span": validator.max_span,
        "lookahead": validator.lookahead,
    }


@router.get("/health", summary="Models, cache, memory, CPU")
async def health(request: Request) -> dict[str, Any]:
    """Report validators, models, cache, memory and CPU of this process against their thresholds."""
    checker: Checker = request.state.checker
    report = await request.state.platform.health.report()
    counts = request.state.metrics.cache_counts
    models: tuple[V2Model, ...] = request.state.models
    ready = await asyncio.gather(*(model.is_ready() for model in models))
    looked_up = counts["hit"] + counts["miss"]
    return {
        **report,
        "validators": _usable(request),
        "models": [
            {
                "name": model.model,
                "version": model.version or None,
                "status": "ready" if is_ready else "unavailable",
            }
            for model, is_ready in zip(models, ready, strict=True)
        ],
        "cache": {**counts, "hit_ratio": counts["hit"] / looked_up if looked_up else None},
        "checks_active": checker.active,
        **request.state.usage.report(),
    }
