"""What lies in models/ is complete, verified, agrees with itself and with the feature contract."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from libs.common.features.contract import FeatureService
from libs.common.features.fraud import FRAUD_V1, FRAUD_V2
from libs.common.features.personalization import PERSONALIZATION_V1
from libs.common.manifest import load_manifest
from services.inference.domain.calibration import Calibration
from training.fraud import Plan, feature_rows, fit
from training.generators.transactions import recent_history
from training.packaging import INPUT, OUTPUT, PARITY_MAX, onnx_scores

MODELS = Path(__file__).resolve().parents[3] / "models"
RELEASED = [
    pytest.param("fraud/1", FRAUD_V1, id="fraud-1"),
    pytest.param("fraud/2", FRAUD_V2, id="fraud-2"),
    pytest.param("relevance/1", PERSONALIZATION_V1, id="relevance"),
    pytest.param("conversion/1", PERSONALIZATION_V1, id="conversion"),
]


@pytest.mark.parametrize(("name", "service"), RELEASED)
def test_the_manifest_verifies_and_names_the_current_feature_contract(
    name: str, service: FeatureService
):
    manifest = load_manifest(MODELS / name)
    assert manifest.feature_fingerprint == service.fingerprint
    assert tuple(manifest.feature_names) == service.names
    assert manifest.inputs[0].shape == [-1, len(service.names)]
    assert manifest.metrics["onnx_parity_max"] <= PARITY_MAX


@pytest.mark.parametrize(("name", "service"), RELEASED)
def test_golden_cases_hold(name: str, service: FeatureService):
    directory = MODELS / name
    manifest = load_manifest(directory)
    calibration = Calibration.from_manifest(manifest.calibration)
    for case in manifest.golden_cases:
        rows = np.array(case.inputs[INPUT], dtype=np.float32)
        assert rows.shape == (1, len(service.names))
        expected = case.outputs[OUTPUT][0][1]
        found = calibration.apply(onnx_scores(directory / "model.onnx", rows))[0]
        assert found == pytest.approx(expected, abs=case.tolerance)


@pytest.mark.parametrize(("name", "service"), RELEASED)
def test_onnx_and_the_native_file_agree_on_random_rows_with_gaps(
    name: str, service: FeatureService
):
    import xgboost

    directory = MODELS / name
    random = np.random.default_rng(5)
    rows = random.lognormal(1, 2, (4_000, len(service.names))).astype(np.float32)
    rows[random.random(rows.shape) < 0.3] = np.nan
    booster = xgboost.Booster(model_file=directory / "model.json")
    native = booster.predict(xgboost.DMatrix(rows)).astype(np.float64)
    assert np.abs(native - onnx_scores(directory / "model.onnx", rows)).max() <= PARITY_MAX


def test_decisions_of_the_fraud_model_rise_with_the_score():
    thresholds = load_manifest(MODELS / "fraud" / "2").thresholds
    assert 0 < thresholds["review"] < thresholds["challenge"] < thresholds["decline"] < 1


def test_the_score_is_calibrated_where_decisions_are_made():
    curve = load_manifest(MODELS / "fraud" / "2").metrics["reliability"]
    for one in curve:
        # Three standard errors of the share, and what 0.02 of the score is worth.
        error = (one["positive_share"] * (1 - one["positive_share"]) / one["rows"]) ** 0.5
        assert abs(one["mean_score"] - one["positive_share"]) <= 3 * error + 0.02


def test_the_same_rows_and_seed_give_the_same_trees_byte_for_byte():
    payments = recent_history(1_767_225_600_000, seed=3, cards=60)
    rows = feature_rows(payments, blank_seed=3)
    labels = payments.scenario > 0
    plan = Plan(trees=8)
    first, again = (fit(plan, rows, labels).get_booster().save_raw("json") for _ in range(2))
    assert bytes(first) == bytes(again)


def test_unseen_categories_countries_and_devices_are_scored_like_any_other():
    history = recent_history(1_767_225_600_000, seed=99, cards=40)
    strange = replace(
        history,
        mcc=np.full(len(history), 1, dtype=np.int64),
        country=np.full(len(history), 400, dtype=np.int64),
        device=history.device + 7,
    )
    scores = onnx_scores(MODELS / "fraud" / "2" / "model.onnx", feature_rows(strange))
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_the_order_of_rows_changes_no_score():
    rows = feature_rows(recent_history(1_767_225_600_000, seed=99, cards=40))[:1_000]
    order = np.random.default_rng(2).permutation(len(rows))
    path = MODELS / "fraud" / "2" / "model.onnx"
    assert np.array_equal(onnx_scores(path, rows)[order], onnx_scores(path, rows[order]))


def test_the_fraud_model_ranks_unseen_generated_fraud_above_honest_payments():
    # Another seed: none of these cards was in the training data.
    history = recent_history(1_767_225_600_000, seed=99, cards=800)
    scores = onnx_scores(MODELS / "fraud" / "2" / "model.onnx", feature_rows(history))
    fraud = history.scenario > 0
    assert fraud.sum() > 50
    order = scores[fraud][:, None] > scores[~fraud][None, ::7]
    assert order.mean() > 0.85
