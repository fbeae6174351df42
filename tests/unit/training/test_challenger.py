"""The walk-through's challenger, and what logging says where there is no MLflow."""

import json
from pathlib import Path

import pytest

from libs.common.manifest import load_manifest
from tests.support.tabular_models import build_version
from training.challenger import make
from training.mlflow_registry import log_version, record


def test_a_challenger_is_a_sound_version_with_other_bands(tmp_path: Path) -> None:
    source = build_version(tmp_path, "fraud", 1)
    make(source, tmp_path / "fraud/3", factor=0.1)
    old, new = load_manifest(source), load_manifest(tmp_path / "fraud/3")
    assert (new.version, new.release, new.files) == (3, "3.0.0", old.files)
    assert new.thresholds["review"] == pytest.approx(old.thresholds["review"] / 10)
    for target in ("fraud/x", "other/4"):
        with pytest.raises(ValueError, match="number of the same model"):
            make(source, tmp_path / target)
    with pytest.raises(FileExistsError):
        make(source, tmp_path / "fraud/3")


def test_without_mlflow_logging_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    monkeypatch.setenv("GATEHOUSE_MLFLOW_VENV", str(tmp_path / "nothing"))
    (tmp_path / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(RuntimeError, match="make mlflow"):
        log_version(tmp_path, tracking_uri="http://127.0.0.1:9")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert record(tmp_path) is None
