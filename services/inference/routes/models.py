"""GET /models and /models/{name}: what the repository holds and what serves."""

from typing import Any

from fastapi import APIRouter, Request

from services.inference.domain.lifecycle import VersionState, VersionStatus
from services.inference.domain.model import TabularModel
from services.inference.domain.repository import Repository
from services.inference.errors import ModelNotLoadedError

router = APIRouter(tags=["models"])


@router.get("/models", summary="List models with their metadata")
async def list_models(request: Request) -> dict[str, Any]:
    """List all models; `models` is the same list under the name that the mission's clients read."""
    repository: Repository = request.state.scoring.plane.repository
    items = [_entry(repository, name) for name in repository.names()]
    return {"items": items, "next": None, "models": items}


@router.get("/models/{name}", summary="One model")
async def one_model(name: str, request: Request) -> dict[str, Any]:
    """Describe one model, with the metadata of the version that serves."""
    repository: Repository = request.state.scoring.plane.repository
    entry = _entry(repository, name)
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
            "explains": model.explainer is not None,
        },
    }


def _entry(repository: Repository, name: str) -> dict[str, Any]:
    versions = repository.versions(name)
    serving = next((item for item in versions if item.state is VersionState.READY), None)
    manifest = repository.manifest(name, (serving or versions[0]).version)
    return {
        "name": name,
        "kind": "model",
        "task": manifest.task if manifest else None,
        "engine": serving.engine if serving else None,
        "aliases": {"stable": str(serving.version)} if serving else {},
        "rollout": None,
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
        "source": "directory",
    }
