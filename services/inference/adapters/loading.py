"""From a verified version folder to a proven model: picks the builder by task and engine."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libs.common.errors import ServiceError
from libs.common.manifest import Manifest, ManifestError
from services.inference.adapters.onnx_tensor_engine import OnnxTensorEngine
from services.inference.adapters.remote_engine import (
    RemoteMismatchError,
    RemoteTensorEngine,
    prove_remote,
)
from services.inference.adapters.tabular import TABULAR_TASKS, load_tabular, run_golden_cases
from services.inference.adapters.text_loading import TEXT_TASKS, load_text, prove_text
from services.inference.domain.model import LoadedModel, TabularModel
from services.inference.domain.tensors import DATATYPES, RemoteModel, TensorModel
from services.inference.domain.text import TextModel


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What the settings say about loading.

    Attributes:
        use_onnx: tabular models run in ONNX Runtime, else on their native trees.
        onnx_path: another place of the fraud model's ONNX file.
        feature_names: what the fraud model must read, in order.
        text_executors: concurrent forwards of a text model on the CPU; 0 takes the cgroup's.
    """

    use_onnx: bool = True
    onnx_path: Path | None = None
    feature_names: tuple[str, ...] | None = None
    text_executors: int = 0


def load_model(directory: Path, manifest: Manifest, options: LoadOptions) -> LoadedModel:
    """Build one version.

    Raises:
        ManifestError: the parts do not fit together, or nothing serves this task.
    """
    if manifest.task in TABULAR_TASKS:
        is_fraud = manifest.task == "fraud"
        return load_tabular(
            directory,
            manifest,
            use_onnx=options.use_onnx,
            onnx_path=options.onnx_path if is_fraud else None,
            feature_names=options.feature_names if is_fraud else None,
        )
    if manifest.task in TEXT_TASKS:
        return load_text(directory, manifest, executors=options.text_executors)
    if manifest.task == "generic" and manifest.engine == "remote":
        try:
            return RemoteModel(manifest, RemoteTensorEngine(manifest))
        except ValueError as error:
            raise ManifestError(f"{manifest.name}: {error}") from None
    if manifest.task == "generic" and manifest.engine == "onnx":
        return _load_generic(directory, manifest)
    raise ManifestError(
        f"{manifest.name}: nothing here serves {manifest.task} on {manifest.engine}"
    )


def prove(model: LoadedModel) -> None:
    """Hold a built model to its golden cases.

    Raises:
        ManifestError: an answer differs, or there is no case.
    """
    if isinstance(model, TabularModel):
        run_golden_cases(model)
    elif isinstance(model, TextModel):
        prove_text(model)
    elif isinstance(model, TensorModel):
        _prove_generic(model)
    elif isinstance(model, RemoteModel):
        try:
            prove_remote(model.manifest)
        except (RemoteMismatchError, ServiceError) as error:
            raise ManifestError(f"{model.name}: {error}") from None


def _load_generic(directory: Path, manifest: Manifest) -> TensorModel:
    graph = next((entry.path for entry in manifest.files if entry.path.endswith(".onnx")), None)
    if graph is None:
        raise ManifestError(f"{manifest.name}: the manifest names no .onnx file")
    engine = OnnxTensorEngine(directory / graph)
    declared = {item.name for item in manifest.inputs}, {item.name for item in manifest.outputs}
    if declared != (set(engine.input_names), set(engine.output_names)):
        raise ManifestError(f"{manifest.name}: the manifest names other tensors than the graph")
    return TensorModel(manifest, engine, "onnx")


def _prove_generic(model: TensorModel) -> None:
    if not model.manifest.golden_cases:
        raise ManifestError(f"{model.name}: the manifest has no golden case")
    types = {item.name: DATATYPES[item.datatype] for item in model.manifest.inputs}
    for number, case in enumerate(model.manifest.golden_cases):
        inputs = {
            name: np.asarray(value, dtype=types.get(name)) for name, value in case.inputs.items()
        }
        outputs = model.engine.run(inputs)
        for name, expected in case.outputs.items():
            found = outputs.get(name)
            wanted = np.asarray(expected, dtype=np.float64)
            if (
                found is None
                or found.shape != wanted.shape
                or not np.all(np.abs(found.astype(np.float64) - wanted) <= case.tolerance)
            ):
                raise ManifestError(f"{model.name}: golden case {number} gives another answer")
