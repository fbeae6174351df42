"""Fit a challenger by the champion's recipe, calibrate it, choose its thresholds."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from libs.common.features.contract import FeatureService
from training import calibration, quality
from training.packaging import Matrix
from training.quality import Bools, Floats
from training.retrain.source import DAY_MS, Dataset, NoDataError

# Shares of training rows without any stored feature, so that the model learns what missing means.
_DARK_SHARE = 0.02
_FRAUDS_MIN = 20


@dataclass(frozen=True, slots=True)
class Recipe:
    """Booster settings; the champion's unless asked otherwise."""

    seed: int = 7
    trees: int = 80
    depth: int = 4
    rate: float = 0.2


@dataclass(frozen=True)
class Split:
    """Rows of train, validation and test, by time, cut at whole milliseconds."""

    train: Bools
    validation: Bools
    test: Bools
    cuts_ms: tuple[int, int]


@dataclass(frozen=True)
class Challenger:
    """A fitted model with what belongs to it.

    Attributes:
        model: fitted `xgboost.XGBClassifier`.
        choice: how its scores are calibrated.
        thresholds: review, challenge, decline.
        recipe: what it was fitted with.
    """

    model: Any
    choice: calibration.Choice
    thresholds: dict[str, float]
    recipe: Recipe

    def scores(self, rows: Matrix) -> Floats:
        """Calibrated probabilities, shape (n,)."""
        return self.choice.calibration.apply(raw_scores(self.model, rows))


def split(data: Dataset, train_share: float = 0.6, validation_share: float = 0.2) -> Split:
    """Cut the period by time: the newest part is for the test, the one before for the choices.

    Raises:
        NoDataError: a part holds too few frauds to say anything.
    """
    first, last = int(data.event_ms[0]), int(data.event_ms[-1]) + 1
    one = first + int((last - first) * train_share)
    two = first + int((last - first) * (train_share + validation_share))
    parts = Split(
        data.event_ms < one,
        (data.event_ms >= one) & (data.event_ms < two),
        data.event_ms >= two,
        (one, two),
    )
    for name, part in (("train", parts.train), ("validation", parts.validation)):
        frauds = int(data.is_fraud[part].sum())
        if frauds < _FRAUDS_MIN:
            raise NoDataError(
                f"the {name} part holds {frauds} frauds, at least {_FRAUDS_MIN} are needed: "
                "more days, or more feedback"
            )
    return parts


def fit(data: Dataset, parts: Split, recipe: Recipe) -> Challenger:
    """Fit on train, calibrate and choose thresholds on validation."""
    rows = darkened(data.service, data.rows[parts.train], recipe.seed)
    model = booster(recipe).fit(rows, data.is_fraud[parts.train].astype(np.int8))
    labels = data.is_fraud[parts.validation]
    raw = raw_scores(model, data.rows[parts.validation])
    choice = calibration.choose(labels, raw, data.card[parts.validation])
    thresholds = quality.decision_thresholds(labels, choice.calibration.apply(raw))
    return Challenger(model, choice, thresholds, recipe)


def booster(recipe: Recipe) -> Any:
    """XGBoost with exact splits on one thread: the same rows give the same trees."""
    import xgboost

    return xgboost.XGBClassifier(
        n_estimators=recipe.trees,
        max_depth=recipe.depth,
        learning_rate=recipe.rate,
        min_child_weight=5.0,
        tree_method="exact",
        base_score=0.5,
        n_jobs=1,
        random_state=recipe.seed,
    )


def raw_scores(model: Any, rows: Matrix) -> Floats:
    """The library's own probabilities, shape (n,), float64."""
    return np.asarray(model.predict_proba(rows)[:, 1], dtype=np.float64)


def darkened(service: FeatureService, rows: Matrix, seed: int) -> Matrix:
    """Copy rows, and take every stored feature away from a few of them."""
    copy = rows.copy()
    is_dark = np.random.default_rng(seed).random(len(copy)) < _DARK_SHARE
    known = {name for name in service.raw if name.startswith("request:")}
    stored = _depends_on_store(service, known)
    copy[np.ix_(is_dark, stored)] = np.nan
    return copy


def _depends_on_store(service: FeatureService, request: set[str]) -> Bools:
    """Mark the inputs that are unknown when only the request's own values are known."""
    one = {name: np.array([1.0 if name in request else np.nan]) for name in service.raw}
    return np.asarray(np.isnan(service.derive(one)[0]), dtype=bool)


def describe(data: Dataset, parts: Split, recipe: Recipe) -> dict[str, Any]:
    """Say, for the manifest, what the challenger was trained on."""
    spans = {
        name: [_day(data.event_ms[part][0]), _day(data.event_ms[part][-1])]
        for name, part in (
            ("train", parts.train),
            ("validation", parts.validation),
            ("test", parts.test),
        )
    }
    return {
        "data": "labelled payments of the feature store",
        **{f"{name}_days": span for name, span in spans.items()},
        "train_rows": int(parts.train.sum()),
        "train_frauds_known": int(data.is_fraud[parts.train].sum()),
        "rows_by_label": data.counts,
        **asdict(recipe),
    }


def _day(at_ms: int) -> str:
    return str(np.datetime64(int(at_ms) // DAY_MS, "D"))
