"""Native routes: check one text or many, health, validators."""

import os
import resource
from typing import Any

from fastapi import APIRouter, Request

from libs.common.ids import uuid7
from services.guardrails.checker import Checker
from services.guardrails.schemas import (
    BatchRequest,
    BatchResponse,
    ValidateRequest,
    ValidateResponse,
    decision_out,
)

router = APIRouter(prefix="/v1/guardrails", tags=["guardrails"])


@router.post("/validate", summary="Check one text")
async def validate(body: ValidateRequest, request: Request) -> ValidateResponse:
    """Check one text under a policy."""
    checker: Checker = request.state.checker
    checked = await checker.check(
        [body.text],
        pointers=["/text"],
        policy=body.policy,
        validators=body.validators,
        ttl_s=body.cache_ttl,
    )
    outcome = checked.outcome
    return decision_out(outcome, outcome.decisions[0], checked.ids[0], checked.latency_ms)


@router.post("/validate/batch", summary="Check up to 100 texts")
async def validate_batch(body: BatchRequest, request: Request) -> BatchResponse:
    """Check up to 100 texts; equal ones are computed once, the order is kept."""
    checker: Checker = request.state.checker
    batch_id = uuid7()
    checked = await checker.check(
        body.texts,
        pointers=[f"/texts/{index}" for index in range(len(body.texts))],
        policy=body.policy,
        validators=body.validators,
        ttl_s=body.cache_ttl,
        batch_id=batch_id,
    )
    outcome = checked.outcome
    return BatchResponse(
        batch_id=batch_id,
        results=[
            decision_out(outcome, decision, event_id, checked.latency_ms)
            for decision, event_id in zip(outcome.decisions, checked.ids, strict=True)
        ],
    )


@router.get("/validators", summary="List the validators")
async def validators(request: Request) -> dict[str, Any]:
    """List what this process can check with."""
    checker: Checker = request.state.checker
    return {"items": [_described(item) for item in checker.guard.validators.values()], "next": None}


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
    """Report validators, cache, memory and CPU of this process."""
    checker: Checker = request.state.checker
    report = await request.state.platform.health.report()
    counts = request.state.metrics.cache_counts
    looked_up = counts["hit"] + counts["miss"]
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        **report,
        "validators": [_described(item) for item in checker.guard.validators.values()],
        "cache": {**counts, "hit_ratio": counts["hit"] / looked_up if looked_up else None},
        "checks_active": checker.active,
        "memory": {"resident_max_bytes": usage.ru_maxrss * 1024},
        "cpu": {
            "seconds": round(usage.ru_utime + usage.ru_stime, 3),
            "load_1m": round(os.getloadavg()[0], 2),
        },
    }
