"""Turn a fitted XGBoost classifier into a released version: ONNX, native JSON, manifest, card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from libs.common.features.contract import FeatureService
from libs.common.manifest import FileEntry, GoldenCase, Manifest, TensorSpec, describe_file
from services.inference.domain.calibration import Calibration

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]

# A released ONNX file answers as the library does, on every row of the test set.
PARITY_MAX = 1e-6
INPUT, OUTPUT = "features", "probabilities"
_PARITY_BATCH = 100_000
_DECILES = np.linspace(0.0, 1.0, 11)


class ParityError(Exception):
    """The exported model answers differently from the library; nothing is released."""


def export_onnx(model: Any, width: int, path: Path, name: str) -> None:
    """Write `features` FP32 [-1, width] to `probabilities` FP32 [-1, 2], column 1 positive.

    The converter's label output is dropped: thresholds belong to the decision policy.
    """
    import onnx
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    converted = convert_xgboost(
        model,
        name=name,
        initial_types=[(INPUT, FloatTensorType([None, width]))],
        target_opset=15,
    )
    labels = [item for item in converted.graph.output if item.name != OUTPUT]
    for item in labels:
        converted.graph.output.remove(item)
    onnx.checker.check_model(converted)
    path.write_bytes(converted.SerializeToString(deterministic=True))


def onnx_scores(path: Path, rows: Matrix) -> Floats:
    """Score rows with ONNX Runtime on one thread, shape (n,), as serving does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    parts = [
        session.run([OUTPUT], {INPUT: rows[start : start + _PARITY_BATCH]})[0][:, 1]
        for start in range(0, len(rows), _PARITY_BATCH)
    ]
    return np.concatenate(parts).astype(np.float64)


def parity(model: Any, path: Path, rows: Matrix) -> float:
    """Largest difference between library and ONNX over all rows.

    Raises:
        ParityError: above `PARITY_MAX`.
    """
    native = model.predict_proba(rows)[:, 1].astype(np.float64)
    difference = float(np.max(np.abs(native - onnx_scores(path, rows))))
    if difference > PARITY_MAX:
        raise ParityError(f"ONNX differs from the library by {difference:.2e}")
    return difference


def reference_statistics(names: tuple[str, ...], rows: Matrix, scores: Floats) -> dict[str, Any]:
    """Deciles (0 to 100 % in tenths) and missing shares per feature, and deciles of the score."""
    features: dict[str, Any] = {}
    for column, name in enumerate(names):
        known = rows[~np.isnan(rows[:, column]), column]
        deciles = np.quantile(known, _DECILES) if known.size else np.empty(0)
        features[name] = {
            "deciles": [round(float(value), 6) for value in deciles],
            "missing_share": round(1.0 - known.size / len(rows), 6),
        }
    score = {"deciles": [round(float(value), 8) for value in np.quantile(scores, _DECILES)]}
    return {"rows": len(rows), "features": features, "score": score}


def golden_cases(path: Path, rows: Matrix, calibration: Calibration) -> list[GoldenCase]:
    """One case per row, calibrated as answers are; missing features are null."""
    scores = calibration.apply(onnx_scores(path, rows))
    return [
        GoldenCase(
            inputs={INPUT: [[None if np.isnan(value) else float(value) for value in row]]},
            outputs={OUTPUT: [[1.0 - float(score), float(score)]]},
        )
        for row, score in zip(rows, scores, strict=True)
    ]


def release(
    directory: Path,
    model: Any,
    service: FeatureService,
    *,
    task: Literal["fraud", "relevance", "conversion"],
    labels: tuple[str, str],
    test_rows: Matrix,
    reference_rows: Matrix,
    golden_rows: Matrix,
    thresholds: Mapping[str, float],
    training: Mapping[str, Any],
    metrics: Mapping[str, Any],
    card: str,
    calibration: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write all files of a version into `directory` (`models/<name>/<version>`).

    Args:
        directory: made if absent; files in it are replaced.
        model: fitted `xgboost.XGBClassifier`, trained without feature names.
        service: feature contract of the columns.
        task: what the score means.
        labels: negative and positive class.
        test_rows: shape (n, k), every row of which must agree between library and ONNX.
        reference_rows: shape (m, k), what drift is measured against.
        golden_rows: shape (g, k), kept in the manifest with their answers.
        thresholds: decision thresholds by name.
        training: data, seed, parameters.
        metrics: figures of the test set; `onnx_parity_max` is added.
        card: text of the model card.
        calibration: as the manifest holds it; None leaves the library's probability as it is.
        parameters: further entries of the manifest's `parameters`.

    Raises:
        ParityError: library and ONNX differ by more than `PARITY_MAX`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    onnx_path = directory / "model.onnx"
    chosen = dict(calibration or {"method": "none"})
    calibrate = Calibration.from_manifest(chosen)
    export_onnx(model, len(service.names), onnx_path, directory.parent.name)
    difference = parity(model, onnx_path, test_rows)
    model.get_booster().save_model(directory / "model.json")
    (directory / "card.md").write_text(card, encoding="utf-8")
    files: list[FileEntry] = [
        describe_file(directory, name) for name in ("model.onnx", "model.json", "card.md")
    ]
    manifest = Manifest(
        name=directory.parent.name,
        version=int(directory.name),
        release=f"{directory.name}.0.0",
        task=task,
        engine="onnx",
        files=files,
        inputs=[TensorSpec(name=INPUT, datatype="FP32", shape=[-1, len(service.names)])],
        outputs=[TensorSpec(name=OUTPUT, datatype="FP32", shape=[-1, 2])],
        labels=list(labels),
        calibration=chosen,
        thresholds=dict(thresholds),
        feature_service=service.name,
        feature_fingerprint=service.fingerprint,
        feature_names=list(service.names),
        feature_groups=service.groups,
        reference_statistics=reference_statistics(
            service.names, reference_rows, calibrate.apply(onnx_scores(onnx_path, reference_rows))
        ),
        memory_limit_mib=64,
        golden_cases=golden_cases(onnx_path, golden_rows, calibrate),
        training=dict(training),
        metrics={**metrics, "onnx_parity_max": difference, "onnx_parity_rows": len(test_rows)},
        parameters={
            "output_column": 1,
            "output_means": f"P({labels[1]})",
            **(parameters or {}),
        },
        card="card.md",
    )
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, allow_nan=False)
    (directory / "manifest.json").write_text(text + "\n", encoding="utf-8")
    return manifest
