"""TreeSHAP tables against XGBoost's own contributions and against brute force over subsets."""

import itertools
import json
from math import factorial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.features.fraud import FRAUD_V1
from services.inference.domain.explain import ExplainerTooLargeError, TreeExplainer, shapley_tables
from services.inference.domain.trees import TreeFormatError, parse_xgboost
from tests.support.tabular_models import random_rows, train


@pytest.mark.parametrize(("trees", "depth"), [(1, 1), (60, 3), (20, 6)])
def test_contributions_equal_pred_contribs_and_add_up(tmp_path: Path, trees: int, depth: int):
    import xgboost

    booster = train(FRAUD_V1, trees=trees, depth=depth).get_booster()
    booster.save_model(tmp_path / "m.json")
    ensemble = parse_xgboost(json.loads((tmp_path / "m.json").read_text()))
    explainer = TreeExplainer(ensemble)
    rows = random_rows(FRAUD_V1, 200, seed=2)
    native = booster.predict(xgboost.DMatrix(rows), pred_contribs=True)
    margins = booster.predict(xgboost.DMatrix(rows), output_margin=True)
    own = np.array([explainer.contributions(row) for row in rows])
    assert np.abs(own - native[:, :-1]).max() <= 1e-4
    assert explainer.base_value == pytest.approx(native[0, -1], abs=1e-4)
    assert np.abs(own.sum(axis=1) + explainer.base_value - margins).max() <= 1e-4
    assert np.abs(ensemble.margins(rows) - margins).max() <= 1e-4


@given(
    value=st.floats(-3, 3),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=5),
)
def test_a_leafs_table_equals_the_definition_of_shapley_values(value: float, shares: list[float]):
    d = len(shares)
    table = shapley_tables(np.array([value]), np.array([shares]))[0]

    def worth(known: set[int], mask: int) -> float:
        result = value
        for j in range(d):
            result *= (mask >> j & 1) if j in known else shares[j]
        return result

    for mask, i in itertools.product(range(1 << d), range(d)):
        others = [j for j in range(d) if j != i]
        expected = 0.0
        for size in range(d):
            weight = factorial(size) * factorial(d - size - 1) / factorial(d)
            for chosen in itertools.combinations(others, size):
                known = set(chosen)
                expected += weight * (worth(known | {i}, mask) - worth(known, mask))
        assert table[mask, i] == pytest.approx(expected, abs=1e-9)


def test_tables_beyond_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("services.inference.domain.explain.TABLE_BYTES_MAX", 1000)
    train(FRAUD_V1).get_booster().save_model(tmp_path / "m.json")
    with pytest.raises(ExplainerTooLargeError):
        TreeExplainer(parse_xgboost(json.loads((tmp_path / "m.json").read_text())))


@pytest.mark.parametrize("document", [{}, {"learner": {}}, {"learner": {"objective": 1}}])
def test_what_is_no_xgboost_model_is_refused(document: dict[str, object]):
    with pytest.raises(TreeFormatError):
        parse_xgboost(document)


def test_importance_is_the_librarys_total_gain(tmp_path: Path):
    booster = train(FRAUD_V1).get_booster()
    booster.save_model(tmp_path / "m.json")
    own = parse_xgboost(json.loads((tmp_path / "m.json").read_text())).importance()
    gains = booster.get_score(importance_type="total_gain")
    total = sum(gains.values())
    for name, gain in gains.items():
        assert own[int(name[1:])] == pytest.approx(gain / total, rel=1e-4)
    assert own.sum() == pytest.approx(1.0)


def test_a_leaf_without_features_has_nothing_to_share():
    tables = shapley_tables(np.array([0.5, -1.0]), np.zeros((2, 0)))
    assert tables.shape == (2, 1, 0)
