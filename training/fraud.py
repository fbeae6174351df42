"""Train and release the fraud model: `python -m training.fraud`.

Generate payments, compute `fraud_v2` at each payment as serving would, split by time with the
label delay, fit, choose calibration and thresholds on validation, test once, export, write
`models/fraud/2`. The same seed gives the same trees, byte for byte: one thread, exact splits.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from libs.common.features.contract import FeatureService, FloatArray
from libs.common.features.fraud import FRAUD_V2
from libs.common.features.windows import NULL_CODE, CardEvents, fraud_columns
from training import calibration, quality
from training.fraud_card import render_card
from training.generators import draws
from training.generators.frauds import SCENARIOS
from training.generators.payments import DAY_MS
from training.generators.transactions import GENERATOR_VERSION, NEVER_MS, Transactions, generate
from training.merchant_risk import merchant_risk_columns
from training.mlflow_registry import record
from training.packaging import Matrix, release

# 2025-01-01T00:00:00Z
START_MS = 1_735_689_600_000
_BLANK = 90
# Shares of training requests without one optional field, and without any stored feature.
_BLANK_SHARE, _NO_STORE_SHARE = 0.12, 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    """Size of the run and its time split, days counted from the start.

    Attributes:
        seed: of generator and booster.
        cards: how many.
        merchants: how many.
        train: first and last day + 1; windows fill before the first.
        fitted_on: day of the fit; only labels known by then are used.
        validation: days on which thresholds are chosen.
        test: days that are looked at once.
        trees: boosting rounds.
        depth: of each tree.
        rate: learning rate.
    """

    seed: int = 7
    cards: int = 5_000
    merchants: int = 20_000
    train: tuple[int, int] = (38, 111)
    fitted_on: int = 125
    validation: tuple[int, int] = (125, 153)
    test: tuple[int, int] = (153, 183)
    trees: int = 80
    depth: int = 4
    rate: float = 0.2


@dataclass(frozen=True)
class Prepared:
    """Payments with their model inputs, rows in the same order."""

    payments: Transactions
    rows: Matrix
    day: quality.Ints

    def within(self, days: tuple[int, int]) -> NDArray[np.bool_]:
        """Mark the payments of a span of days."""
        return (self.day >= days[0]) & (self.day < days[1])


def prepare(plan: Plan) -> Prepared:
    """Generate the payments and compute the matrix, optional request fields blanked at random."""
    days = plan.test[1]
    payments = generate(plan.seed, plan.cards, plan.merchants, days, START_MS)
    rows = feature_rows(payments, blank_seed=plan.seed)
    return Prepared(payments, rows, (payments.event_ms - START_MS) // DAY_MS)


def feature_rows(
    payments: Transactions,
    blank_seed: int | None = None,
    service: FeatureService = FRAUD_V2,
) -> Matrix:
    """Compute a fraud service at each payment, shape (n, k), float32.

    Args:
        payments: the whole history, in order of time.
        blank_seed: leaves out merchant, mcc, country, device of some requests, and all stored
            features of a few, so that the model learns what missing means; None leaves everything
            in.
        service: `fraud_v1` or `fraud_v2`.
    """
    shown = request_codes(payments)
    if blank_seed is not None:
        keys = draws.key(blank_seed, _BLANK, payments.key.view(np.int64))
        for stream, (name, values) in enumerate(shown.items()):
            is_blank = draws.uniform(keys, stream) < _BLANK_SHARE
            shown[name] = np.where(is_blank, NULL_CODE, values)
    columns = raw_columns(payments, shown)
    if blank_seed is not None:
        is_dark = draws.uniform(keys, 9) < _NO_STORE_SHARE
        for name in columns:
            if not name.startswith("request:"):
                columns[name] = np.where(is_dark, np.nan, columns[name])
    return service.derive(columns).astype(np.float32)


def request_codes(payments: Transactions) -> dict[str, quality.Ints]:
    """What a score request may carry besides card and amount, as codes."""
    return {
        "merchant": payments.merchant,
        "mcc": payments.mcc,
        "country": payments.country,
        "device": payments.device,
    }


def raw_columns(payments: Transactions, shown: dict[str, quality.Ints]) -> dict[str, FloatArray]:
    """Compute the raw columns of both services; `shown` is what the requests carry."""
    events = CardEvents(
        event_ms=payments.event_ms,
        card=payments.card,
        merchant=payments.merchant,
        amount_minor=payments.amount_minor,
        mcc=payments.mcc,
        country=payments.country,
        device=payments.device,
    )
    columns = fraud_columns(
        events,
        shown_merchant=shown["merchant"],
        shown_mcc=shown["mcc"],
        shown_country=shown["country"],
        shown_device=shown["device"],
    )
    is_hidden = shown["merchant"] == NULL_CODE
    return columns | merchant_risk_columns(payments, is_hidden=is_hidden)


def known_labels(payments: Transactions, at_ms: int) -> NDArray[np.bool_]:
    """Frauds reported by `at_ms`; what is not reported yet counts as genuine, as in production."""
    return payments.is_fraud & (payments.label_available_ms <= at_ms)


def fit(plan: Plan, rows: Matrix, labels: NDArray[np.bool_]) -> Any:
    """Fit XGBoost with exact splits, no class weighting, so that scores stay probabilities."""
    import xgboost

    model = xgboost.XGBClassifier(
        n_estimators=plan.trees,
        max_depth=plan.depth,
        learning_rate=plan.rate,
        min_child_weight=5.0,
        tree_method="exact",
        base_score=0.5,
        n_jobs=1,  # two threads are slower on a busy machine: they wait at a barrier per split
        random_state=plan.seed,
    )
    return model.fit(rows, labels.astype(np.int8))


def evaluate(data: Prepared, mask: NDArray[np.bool_], scores: quality.Floats) -> dict[str, Any]:
    """Measure ranking, calibration, cards found per day and recall by scenario."""
    payments = data.payments.select(mask)
    labels = payments.is_fraud
    cut = quality.threshold_for_share(scores, 0.005)
    recalls = {
        name: float((scores[payments.scenario == code] >= cut).mean())
        for code, name in enumerate(SCENARIOS)
        if code and (payments.scenario == code).any()
    }
    return {
        "rows": len(payments),
        "frauds": int(labels.sum()),
        "base_rate": float(labels.mean()),
        **quality.ranking(labels, scores),
        **quality.calibration(labels, scores),
        "card_precision_100": quality.card_precision(labels, scores, data.day[mask], payments.card),
        "recall_by_scenario_at_half_percent": recalls,
        "reliability": [asdict(b) for b in quality.reliability(labels, scores)],
    }


Predict = Callable[[Matrix], quality.Floats]


def blanked_effect(predict: Predict, data: Prepared, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Average precision on the test set when whole views are missing."""
    views = {
        "optional_request_fields": ("merchant", "mcc", "country", "device"),
        "device": ("device",),
        "card_view": ("card",),
        "merchant_view": ("merchant",),
        "merchant_fraud_history": ("merchant_fraud", "merchant_labelled"),
    }
    labels = data.payments.is_fraud[mask]
    effect: dict[str, Any] = {}
    for name, prefixes in views.items():
        rows = data.rows[mask].copy()
        for column, feature in enumerate(FRAUD_V2.names):
            if any(prefix in feature for prefix in prefixes):
                rows[:, column] = np.nan
        scores = predict(rows)
        effect[name] = quality.ranking(labels, scores)["average_precision"]
    return effect


def calibration_figures(
    data: Prepared, mask: NDArray[np.bool_], model: Any, choice: calibration.Choice
) -> dict[str, Any]:
    """What was chosen on validation, and the test figures before it."""
    labels, raw = data.payments.is_fraud[mask], raw_scores(model, data.rows[mask])
    return {
        "method": choice.document["method"],
        "validation_log_loss": choice.log_loss,
        "validation_gain": {name: list(pair) for name, pair in choice.gain.items()},
        "test_uncalibrated": quality.calibration(labels, raw),
        "reliability_uncalibrated": [asdict(b) for b in quality.reliability(labels, raw)],
    }


def raw_scores(model: Any, rows: Matrix) -> quality.Floats:
    """The library's own probabilities, shape (n,), float64."""
    return np.asarray(model.predict_proba(rows)[:, 1], dtype=np.float64)


def golden_rows(data: Prepared, mask: NDArray[np.bool_], scores: quality.Floats) -> Matrix:
    """Pick rows across the score range, one without any stored feature."""
    order = np.argsort(scores, kind="stable")
    places = np.unique((np.array([0.0, 0.5, 0.9, 0.99, 0.997, 1.0]) * (len(order) - 1)).astype(int))
    rows = data.rows[mask][order[places]]
    dark = rows[:1].copy()
    for column, feature in enumerate(FRAUD_V2.features):
        if feature.view in ("card", "merchant", "merchant_risk"):
            dark[:, column] = np.nan
    return np.concatenate([rows, dark])


def run(plan: Plan, directory: Path) -> dict[str, Any]:
    """Do the whole pipeline and write the version; returns the test metrics."""
    console = Console()
    with Progress(console=console) as progress:
        steps = progress.add_task("fraud model", total=4)
        data = prepare(plan)
        progress.advance(steps)
        train, validation = data.within(plan.train), data.within(plan.validation)
        labels = known_labels(data.payments, START_MS + plan.fitted_on * DAY_MS)
        model = fit(plan, data.rows[train], labels[train])
        progress.advance(steps)
        known = data.payments.is_fraud[validation]
        raw = raw_scores(model, data.rows[validation])
        choice = calibration.choose(known, raw, data.payments.card[validation])

        def predict(rows: Matrix) -> quality.Floats:
            return choice.calibration.apply(raw_scores(model, rows))

        thresholds = quality.decision_thresholds(known, predict(data.rows[validation]))
        test = data.within(plan.test)
        test_scores = predict(data.rows[test])
        metrics = evaluate(data, test, test_scores)
        metrics["calibration"] = calibration_figures(data, test, model, choice)
        metrics["at_thresholds"] = {
            name: quality.at_threshold(data.payments.is_fraud[test], test_scores, value)
            for name, value in thresholds.items()
        }
        metrics["average_precision_without"] = blanked_effect(predict, data, test)
        progress.advance(steps)
        unreported = int((data.payments.label_available_ms[train] == NEVER_MS).sum())
        training = {
            "data": "training.generators.transactions",
            "generator_version": GENERATOR_VERSION,
            "start_ms": START_MS,
            "train_rows": int(train.sum()),
            "train_frauds_known": int(labels[train].sum()),
            "train_frauds_never_reported": unreported,
            **asdict(plan),
        }
        manifest = release(
            directory,
            model,
            FRAUD_V2,
            task="fraud",
            labels=("genuine", "fraud"),
            test_rows=data.rows[test],
            reference_rows=data.rows[train],
            golden_rows=golden_rows(data, test, test_scores),
            thresholds=thresholds,
            training=training,
            metrics=metrics,
            card=render_card(training, metrics, thresholds),
            calibration=choice.document,
        )
        progress.advance(steps)
    console.print_json(data={key: manifest.metrics[key] for key in metrics if key != "reliability"})
    return manifest.metrics


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/fraud/2"))
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    run(Plan(seed=arguments.seed), arguments.out)
    record(arguments.out)


if __name__ == "__main__":
    main()
