"""Drift of a model's inputs and score against its training, as inference tells it.

Events carry no values of single features, so inference compares its newest rows with the tenths of
the training data and tells what it found (`model.drift`): the population stability index less its
expectation without drift, and the distance of the distribution functions. The newest of a version
counts. This module reads the event and says how sure the finding is.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from services.analytics.domain.drift import (
    SAMPLES_MIN,
    Drift,
    chi_square_tail,
    corrected,
    ks_tail,
    verdict_of,
)

EVENT_TYPE = "model.drift"
Kind = Literal["input", "score"]
# Ten bins and one of missing values; fewer where values are shared.
_BINS_MAX = 11
NAME_CHARS_MAX = 200
# More than a model has inputs; a longer event is cut.
TOLD_MAX = 200


@dataclass(frozen=True, slots=True)
class Told:
    """One distribution: `effect` is PSI over `bins` less chance, `ks` that of `known` values."""

    kind: Kind
    name: str
    effect: float
    ks: float
    known: int
    bins: int


@dataclass(frozen=True, slots=True)
class ModelDrift:
    """What inference found about one version at `at`.

    Attributes:
        n, m: rows compared, and rows of the reference.
        compared: distributions that were looked at, those that are not told included.
    """

    model: str
    version: str
    release: str
    at: datetime
    n: int
    m: int
    compared: int
    told: tuple[Told, ...]


def read_event(data: Mapping[str, Any], at: datetime) -> ModelDrift | None:
    """Read the data of a `model.drift` event; None when its sizes or the model are unusable."""
    names = [_text(data.get(key)) for key in ("model", "version", "release")]
    n, m = _whole(data.get("rows_compared")), _whole(data.get("reference_rows"))
    if not names[0] or not n or not m:
        return None
    told = [*_score(data, n), *_inputs(data, n)][:TOLD_MAX]
    compared = max(len(told), 1 + (_whole(data.get("inputs_compared")) or 0))
    return ModelDrift(names[0], names[1], names[2], at, n, m, compared, tuple(told))


def _score(data: Mapping[str, Any], n: int) -> Iterable[Told]:
    effect, ks = _share(data.get("score_psi")), _share(data.get("score_ks"))
    if effect is not None and ks is not None:
        yield Told("score", "score", effect, min(1.0, ks), n, _bins(data.get("score_bins")))


def _inputs(data: Mapping[str, Any], n: int) -> Iterable[Told]:
    keys = ("input_psi", "input_ks", "input_known", "input_bins")
    found = (data.get(key) for key in keys)
    effects, distances, known, bins = (one if isinstance(one, dict) else {} for one in found)
    for name, value in effects.items():
        effect, ks = _share(value), _share(distances.get(name))
        if effect is not None and ks is not None:
            rows = _whole(known.get(name))
            rows = n if rows is None else min(n, rows)
            yield Told("input", _text(name), effect, min(1.0, ks), rows, _bins(bins.get(name)))


def judge(found: Iterable[ModelDrift]) -> list[list[Drift]]:
    """Say how sure each told distribution is, in order; p corrected over all that were compared.

    The index has its expectation taken off and is cut at 0, so `p` of what did not move is the
    chance of an index at its expectation, about 0.4. Without enough rows on a side nothing is said.
    """
    answers = list(found)
    drifts = [[_drift(one, told) for told in one.told] for one in answers]
    flat = [drift for of_version in drifts for drift in of_version]
    untold = sum(one.compared for one in answers) - len(flat)
    p_values = corrected([drift.p for drift in flat] + [1.0] * untold)
    ks_p_values = corrected([_or_one(drift.ks_p) for drift in flat] + [1.0] * untold)
    judged = iter(
        [
            Drift(
                drift.psi, drift.effect, p, drift.ks, None if drift.ks_p is None else ks_p,
                drift.n, drift.m,
                drift.verdict
                if drift.verdict == "insufficient_data"
                else verdict_of(p, drift.effect),
            )
            for drift, p, ks_p in zip(flat, p_values, ks_p_values, strict=False)
        ]
    )  # fmt: skip
    return [[next(judged) for _ in of_version] for of_version in drifts]


def _drift(one: ModelDrift, told: Told) -> Drift:
    spread = 1 / one.n + 1 / one.m
    degrees = told.bins - 1
    psi = told.effect + degrees * spread
    if min(one.n, one.m) < SAMPLES_MIN:
        return Drift(psi, told.effect, 1.0, told.ks, None, one.n, one.m, "insufficient_data")
    p = chi_square_tail(psi / spread, degrees)
    ks_p = ks_tail(told.ks, told.known, one.m) if told.known >= SAMPLES_MIN else None
    verdict = verdict_of(p, told.effect)
    return Drift(psi, told.effect, p, told.ks, ks_p, one.n, one.m, verdict)


def _or_one(p: float | None) -> float:
    return 1.0 if p is None else p


def _text(value: Any) -> str:
    # PostgreSQL text cannot hold NUL.
    return "" if value is None else str(value).replace("\0", "")[:NAME_CHARS_MAX]


def _whole(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 62 else None


def _bins(value: Any) -> int:
    return min(_BINS_MAX, max(2, _whole(value) or _BINS_MAX))


def _share(value: Any) -> float | None:
    """Give a finite number that is not negative."""
    if type(value) not in (int, float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)
