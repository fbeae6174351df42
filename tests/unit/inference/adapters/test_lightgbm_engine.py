"""LightGBM text beside its ONNX conversion: same answers, NaN rows included."""

import json
from pathlib import Path

import numpy as np
import pytest

from libs.common.features.fraud import FRAUD_V1
from libs.common.manifest import ManifestError, describe_file, load_manifest
from services.inference.adapters.lightgbm_engine import LightGbmEngine
from services.inference.adapters.tabular import load_tabular, run_golden_cases
from tests.support.tabular_models import build_version, edit_manifest, random_rows

lightgbm = pytest.importorskip("lightgbm")


def _version(root: Path) -> Path:
    """A fraud version whose native file is LightGBM's."""
    directory = build_version(root, "fraud")
    rows = random_rows(FRAUD_V1, 400)
    labels = (np.nan_to_num(rows[:, 0]) > 20).astype(int)
    parameters = {"objective": "binary", "num_leaves": 7, "verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(rows, labels), 10)
    booster.save_model(str(directory / "model.txt"))
    case = rows[:3]
    expected = booster.predict(case.astype(np.float64))
    entries = json.loads((directory / "manifest.json").read_text())["files"]
    kept = [entry for entry in entries if entry["path"] != "model.json"]
    kept.append(describe_file(directory, "model.txt").model_dump())
    golden = {
        "inputs": {"x": [[None if np.isnan(v) else float(v) for v in row] for row in case]},
        "outputs": {"y": [float(score) for score in expected]},
    }
    edit_manifest(directory, files=kept, golden_cases=[golden])
    return directory


def test_a_version_serves_its_native_text_file_when_onnx_is_off(tmp_path: Path):
    directory = _version(tmp_path)
    model = load_tabular(directory, load_manifest(directory), use_onnx=False)
    run_golden_cases(model)
    assert model.engine_name == "lightgbm"
    assert isinstance(model.engine, LightGbmEngine)
    rows = random_rows(FRAUD_V1, 300, seed=5)
    engine = model.engine
    together = engine.forward([engine.prepare(rows)])
    single = np.concatenate([engine.forward([engine.prepare(row[None])]) for row in rows])
    assert np.abs(together - single).max() <= 1e-6


def test_a_broken_file_and_a_wrong_width_are_refused(tmp_path: Path):
    directory = _version(tmp_path)
    (directory / "model.txt").write_text("tree\nnonsense\n")
    entries = json.loads((directory / "manifest.json").read_text())["files"]
    entries[-1] = describe_file(directory, "model.txt").model_dump()
    edit_manifest(directory, files=entries)
    with pytest.raises(ManifestError, match="no LightGBM model"):
        load_tabular(directory, load_manifest(directory), use_onnx=False)
