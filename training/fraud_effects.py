"""What missing, stale, cold and wrongly converted inputs cost: `python -m training.fraud_effects`.

Scores the test days of the production fraud model again under each circumstance and writes
`docs/benchmarks/fraud_production.md`. All frauds of the test days are taken and one genuine payment
in ten, which then weighs ten. Windows as of an earlier moment, and other amounts, are evaluated row
by row by the code that serves.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markdown import Markdown

from libs.common.features.contract import FloatArray
from libs.common.features.fraud import FRAUD_V2
from libs.common.features.layout import VIEWS, Past, Ring, code_of, country_code
from libs.common.features.rows import Events, card_row, merchant_row
from libs.common.features.windows import NULL_CODE
from libs.common.manifest import Manifest, load_manifest
from services.inference.domain.calibration import Calibration
from services.inference.domain.currency import BUILT_IN
from training.benchmarks.report import machine, table, write_section
from training.fraud import START_MS, Plan, raw_columns, request_codes
from training.generators.payments import DAY_MS, HOUR_MS
from training.generators.transactions import Transactions, device_id, generate
from training.generators.world import COUNTRIES
from training.packaging import onnx_scores
from training.quality import Bools, Floats, Ints
from training.retrain.evaluate import WeightedMeasures

_GENUINE_WEIGHT = 10
# What is paid with in the generator's countries; its amounts are in the base currency.
_CURRENCY = dict(
    zip(
        COUNTRIES,
        ("USD", "GBP", "EUR", "EUR", "EUR", "EUR", "EUR", "PLN", "CAD", "BRL", "JPY", "AUD"),
        strict=True,
    )
)
Columns = dict[str, FloatArray]


@dataclass(frozen=True)
class World:
    """The test rows and everything that happened before them.

    Attributes:
        payments: the whole history.
        chosen: positions of the sampled test rows.
        weights: shape (len(chosen),).
    """

    payments: Transactions
    chosen: NDArray[np.intp]
    weights: Floats

    @property
    def labels(self) -> Bools:
        """What was reported of the sampled rows."""
        return self.payments.is_fraud[self.chosen]


@dataclass(frozen=True)
class Model:
    """The released version."""

    directory: Path
    manifest: Manifest

    def scores(self, columns: Columns) -> Floats:
        """Calibrated probabilities of raw columns."""
        rows = FRAUD_V2.derive(columns).astype(np.float32)
        calibration = Calibration.from_manifest(self.manifest.calibration)
        return calibration.apply(onnx_scores(self.directory / "model.onnx", rows))


def build(manifest: Manifest) -> World:
    """Generate the payments that the model was tested on, from its manifest's own numbers."""
    plan = Plan()
    training = manifest.training
    payments = generate(
        training["seed"], training["cards"], training["merchants"], plan.test[1], START_MS
    )
    day = (payments.event_ms - START_MS) // DAY_MS
    is_test = (day >= training["test"][0]) & (day < training["test"][1])
    is_taken = payments.is_fraud | (payments.key % np.uint64(_GENUINE_WEIGHT) == 0)
    chosen = np.flatnonzero(is_test & is_taken)
    weights = np.where(payments.is_fraud[chosen], 1.0, float(_GENUINE_WEIGHT))
    return World(payments, chosen, weights)


def circumstances(world: World) -> Iterator[tuple[str, Columns]]:
    """Give each circumstance in words with the raw columns that serving would see."""
    codes = request_codes(world.payments)
    full = _at(raw_columns(world.payments, dict(codes)), world.chosen)
    yield "everything known", full
    nothing = np.full(len(world.payments), NULL_CODE, dtype=np.int64)
    for words, hidden in (
        ("the request names no shop", ("merchant",)),
        ("the request names no category", ("mcc",)),
        ("the request names no country", ("country",)),
        ("the request names no device", ("device",)),
        ("the request names card and amount alone", ("merchant", "mcc", "country", "device")),
    ):
        shown = {name: nothing if name in hidden else values for name, values in codes.items()}
        yield words, _at(raw_columns(world.payments, shown), world.chosen)
    for words, views in (
        ("the card's features are missing", ("card:",)),
        ("the shop's features are missing", ("merchant:",)),
        ("the shop's reported frauds are missing", ("merchant_risk:",)),
        ("the store is down: nothing stored", ("card:", "merchant:", "merchant_risk:")),
    ):
        yield (
            words,
            {
                name: np.full(len(values), np.nan) if name.startswith(views) else values
                for name, values in full.items()
            },
        )
    again = Again(world)
    yield "the card is new: no earlier payment", again.columns(full, forgets=("card",))
    without_reports = {
        name: np.full(len(values), 0.0 if "count" in name else np.nan)
        for name, values in full.items()
        if name.startswith("merchant_risk:")
    }
    new_shop = again.columns(full, forgets=("merchant",))
    yield "the shop is new: no earlier payment", {**new_shop, **without_reports}
    for words, age_ms in (
        ("history ends 1 hour before the payment", HOUR_MS),
        ("history ends 1 day before the payment", DAY_MS),
        ("history ends 7 days before the payment", 7 * DAY_MS),
    ):
        yield words, again.columns(full, age_ms=age_ms)
    for words, factor in (
        ("rates 5 % off", 1.05),
        ("rates 20 % off", 1.20),
        ("foreign amounts not converted at all", None),
    ):
        yield words, again.columns(full, amounts=_misread(world, factor))


def _at(columns: Columns, chosen: NDArray[np.intp]) -> Columns:
    return {name: values[chosen] for name, values in columns.items()}


def _misread(world: World, factor: float | None) -> Ints:
    """Amounts of the sampled payments with wrong rates; None reads the foreign figure as base."""
    country = world.payments.country[world.chosen]
    rate = np.array([BUILT_IN.rates.get(_CURRENCY[name], 1.0) for name in COUNTRIES])[country]
    is_foreign = np.array([_CURRENCY[name] != BUILT_IN.base for name in COUNTRIES])[country]
    wrong = np.where(is_foreign, 1.0 / rate if factor is None else factor, 1.0)
    amount = world.payments.amount_minor[world.chosen]
    return np.rint(amount * wrong).astype(np.int64)


class Again:
    """Evaluates sampled rows by the code that serves, over another history or another amount."""

    def __init__(self, world: World) -> None:
        payments = world.payments
        self._world = world
        self._shops = _coded(payments.merchant, lambda number: f"merchant_{number:05d}")
        self._devices = _coded(payments.device, device_id)
        countries = np.array([country_code(name) for name in COUNTRIES])
        view = VIEWS["card"]
        self._cards = np.zeros(len(payments), view.dtype)
        for name, values in (
            ("event_ms", payments.event_ms),
            ("value", payments.amount_minor),
            ("mcc", payments.mcc),
            ("country", countries[payments.country]),
            ("merchant", self._shops),
            ("device", self._devices),
        ):
            self._cards[name] = values
        self._shop_records = np.zeros(len(payments), VIEWS["merchant"].dtype)
        self._shop_records["event_ms"] = payments.event_ms
        self._shop_records["value"] = payments.amount_minor
        self._of_card = _Histories(payments.card, self._cards)
        self._of_shop = _Histories(payments.merchant, self._shop_records)

    def columns(
        self,
        full: Columns,
        *,
        age_ms: int = 0,
        amounts: Ints | None = None,
        forgets: Sequence[str] = (),
    ) -> Columns:
        """Replace the columns that history or amount change.

        Args:
            full: what is known otherwise.
            age_ms: histories end so long before the payment.
            amounts: minor units instead of the true ones.
            forgets: `card`, `merchant`: entities without any history.
        """
        payments, chosen = self._world.payments, self._world.chosen
        paid = payments.amount_minor[chosen] if amounts is None else amounts
        rows = []
        for row, amount in zip(chosen.tolist(), paid.tolist(), strict=True):
            now_ms = int(payments.event_ms[row])
            values = {
                "mcc_code": f"{int(payments.mcc[row]):04d}",
                "country_code": COUNTRIES[int(payments.country[row])],
                "merchant": f"merchant_{int(payments.merchant[row]):05d}",
                "device_id": device_id(int(payments.device[row])),
            }
            until_ms = now_ms - age_ms
            card = None if "card" in forgets else self._of_card.before(row, until_ms)
            shop = None if "merchant" in forgets else self._of_shop.before(row, until_ms)
            found = card_row(Events(card, now_ms), amount, values)
            rows.append({**found, **merchant_row(Events(shop, now_ms), amount)})
        changed = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        known = {name: values for name, values in changed.items() if name in full}
        return {**full, **known, "request:amount": paid / 100.0}


class _Histories:
    """Payments laid out entity by entity, in order of time, so that a history is a view."""

    def __init__(self, entity: Ints, records: NDArray[np.void]) -> None:
        order = np.argsort(entity, kind="stable")
        arranged = entity[order]
        self._records = records[order]
        self._times = np.ascontiguousarray(self._records["event_ms"])
        self._place = np.empty(len(order), dtype=np.int64)
        self._place[order] = np.arange(len(order))
        self._first = np.searchsorted(arranged, entity)

    def before(self, row: int, until_ms: int) -> Ring | None:
        """Give the ring of the row's entity as it was before the row, up to a time."""
        first, place = int(self._first[row]), int(self._place[row])
        end = first + int(np.searchsorted(self._times[first:place], until_ms, side="right"))
        if end == first:
            return None
        return Ring(int(self._times[end - 1]), 0, 0, Past(), self._records[first:end])


def _coded(numbers: Ints, name: Callable[[int], str | None]) -> Ints:
    known, place = np.unique(numbers, return_inverse=True)
    return np.array([code_of(name(int(number))) for number in known], dtype=np.int64)[place]


def slices(world: World, full: Columns) -> Iterator[tuple[str, Bools]]:
    """Rows about which little is known, in words."""
    earlier = full["card:count_30d"] - 1
    yield "all", np.ones(len(earlier), dtype=bool)
    yield "the card never paid before", np.isnan(full["card:seconds_since_last"])
    yield "1 to 3 earlier payments of the card in 30 days", (earlier >= 1) & (earlier <= 3)
    yield "more than 20 earlier payments of the card in 30 days", earlier > 20
    yield "the shop had no payment in 30 days", full["merchant:count_30d"] == 1
    yield "the shop has no reported history", np.isnan(full["merchant_risk:fraud_rate_30d"])


def run(directory: Path, out: Path) -> None:
    """Measure every circumstance and write the page."""
    model = Model(directory, load_manifest(directory))
    world = build(model.manifest)
    review = model.manifest.thresholds["review"]
    lines, first, full = [], None, None
    for words, columns in circumstances(world):
        scores = model.scores(columns)
        if first is None:
            first, full = scores, columns
        lines.append(_line(words, world, scores, review))
    assert first is not None
    assert full is not None
    cold = []
    for words, mask in slices(world, full):
        part = World(world.payments, world.chosen[mask], world.weights[mask])
        frauds = int(part.labels.sum())
        rows = str(int(part.weights.sum()))
        if frauds:
            cold.append([words, rows, str(frauds), *_line(words, part, first[mask], review)[1:]])
        else:
            cold.append([words, rows, "0", "", "", ""])
    write_section(out, "fraud_effects", _page(model, world, lines, cold))
    Console().print(Markdown(_page(model, world, lines, cold)))


def _line(words: str, world: World, scores: Floats, review: float) -> list[str]:
    """Average precision, recall of fraud and flagged share of genuine payments at review."""
    labels = world.labels
    found = WeightedMeasures(labels, scores, review).at(world.weights)
    flagged = float((scores[~labels] >= review).mean()) if (~labels).any() else float("nan")
    return [
        words,
        f"{found['average_precision']:.3f}",
        f"{found['recall_at_review']:.3f}",
        f"{flagged:.4f}",
    ]


def _page(model: Model, world: World, lines: list[Any], cold: list[Any]) -> str:
    name = f"{model.manifest.name} {model.manifest.version}"
    columns = ("average precision", "recall of fraud at review", "genuine flagged at review")
    return f"""# What missing, stale, cold and wrongly converted inputs cost

`python -m training.fraud_effects` wrote this page; it needs no outside data.
Run: {machine(("xgboost-cpu", "numpy"))}.

Model {name} (`{model.directory.as_posix()}`), the test days of its card, {len(world.chosen)} rows
scored: every fraud ({int(world.labels.sum())}) and one genuine payment in {_GENUINE_WEIGHT}, which
weighs {_GENUINE_WEIGHT}. Generated payments: the order of the effects carries over to real traffic
better than their size.

{table(("circumstance", *columns), lines)}

What is missing is named in the answer (`features_missing`, `degraded_reasons`, the reason codes of
[`scoring.md`](../scoring.md)). That a history ends early is told by `feature_freshness_sec`, which
is the age of the newest event, and by `features_stale` only past a view's bound (30 days): keep the
ingestion's lag on watch, an hour of it costs a third of the ranking. A wrong rate is told by
nothing but the date in `converted_amount`. Rates are those of the built-in table; payments in the
base currency are untouched by them.

"The card is new" takes every card's history away: a new card's features are known to be empty,
which is not the same as missing. Without a history the model ranks poorly, and a rule for first
payments is the better guard there (`card_without_history` is the code to hang it on). Rows of the
test days about which little is known, scored with everything there is; no generated card is misused
in its first three days, hence the empty cells:

{table(("rows", "payments", "frauds", *columns), cold)}
"""


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/fraud/2"))
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/fraud_production.md"))
    arguments = parser.parse_args()
    run(arguments.model, arguments.out)


if __name__ == "__main__":
    main()
