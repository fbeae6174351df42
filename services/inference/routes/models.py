"""GET /models and /models/{name}: what the repository holds and what serves."""

import time
from typing import Any

from fastapi import APIRouter, Request

from libs.common.manifest import Manifest
from services.inference.domain.control import ModelRecord
from services.inference.domain.lifecycle import VersionStatus
from services.inference.domain.model import TabularModel
from services.inference.errors import ModelNotLoadedError
from services.inference.routes.lifecycle import rollout_entry
from services.inference.wiring_control import Control

router = APIRouter(tags=["models"])


@router.get("/models", summary="List models with their metadata")
async def list_models(request: Request) -> dict[str, Any]:
    """List all models; `models` is the same list under the name that the mission's clients read."""
    control: Control = request.state.control
    items = [_entry(control, name) for name in control.models.repository.names()]
    return {"items": items, "next": None, "models": items}


@router.get("/models/{name}", summary="One model")
async def one_model(name: str, request: Request) -> dict[str, Any]:
    """Describe one model, with the metadata of the version that serves."""
    control: Control = request.state.control
    repository = control.models.repository
    entry = _entry(control, name)
    try:
        model = repository.serving(name)
    except ModelNotLoadedError:
        return entry
    manifest = model.manifest
    if not isinstance(model, TabularModel):
        return {
            **entry,
            "serving": {
                "version": model.version,
                "model_version": model.model_version,
                "labels": manifest.labels,
                "thresholds": manifest.thresholds,
                "truncation": manifest.truncation,
                "metrics": manifest.metrics,
                "training": manifest.training,
                "ensemble": _ensemble(manifest),
            },
        }
    return {
        **entry,
        "serving": {
            "version": model.version,
            "model_version": model.model_version,
            "feature_service": model.service.name,
            "feature_fingerprint": model.service.fingerprint,
            "feature_names": list(model.service.names),
            "feature_groups": model.service.groups,
            "feature_importance": model.importance,
            "thresholds": manifest.thresholds,
            "metrics": manifest.metrics,
            "training": manifest.training,
            "ensemble": _ensemble(manifest),
            "explains": model.explainer is not None,
            "drift": request.state.scoring.plane.drift.report(name, model.version),
        },
    }


def _ensemble(manifest: Manifest) -> dict[str, Any] | None:
    """Show what an ensemble declares, None for a single model."""
    return manifest.ensemble.model_dump(mode="json") if manifest.ensemble else None


def _entry(control: Control, name: str) -> dict[str, Any]:
    repository, live = control.models.repository, control.rollouts.live(name)
    record = control.models.records.get(name, ModelRecord(name))
    versions = repository.versions(name)
    number = repository.serving_version(name)
    serving = next((item for item in versions if item.version == number), None)
    manifest = repository.manifest(name, (serving or versions[0]).version)
    return {
        "name": name,
        "kind": "ensemble" if manifest and manifest.engine == "ensemble" else "model",
        "task": manifest.task if manifest else None,
        "engine": serving.engine if serving else None,
        "generation": record.generation,
        "aliases": {
            **{alias: str(version) for alias, version in record.aliases.items()},
            **({"stable": str(serving.version)} if serving else {}),
        },
        "previous": str(record.previous) if record.previous else None,
        "pinned": repository.is_pinned(name),
        "rollout": rollout_entry(live.record, live) if live else None,
        "versions": [_version(item) for item in versions],
    }


def _version(status: VersionStatus) -> dict[str, Any]:
    return {
        "version": str(status.version),
        "release": status.release or None,
        "state": status.state.value,
        "reason": status.reason or None,
        "device": "cpu",
        "loaded_at": status.loaded_at or None,
        "load_ms": round(status.load_s * 1e3, 1),
        "memory_bytes": status.memory_bytes,
        "digest": status.digest or None,
        "source": status.source,
        "progress": {
            "bytes_done": status.bytes_done,
            "bytes_total": status.bytes_total,
            "seconds": round(time.monotonic() - status.loading_since, 1),
        }
        if status.is_moving
        else None,
    }
