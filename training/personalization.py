"""Train and release the relevance and conversion models: `python -m training.personalization`.

Relevance: will this user buy this item within seven days. Conversion: will this session still end
in a purchase. Both read `personalization_v1` at the moment of a view.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from libs.common.features.item_windows import ItemEvents, ItemRequests, personalization_columns
from libs.common.features.personalization import PERSONALIZATION_V1
from libs.common.features.windows import DAY_MS, NULL_CODE, PURCHASE, VIEW
from training import quality
from training.generators import draws
from training.generators.sessions import (
    GENERATOR_VERSION,
    ITEMS_PER_CATEGORY,
    Sessions,
    generate,
    item_prices,
)
from training.mlflow_registry import record
from training.packaging import Matrix, release

# 2025-01-01T00:00:00Z
START_MS = 1_735_689_600_000
HORIZON_MS = 7 * DAY_MS
_BLANK = 91
_BLANK_SHARE = 0.12
Task = Literal["relevance", "conversion"]
TASKS: tuple[Task, ...] = ("relevance", "conversion")
_LABELS = {"relevance": ("not_bought", "bought"), "conversion": ("leaves", "converts")}


@dataclass(frozen=True, slots=True)
class Plan:
    """Size and time split of the run, days counted from the start.

    Train and test are seven days apart, so that no label of train reaches into test.
    """

    seed: int = 7
    users: int = 4_000
    days: int = 120
    train: tuple[int, int] = (31, 80)
    test: tuple[int, int] = (87, 113)
    trees: int = 60
    depth: int = 3
    rate: float = 0.2


@dataclass(frozen=True)
class Moments:
    """Requests with model inputs and both labels, rows in the same order."""

    rows: Matrix
    day: quality.Ints
    labels: dict[Task, NDArray[np.bool_]]
    is_viewed: NDArray[np.bool_]


def moments(plan: Plan) -> Moments:
    """Ask at one view in three, for the viewed item and for one other item."""
    events = generate(plan.seed, plan.users, plan.days, START_MS)
    keys = draws.key(plan.seed, _BLANK, events.session, events.event_ms)
    chosen = np.flatnonzero((events.kind == VIEW) & (draws.uniform(keys, 0) < 1 / 3))
    prices = item_prices(plan.seed)
    other = _other_items(events, chosen, draws.uniform(keys[chosen], 1))
    item = np.concatenate([events.item[chosen], other])
    both = np.concatenate([chosen, chosen])
    is_viewed = np.arange(len(both)) < len(chosen)
    asked = events.select(both)
    request = ItemRequests(
        request_ms=asked.event_ms,
        user=asked.user,
        item=item,
        session=_blank(asked.session, keys[both], 2),
        category=_blank(item // ITEMS_PER_CATEGORY, keys[both], 3),
        price_minor=_blank(prices[item], keys[both], 4),
    )
    history = ItemEvents(
        event_ms=events.event_ms,
        user=events.user,
        item=events.item,
        kind=events.kind,
        session=events.session,
        category=events.category,
        price_minor=events.price_minor,
    )
    rows = PERSONALIZATION_V1.derive(personalization_columns(history, request)).astype(np.float32)
    return Moments(
        rows=rows,
        day=(asked.event_ms - START_MS) // DAY_MS,
        labels={
            "relevance": _bought_soon(events, asked, item),
            "conversion": _converts(events, asked),
        },
        is_viewed=is_viewed,
    )


def _blank(values: quality.Ints, keys: draws.Keys, stream: int) -> quality.Ints:
    """Leave out an optional request field at random, so that missing means unknown."""
    return np.where(draws.uniform(keys, stream) < _BLANK_SHARE, NULL_CODE, values)


def _other_items(events: Sessions, chosen: quality.Ints, draw: quality.Floats) -> quality.Ints:
    """Items that others view: the item of a random event, popular ones more often."""
    return events.item[(draw * len(events)).astype(np.int64)]


def _bought_soon(events: Sessions, asked: Sessions, item: quality.Ints) -> NDArray[np.bool_]:
    """Whether the user buys the item after the request, within the horizon."""
    bought = events.select(events.kind == PURCHASE)
    stride = int(events.event_ms.max() - START_MS) + HORIZON_MS + 1
    items = int(events.item.max()) + 1
    known = np.sort((bought.user * items + bought.item) * stride + bought.event_ms - START_MS)
    now = (asked.user * items + item) * stride + asked.event_ms - START_MS
    after = np.searchsorted(known, now, side="right")
    return np.searchsorted(known, now + HORIZON_MS, side="right") > after


def _converts(events: Sessions, asked: Sessions) -> NDArray[np.bool_]:
    """Whether the session has a purchase after the request."""
    bought = events.select(events.kind == PURCHASE)
    sessions = np.unique(events.session)
    last = np.zeros(len(sessions), dtype=np.int64)
    np.maximum.at(last, np.searchsorted(sessions, bought.session), bought.event_ms)
    place = np.searchsorted(sessions, asked.session)
    return last[place] > asked.event_ms


def fit(plan: Plan, rows: Matrix, labels: NDArray[np.bool_]) -> Any:
    """Fit a small XGBoost classifier with exact splits and no class weighting."""
    import xgboost

    model = xgboost.XGBClassifier(
        n_estimators=plan.trees,
        max_depth=plan.depth,
        learning_rate=plan.rate,
        min_child_weight=5.0,
        tree_method="exact",
        base_score=0.5,
        n_jobs=1,
        random_state=plan.seed,
    )
    return model.fit(rows, labels.astype(np.int8))


def train_one(task: Task, plan: Plan, data: Moments, directory: Path) -> dict[str, Any]:
    """Fit, test and release one of the two models; returns its metrics."""
    # A session converts or not whatever other item is asked about; one row per moment suffices.
    usable = data.is_viewed if task == "conversion" else np.ones(len(data.day), dtype=bool)
    train = usable & (data.day >= plan.train[0]) & (data.day < plan.train[1])
    test = usable & (data.day >= plan.test[0]) & (data.day < plan.test[1])
    labels = data.labels[task]
    model = fit(plan, data.rows[train], labels[train])
    scores = model.predict_proba(data.rows[test])[:, 1].astype(np.float64)
    metrics: dict[str, Any] = {
        "rows": int(test.sum()),
        "positives": int(labels[test].sum()),
        "base_rate": float(labels[test].mean()),
        **quality.ranking(labels[test], scores),
        **quality.calibration(labels[test], scores),
        "at_top_tenth": quality.at_threshold(
            labels[test], scores, quality.threshold_for_share(scores, 0.1)
        ),
        "reliability": [asdict(b) for b in quality.reliability(labels[test], scores)],
    }
    training = {
        "data": "training.generators.sessions",
        "generator_version": GENERATOR_VERSION,
        "start_ms": START_MS,
        "train_rows": int(train.sum()),
        "train_positives": int(labels[train].sum()),
        **asdict(plan),
    }
    order = np.argsort(scores, kind="stable")
    places = (np.array([0.0, 0.5, 0.9, 0.99, 1.0]) * (len(order) - 1)).astype(int)
    negative, positive = _LABELS[task]
    manifest = release(
        directory / task / "1",
        model,
        PERSONALIZATION_V1,
        task=task,
        labels=(negative, positive),
        test_rows=data.rows[test],
        reference_rows=data.rows[train],
        golden_rows=data.rows[test][order[places]],
        thresholds={"high": metrics["at_top_tenth"]["threshold"]},
        training=training,
        metrics=metrics,
        card=_card(task, training, metrics),
    )
    return manifest.metrics


_MEANING = {
    "relevance": "Probability that the user buys the item within seven days of the request.",
    "conversion": "Probability that the session still ends in a purchase.",
}


def _card(task: Task, training: dict[str, Any], metrics: dict[str, Any]) -> str:
    top = metrics["at_top_tenth"]
    return f"""# Model card: {task}, version 1

{_MEANING[task]} XGBoost, {training["trees"]} trees of depth {training["depth"]}, exact splits, no
class weighting: the raw score is the probability.

**Data.** Our own session generator (`training/generators/sessions.py`, version
{training["generator_version"]}, seed {training["seed"]}), {training["users"]} users,
{training["days"]} days. Train days {training["train"][0]}-{training["train"][1] - 1}
({training["train_rows"]} rows, {training["train_positives"]} positive), test days
{training["test"][0]}-{training["test"][1] - 1}. Session, category and price were left out of 12 %
of requests each, so a missing value means unknown.

| test rows | positive | AUC ROC | average precision | ECE | log loss |
|---|---|---|---|---|---|
| {metrics["rows"]} | {metrics["positives"]} | {metrics["auc_roc"]:.4f} | \
{metrics["average_precision"]:.4f} | {metrics["ece"]:.4f} | {metrics["log_loss"]:.4f} |

The top tenth of the scores: recall {top["recall"]:.3f}, false-positive rate
{top["false_positive_rate"]:.4f}, precision {top["precision"]:.3f}.

**Limits.** Generated sessions only; a shop must retrain on its own events. No item content is
read, so a new item is known by its price and category alone. On outside data the methods are
measured in `docs/benchmarks/personalization.md`; this file does not repeat those figures.
"""


def main() -> None:
    """Read the command line and train both models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models"))
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    plan = Plan(seed=arguments.seed)
    console = Console()
    with Progress(console=console) as progress:
        steps = progress.add_task("sessions and features", total=3)
        data = moments(plan)
        progress.advance(steps)
        for task in TASKS:
            progress.update(steps, description=task)
            metrics = train_one(task, plan, data, arguments.out)
            progress.advance(steps)
            shown = {key: value for key, value in metrics.items() if key != "reliability"}
            console.print_json(data={task: shown})
    for task in TASKS:
        record(arguments.out / task / "1")


if __name__ == "__main__":
    main()
