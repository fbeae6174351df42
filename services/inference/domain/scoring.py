"""From a probability to a decision that explains itself; pure.

risk_level comes from three thresholds of the model's manifest, recommended_action from the level:
low approve, medium review, high challenge, critical decline. `confidence` is the probability, by
the calibrated model, that the likelier of the two classes is the true one: max(p, 1 - p).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from libs.common.features.contract import Feature, FeatureService

RiskLevel = Literal["low", "medium", "high", "critical"]
Action = Literal["approve", "review", "challenge", "decline"]
_ACTIONS: dict[RiskLevel, Action] = {
    "low": "approve",
    "medium": "review",
    "high": "challenge",
    "critical": "decline",
}
TOP_FACTORS_MAX = 3
# Contributions below this (margin space, about a 1 % change of the odds) are no reason to act.
_NOTABLE_MARGIN = 0.01


@dataclass(frozen=True, slots=True)
class RiskBands:
    """Probability from which each action is taken; 0 < review <= challenge <= decline <= 1."""

    review: float
    challenge: float
    decline: float

    @classmethod
    def from_manifest(cls, thresholds: Mapping[str, float]) -> "RiskBands":
        """Read the bands.

        Raises:
            ValueError: one is missing or they do not rise.
        """
        missing = [name for name in ("review", "challenge", "decline") if name not in thresholds]
        if missing:
            raise ValueError(f"thresholds lack {', '.join(missing)}")
        bands = cls(thresholds["review"], thresholds["challenge"], thresholds["decline"])
        if not 0 < bands.review <= bands.challenge <= bands.decline <= 1:
            raise ValueError("thresholds must rise: 0 < review <= challenge <= decline <= 1")
        return bands

    def level(self, probability: float) -> RiskLevel:
        """Name the band that a probability falls into."""
        if probability >= self.decline:
            return "critical"
        if probability >= self.challenge:
            return "high"
        return "medium" if probability >= self.review else "low"


@dataclass(frozen=True, slots=True)
class Grouping:
    """Explanation groups of a feature service: names, positions, each feature's group number."""

    features: tuple[Feature, ...]
    names: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]
    index: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class GroupContribution:
    """What one group of features added to the margin.

    Attributes:
        features: all features of the model; `positions` are those of the group.
        values / added: what the model read, and the contributions, for all features.
    """

    group: str
    contribution: float
    positions: Sequence[int]
    features: Sequence[Feature]
    values: Sequence[float]
    added: Sequence[float]

    @property
    def members(self) -> list[tuple[Feature, float, float]]:
        """Feature, value and contribution of each member."""
        return [(self.features[at], self.values[at], self.added[at]) for at in self.positions]

    @property
    def strongest(self) -> tuple[Feature, float]:
        """The member that moved the score most in the group's direction, and its value."""
        choose = max if self.contribution >= 0 else min
        at = choose(self.positions, key=self.added.__getitem__)
        return self.features[at], self.values[at]


def confidence_of(probability: float) -> float:
    """Probability that the likelier class is the true one, 0.5 to 1."""
    return max(probability, 1.0 - probability)


def action_for(level: RiskLevel, amount: float, *, is_blind: bool, review_amount: float) -> Action:
    """Recommend an action.

    Args:
        level: risk band of the score.
        amount: amount of the payment, major units.
        is_blind: no stored feature could be read, so the score knows the request only.
        review_amount: from here on a blind score never simply approves.
    """
    if is_blind and level == "low" and amount >= review_amount:
        return "review"
    return _ACTIONS[level]


def group_contributions(
    grouping: Grouping, row: NDArray[np.float32], contributions: NDArray[np.float64]
) -> list[GroupContribution]:
    """Sum contributions by group, largest rise of the score first.

    Args:
        grouping: groups of the features that the row holds.
        row: shape (features,), what the model read.
        contributions: shape (features,), margin space.
    """
    values, added = row.tolist(), contributions.tolist()
    sums = np.bincount(grouping.index, contributions, minlength=len(grouping.names)).tolist()
    groups = [
        GroupContribution(name, total, positions, grouping.features, values, added)
        for name, total, positions in zip(grouping.names, sums, grouping.positions, strict=True)
    ]
    groups.sort(key=lambda group: group.contribution, reverse=True)
    return groups


def grouping_of(service: FeatureService) -> Grouping:
    """Lay out the groups of a service, once per loaded model."""
    names = list(service.groups)
    index = [names.index(feature.group) for feature in service.features]
    positions = [
        tuple(at for at, group in enumerate(index) if group == number)
        for number in range(len(names))
    ]
    return Grouping(service.features, tuple(names), tuple(positions), np.array(index, np.intp))


def top_factors(groups: Sequence[GroupContribution]) -> list[str]:
    """Name the groups that raised the score notably, strongest first."""
    raised = [group.group for group in groups if group.contribution > _NOTABLE_MARGIN]
    return raised[:TOP_FACTORS_MAX]


def sentence(
    level: RiskLevel,
    probability: float,
    groups: Sequence[GroupContribution],
    *,
    missing: Sequence[str],
    is_blind: bool,
) -> str:
    """Say in words, for a fraud analyst, what moved the score.

    Args:
        level: risk band.
        probability: the score.
        groups: contributions, largest rise first; empty when the model cannot be explained.
        missing: raw features without a value, as `view:name`.
        is_blind: no stored feature could be read.
    """
    parts = [f"{level.capitalize()} risk, fraud probability {_percent(probability)}."]
    raised = [group for group in groups if group.contribution > _NOTABLE_MARGIN][:2]
    lowered = [group for group in reversed(groups) if group.contribution < -_NOTABLE_MARGIN][:2]
    if raised:
        parts.append(f"Raised by {_list(raised)}.")
    if lowered:
        parts.append(f"Lowered by {_list(lowered)}.")
    if groups and not (raised or lowered):
        parts.append("Nothing about this payment stands out.")
    if is_blind:
        parts.append("Stored features could not be read; the score rests on the request alone.")
    else:
        views = sorted({name.partition(":")[0] for name in missing})
        if views:
            parts.append(f"Some values are unknown for: {', '.join(views)}.")
    return " ".join(parts)


def _list(groups: Sequence[GroupContribution]) -> str:
    named = []
    for group in groups:
        feature, value = group.strongest
        shown = "unknown" if value != value else _number(value)
        named.append(f"{group.group.replace('_', ' ')} ({feature.label}: {shown})")
    return " and ".join(named)


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"


def _percent(probability: float) -> str:
    percent = probability * 100
    if percent < 0.1:
        return "below 0.1 %"
    return "above 99.9 %" if percent > 99.9 else f"{percent:.1f} %"
