"""The repository: what is verified before a version serves, and what a failed load leaves."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from services.inference.adapters.repository import ModelRepository
from services.inference.domain.lifecycle import IllegalMoveError, VersionState, VersionStatus
from services.inference.errors import ModelNotLoadedError, UnknownModelError
from tests.support.tabular_models import copy_version, edit_manifest, reseal


@pytest.fixture
def root(models: Path, tmp_path: Path) -> Path:
    """A repository of its own, with fraud version 1."""
    shutil.copytree(models / "fraud", tmp_path / "fraud")
    return tmp_path


def _state(repository: ModelRepository, version: int) -> tuple[VersionState, str]:
    (found,) = [item for item in repository.versions("fraud") if item.version == version]
    return found.state, found.reason


def test_the_newest_version_serves_and_the_older_is_not_loaded(root: Path):
    copy_version(root / "fraud/1", 2)
    repository = ModelRepository(root)
    repository.load_all()
    assert repository.serving("fraud").model_version == "v2.0.0"
    assert _state(repository, 1)[0] is VersionState.UNLOADED


def _flip_a_byte(directory: Path) -> None:
    path = directory / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _truncate(directory: Path) -> None:
    path = directory / "model.onnx"
    path.write_bytes(path.read_bytes()[:-10])


def _offer_a_pickle(directory: Path) -> None:
    (directory / "model.pkl").write_bytes(pickle.dumps({"weights": [1]}))
    entries = json.loads((directory / "manifest.json").read_text())["files"]
    edit_manifest(
        directory, files=[*entries, {"path": "model.pkl", "sha256": "0" * 64, "bytes": 1}]
    )


def _golden_that_differs(directory: Path) -> None:
    case = json.loads((directory / "manifest.json").read_text())["golden_cases"][0]
    case["outputs"] = {"probabilities": [[0.5, 0.5]]}
    edit_manifest(directory, golden_cases=[case])


def _onnx_of_noise(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(b"noise" * 100)
    reseal(directory)


BREAKAGES = {
    "a flipped byte": (_flip_a_byte, "sha256"),
    "a truncated file": (_truncate, "bytes"),
    "a missing file": (lambda directory: (directory / "model.onnx").unlink(), "missing"),
    "a pickle": (_offer_a_pickle, "never loaded"),
    "a golden case that differs": (_golden_that_differs, "golden case 0"),
    "no golden case": (lambda directory: edit_manifest(directory, golden_cases=[]), "no golden"),
    "another feature service": (
        lambda directory: edit_manifest(directory, feature_fingerprint="0" * 16),
        "trained on",
    ),
    "an unknown feature service": (
        lambda directory: edit_manifest(directory, feature_service="other"),
        "unknown",
    ),
    "thresholds that fall": (
        lambda directory: edit_manifest(
            directory, thresholds={"review": 0.9, "challenge": 0.5, "decline": 0.1}
        ),
        "thresholds",
    ),
    "an unknown calibration": (
        lambda directory: edit_manifest(directory, calibration={"method": "magic"}),
        "calibration",
    ),
    "a release that is no X.Y.Z": (
        lambda directory: edit_manifest(directory, release="1"),
        "release",
    ),
    "another version number": (lambda directory: edit_manifest(directory, version=7), "another"),
    "a file that is no ONNX": (_onnx_of_noise, "while loading"),
    "no manifest": (lambda directory: (directory / "manifest.json").unlink(), "missing"),
}


@pytest.mark.parametrize("what", BREAKAGES)
def test_a_broken_new_version_fails_with_a_reason_and_the_old_one_serves_on(root: Path, what: str):
    break_it, reason = BREAKAGES[what]
    repository = ModelRepository(root)
    repository.load_all()
    before = repository.serving("fraud")
    break_it(copy_version(root / "fraud/1", 2))
    assert repository.load("fraud", 2) is False
    state, told = _state(repository, 2)
    assert state is VersionState.FAILED
    assert reason in told
    assert repository.serving("fraud") is before


def test_a_good_new_version_replaces_the_old_one_and_a_repaired_one_loads(root: Path):
    repository = ModelRepository(root)
    repository.load_all()
    copy_version(root / "fraud/1", 2)
    _flip_a_byte(root / "fraud/2")
    assert not repository.load("fraud", 2)
    _flip_a_byte(root / "fraud/2")
    assert repository.load("fraud", 2)
    assert repository.serving("fraud").version == "2"
    assert _state(repository, 1) == (VersionState.UNLOADED, "replaced by version 2")
    assert repository.load("fraud", 2)


def test_at_start_a_broken_newest_version_gives_way_to_the_one_before(root: Path):
    _truncate(copy_version(root / "fraud/1", 2))
    repository = ModelRepository(root)
    repository.load_all()
    assert repository.serving("fraud").version == "1"


def test_an_onnx_file_elsewhere_must_have_the_manifests_hash(root: Path, tmp_path: Path):
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    shutil.move(root / "fraud/1/model.onnx", good)
    bad.write_bytes(good.read_bytes()[:-1])
    edit_manifest(root / "fraud/1")
    for path, serves in ((bad, False), (good, False)):
        repository = ModelRepository(root, onnx_path=path)
        assert repository.load("fraud", 1) is serves
    shutil.copy(good, root / "fraud/1/model.onnx")
    assert not ModelRepository(root, onnx_path=bad).load("fraud", 1)
    assert ModelRepository(root, onnx_path=good).load("fraud", 1)


def test_feature_names_of_another_order_are_refused(root: Path):
    from libs.common.features.fraud import FRAUD_V1

    assert ModelRepository(root, feature_names=FRAUD_V1.names).load("fraud", 1)
    assert not ModelRepository(root, feature_names=FRAUD_V1.names[::-1]).load("fraud", 1)


def test_without_native_trees_scores_come_without_contributions(root: Path):
    entries = json.loads((root / "fraud/1/manifest.json").read_text())["files"]
    kept = [entry for entry in entries if entry["path"] != "model.json"]
    edit_manifest(root / "fraud/1", files=kept)
    repository = ModelRepository(root)
    assert repository.load("fraud", 1)
    assert getattr(repository.serving("fraud"), "explainer", "no such part") is None
    assert not ModelRepository(root, use_onnx=False).load("fraud", 1)


def test_unknown_names_are_told_apart_from_models_that_are_not_ready(root: Path):
    repository = ModelRepository(root)
    with pytest.raises(UnknownModelError):
        repository.versions("fraud")
    with pytest.raises(ModelNotLoadedError):
        repository.serving("fraud")


def test_a_version_makes_only_the_moves_of_its_life():
    status = VersionStatus(1)
    with pytest.raises(IllegalMoveError):
        status.move(VersionState.READY)
    assert status.state is VersionState.UNLOADED
