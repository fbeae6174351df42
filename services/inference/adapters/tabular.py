"""Builds a tabular model from one verified version folder, and proves it on its golden cases."""

from pathlib import Path

import numpy as np
import orjson

from libs.common.features.contract import FeatureService
from libs.common.features.fraud import FRAUD_V1, FRAUD_V2
from libs.common.features.personalization import PERSONALIZATION_V1
from libs.common.manifest import GoldenCase, Manifest, ManifestError, verify_file
from services.inference.adapters.lightgbm_engine import LightGbmEngine
from services.inference.adapters.onnx_engine import OnnxTabularEngine
from services.inference.adapters.xgboost_engine import TreeEngine
from services.inference.domain.calibration import Calibration
from services.inference.domain.explain import ExplainerTooLargeError, TreeExplainer
from services.inference.domain.model import TabularModel
from services.inference.domain.ports import Rows, Scores, TabularEngine
from services.inference.domain.scoring import RiskBands, grouping_of
from services.inference.domain.trees import TreeEnsemble, TreeFormatError, parse_xgboost

FEATURE_SERVICES: dict[str, FeatureService] = {
    service.name: service for service in (FRAUD_V1, FRAUD_V2, PERSONALIZATION_V1)
}
TABULAR_TASKS = frozenset({"fraud", "relevance", "conversion"})
# The native trees lie beside the ONNX file: explanations and USE_ONNX=false need them.
NATIVE_FILE = "model.json"
LIGHTGBM_FILE = "model.txt"


def load_tabular(
    directory: Path,
    manifest: Manifest,
    *,
    use_onnx: bool,
    onnx_path: Path | None = None,
    feature_names: tuple[str, ...] | None = None,
) -> TabularModel:
    """Build one version; its files have been verified against the manifest.

    Args:
        directory: the version's folder.
        manifest: its manifest.
        use_onnx: run the ONNX file, else the native trees.
        onnx_path: another place of the ONNX file; verified here against the manifest.
        feature_names: names that the model must read, in order; None accepts its service's.

    Raises:
        ManifestError: the parts do not fit together; the text says which.
    """
    service = _service_of(manifest, feature_names)
    ensemble = _native_trees(directory, manifest)
    engine: TabularEngine
    try:
        calibration = Calibration.from_manifest(manifest.calibration)
        is_fraud = manifest.task == "fraud"
        bands = RiskBands.from_manifest(manifest.thresholds) if is_fraud else None
        if use_onnx:
            engine = OnnxTabularEngine(_onnx_file(directory, manifest, onnx_path))
        elif ensemble is not None:
            engine = TreeEngine(ensemble)
        elif LIGHTGBM_FILE in {entry.path for entry in manifest.files}:
            engine = LightGbmEngine(directory / LIGHTGBM_FILE)
        else:
            raise ValueError(
                f"USE_ONNX=false needs {NATIVE_FILE} or {LIGHTGBM_FILE}, "
                "and the manifest names neither"
            )
    except (ValueError, KeyError) as error:
        raise ManifestError(f"{manifest.name}: {error}") from None
    return TabularModel(
        manifest=manifest,
        engine=engine,
        engine_name=_engine_name(engine),
        service=service,
        calibration=calibration,
        explainer=_explainer(ensemble),
        importance=_importance(ensemble, service),
        bands=bands,
        grouping=grouping_of(service),
    )


def _engine_name(engine: TabularEngine) -> str:
    if isinstance(engine, OnnxTabularEngine):
        return "onnx"
    return "xgboost" if isinstance(engine, TreeEngine) else "lightgbm"


def run_golden_cases(model: TabularModel) -> None:
    """Compare the model's answers with those the manifest pins.

    Raises:
        ManifestError: a score differs by more than its tolerance, or there is no case at all.
    """
    if not model.manifest.golden_cases:
        raise ManifestError(f"{model.name}: the manifest has no golden case")
    for number, case in enumerate(model.manifest.golden_cases):
        rows, expected = golden_arrays(case)
        prepared = [model.engine.prepare(rows)]
        scores = model.engine.finish(model.engine.forward(prepared), prepared)[0]
        if scores.shape != expected.shape or not np.all(
            np.abs(model.calibration.apply(scores) - expected) <= case.tolerance
        ):
            raise ManifestError(f"{model.name}: golden case {number} gives another answer")


def golden_arrays(
    case: GoldenCase,
) -> tuple[Rows, Scores]:
    """Read a golden case: rows (null is missing), and per row its outputs, the score last."""
    rows = np.array(next(iter(case.inputs.values())), dtype=np.float32, ndmin=2)
    expected = np.array(next(iter(case.outputs.values())), dtype=np.float64)
    expected = expected.reshape(len(rows), -1)[:, -1]
    return rows, expected


def _service_of(manifest: Manifest, names: tuple[str, ...] | None) -> FeatureService:
    service = FEATURE_SERVICES.get(manifest.feature_service or "")
    if service is None:
        raise ManifestError(
            f"{manifest.name}: feature service {manifest.feature_service} is unknown"
        )
    if manifest.feature_fingerprint != service.fingerprint:
        raise ManifestError(
            f"{manifest.name}: trained on {service.name} {manifest.feature_fingerprint}, "
            f"this process reads {service.fingerprint}"
        )
    if names is not None and names != service.names:
        raise ManifestError(f"{manifest.name}: FEATURE_NAMES_PATH lists other features or order")
    return service


def _native_trees(directory: Path, manifest: Manifest) -> TreeEnsemble | None:
    if NATIVE_FILE not in {entry.path for entry in manifest.files}:
        return None
    try:
        return parse_xgboost(orjson.loads((directory / NATIVE_FILE).read_bytes()))
    except (TreeFormatError, orjson.JSONDecodeError) as error:
        raise ManifestError(f"{manifest.name}/{NATIVE_FILE}: {error}") from None


def _onnx_file(directory: Path, manifest: Manifest, elsewhere: Path | None) -> Path:
    entry = next((entry for entry in manifest.files if entry.path.endswith(".onnx")), None)
    if entry is None:
        raise ManifestError(f"{manifest.name}: the manifest names no .onnx file")
    if elsewhere is None:
        return directory / entry.path
    verify_file(elsewhere.parent, entry.model_copy(update={"path": elsewhere.name}))
    return elsewhere


def _explainer(ensemble: TreeEnsemble | None) -> TreeExplainer | None:
    if ensemble is None:
        return None
    try:
        return TreeExplainer(ensemble)
    except ExplainerTooLargeError:
        return None


def _importance(ensemble: TreeEnsemble | None, service: FeatureService) -> dict[str, float]:
    if ensemble is None:
        return {}
    shares = ensemble.importance()
    return {name: round(float(share), 6) for name, share in zip(service.names, shares, strict=True)}
