"""What lies in models/ is complete, verified, agrees with itself and with the feature contract."""

from pathlib import Path

import numpy as np
import pytest

from libs.common.features.contract import FeatureService
from libs.common.features.fraud import FRAUD_V1
from libs.common.features.personalization import PERSONALIZATION_V1
from libs.common.manifest import load_manifest
from training.fraud import feature_rows
from training.generators.transactions import recent_history
from training.packaging import INPUT, OUTPUT, PARITY_MAX, onnx_scores

MODELS = Path(__file__).resolve().parents[3] / "models"
RELEASED = [
    pytest.param("fraud", FRAUD_V1, id="fraud"),
    pytest.param("relevance", PERSONALIZATION_V1, id="relevance"),
    pytest.param("conversion", PERSONALIZATION_V1, id="conversion"),
]


@pytest.mark.parametrize(("name", "service"), RELEASED)
def test_the_manifest_verifies_and_names_the_current_feature_contract(
    name: str, service: FeatureService
):
    manifest = load_manifest(MODELS / name / "1")
    assert manifest.feature_fingerprint == service.fingerprint
    assert tuple(manifest.feature_names) == service.names
    assert manifest.inputs[0].shape == [-1, len(service.names)]
    assert manifest.metrics["onnx_parity_max"] <= PARITY_MAX


@pytest.mark.parametrize(("name", "service"), RELEASED)
def test_golden_cases_hold(name: str, service: FeatureService):
    directory = MODELS / name / "1"
    for case in load_manifest(directory).golden_cases:
        rows = np.array(case.inputs[INPUT], dtype=np.float32)
        assert rows.shape == (1, len(service.names))
        expected = case.outputs[OUTPUT][0][1]
        assert onnx_scores(directory / "model.onnx", rows)[0] == pytest.approx(
            expected, abs=case.tolerance
        )


@pytest.mark.parametrize(("name", "service"), RELEASED)
def test_onnx_and_the_native_file_agree_on_random_rows_with_gaps(
    name: str, service: FeatureService
):
    import xgboost

    directory = MODELS / name / "1"
    random = np.random.default_rng(5)
    rows = random.lognormal(1, 2, (4_000, len(service.names))).astype(np.float32)
    rows[random.random(rows.shape) < 0.3] = np.nan
    booster = xgboost.Booster(model_file=directory / "model.json")
    native = booster.predict(xgboost.DMatrix(rows)).astype(np.float64)
    assert np.abs(native - onnx_scores(directory / "model.onnx", rows)).max() <= PARITY_MAX


def test_decisions_of_the_fraud_model_rise_with_the_score():
    thresholds = load_manifest(MODELS / "fraud" / "1").thresholds
    assert 0 < thresholds["review"] < thresholds["challenge"] < thresholds["decline"] < 1


def test_the_fraud_model_ranks_unseen_generated_fraud_above_honest_payments():
    # Another seed: none of these cards was in the training data.
    history = recent_history(1_767_225_600_000, seed=99, cards=800)
    scores = onnx_scores(MODELS / "fraud" / "1" / "model.onnx", feature_rows(history))
    fraud = history.scenario > 0
    assert fraud.sum() > 50
    order = scores[fraud][:, None] > scores[~fraud][None, ::7]
    assert order.mean() > 0.85
