"""A model repository of tiny XGBoost models, packaged by the same code as the released ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from libs.common.features.contract import FeatureService
from libs.common.features.fraud import FRAUD_V1
from libs.common.features.personalization import PERSONALIZATION_V1
from libs.common.manifest import describe_file
from training.packaging import release

ROWS = 600


def random_rows(service: FeatureService, count: int, seed: int = 7) -> np.ndarray[Any, Any]:
    """Rows of plausible size, one value in five missing, shape (count, features), float32."""
    generator = np.random.default_rng(seed)
    rows = generator.gamma(1.0, 20.0, size=(count, len(service.names))).astype(np.float32)
    rows[generator.random(rows.shape) < 0.2] = np.nan
    return rows


def train(service: FeatureService, *, trees: int = 12, depth: int = 3, seed: int = 7) -> Any:
    """Fit a small classifier whose label depends on the first features."""
    import xgboost

    rows = random_rows(service, ROWS, seed)
    signal = np.nan_to_num(rows[:, 0]) + np.nan_to_num(rows[:, 2]) * np.nan_to_num(rows[:, 3]) / 20
    labels = (signal > np.quantile(signal, 0.8)).astype(np.int8)
    model = xgboost.XGBClassifier(
        n_estimators=trees, max_depth=depth, tree_method="exact", base_score=0.5, n_jobs=1
    )
    return model.fit(rows, labels)


def build_version(
    root: Path, name: str, version: int = 1, *, service: FeatureService | None = None, **fit: Any
) -> Path:
    """Train and package `root/name/version`; gives its folder."""
    chosen = service or (FRAUD_V1 if name == "fraud" else PERSONALIZATION_V1)
    model = train(chosen, **fit)
    rows = random_rows(chosen, 50, seed=11)
    directory = root / name / str(version)
    release(
        directory,
        model,
        chosen,
        task=name,  # type: ignore[arg-type] # the tests use task names as model names
        labels=("no", "yes"),
        test_rows=rows,
        reference_rows=rows,
        golden_rows=rows[:5],
        thresholds={"review": 0.3, "challenge": 0.6, "decline": 0.9} if name == "fraud" else {},
        training={"seed": 7},
        metrics={"rows": ROWS},
        card="A tiny model for tests.\n",
    )
    return directory


def build_repository(root: Path) -> Path:
    """All three tabular models, version 1."""
    for name in ("fraud", "relevance", "conversion"):
        build_version(root, name)
    return root


def copy_version(source: Path, version: int) -> Path:
    """Copy a version folder beside itself under another number, manifest adapted."""
    target = source.parent / str(version)
    shutil.copytree(source, target)
    edit_manifest(target, version=version, release=f"{version}.0.0")
    return target


def edit_manifest(directory: Path, **changes: Any) -> None:
    """Replace members of a manifest."""
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def reseal(directory: Path) -> None:
    """Write the present hashes of the files into the manifest."""
    document = json.loads((directory / "manifest.json").read_text())
    files = [describe_file(directory, entry["path"]).model_dump() for entry in document["files"]]
    edit_manifest(directory, files=files)
