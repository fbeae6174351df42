"""What the V2 protocol says about a model: its tensors, metadata and configuration."""

from typing import Any

from libs.common.manifest import TensorSpec
from services.inference.domain.ensemble import AnyTextModel
from services.inference.domain.model import LoadedModel, TabularModel
from services.inference.domain.span_head import SpanHead

SERVER_VERSION = "0.1.0"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
)
_PLATFORMS = {
    "onnx": "onnx_onnxv1",
    "torch": "pytorch_transformers",
    "xgboost": "xgboost_json",
    "lightgbm": "lightgbm_text",
    "remote": "remote_v2",
    "ensemble": "ensemble",
    "reference": "reference",
}


def inputs_of(model: LoadedModel) -> list[TensorSpec]:
    """Give the input tensors as V2 callers see them; text models take texts, not tokens."""
    if not isinstance(model, TabularModel) and isinstance(model, AnyTextModel):
        return [TensorSpec(name="text", datatype="BYTES", shape=[-1])]
    return model.manifest.inputs


def outputs_of(model: LoadedModel) -> list[TensorSpec]:
    """Give the output tensors as V2 callers see them."""
    if not isinstance(model, TabularModel) and isinstance(model, AnyTextModel):
        labels = len(model.head.labels)
        tensors = [
            TensorSpec(name="probabilities", datatype="FP32", shape=[-1, labels]),
            TensorSpec(name="label", datatype="BYTES", shape=[-1]),
            TensorSpec(name="windows", datatype="INT32", shape=[-1]),
        ]
        if isinstance(model.head, SpanHead):
            tensors.append(TensorSpec(name="spans", datatype="BYTES", shape=[-1]))
        return tensors
    return model.manifest.outputs


def metadata(model: LoadedModel, versions: list[str]) -> dict[str, Any]:
    """Give the model metadata document."""
    return {
        "name": model.name,
        "versions": versions,
        "platform": _PLATFORMS.get(model.engine_name, model.engine_name),
        "inputs": [_tensor(item) for item in inputs_of(model)],
        "outputs": [_tensor(item) for item in outputs_of(model)],
    }


def configuration(model: LoadedModel, *, batch_max: int) -> dict[str, Any]:
    """Give the model configuration document; `parameters` holds what the manifest pins.

    Args:
        model: a loaded version.
        batch_max: texts per batch at most.
    """
    manifest = model.manifest
    return {
        "name": model.name,
        "platform": _PLATFORMS.get(model.engine_name, model.engine_name),
        "backend": model.engine_name,
        # The batch dimension is part of the shapes, as with Triton's max_batch_size 0.
        "max_batch_size": 0,
        "version_policy": {"specific": {"versions": [manifest.version]}},
        "input": [_configured(item) for item in inputs_of(model)],
        "output": [_configured(item) for item in outputs_of(model)],
        "parameters": {
            "labels": list(manifest.labels),
            "activation": manifest.activation,
            "release": manifest.release,
            "thresholds": dict(manifest.thresholds),
            "truncation": dict(manifest.truncation),
            **({"batch_items_max": batch_max} if isinstance(model, AnyTextModel) else {}),
        },
    }


def _tensor(item: TensorSpec) -> dict[str, Any]:
    return {"name": item.name, "datatype": item.datatype, "shape": item.shape}


def _configured(item: TensorSpec) -> dict[str, Any]:
    kind = "TYPE_STRING" if item.datatype == "BYTES" else f"TYPE_{item.datatype}"
    return {"name": item.name, "data_type": kind, "dims": item.shape}
