"""Facts: the only numbers that a report may contain, computed before anybody writes prose.

Prose refers to them by placeholder: `{F1}`, `{F1.previous}`, `{F1.limit}`, `{F1.n}`; models go by
alias, `{M1}`. So neither a model's name nor any text of a user reaches the writer of the prose.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from services.analytics.domain.aggregate import Aggregate, ratio
from services.analytics.domain.thresholds import SEVERITIES, Breach, Severity, Thresholds, judge

Unit = Literal["requests", "ms", "share", "errors"]
FactStatus = Literal["ok", "breached", "insufficient_data"]
# Versions that get facts of their own, the busiest first.
MODELS_MAX = 6


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure of a closed window; `model` is an alias such as M1, or None for all traffic."""

    id: str
    metric: str
    model: str | None
    value: float | None
    unit: Unit
    previous: float | None
    limit: float | None
    n: int
    status: FactStatus
    severity: Severity | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class FactSheet:
    """Everything known about a window; `names` maps aliases to model names."""

    facts: tuple[Fact, ...]
    names: Mapping[str, str]
    n: int
    samples_min: int
    severity: Severity = "low"
    by_id: Mapping[str, Fact] = field(default_factory=dict)

    @property
    def breached(self) -> list[Fact]:
        """Facts that broke a limit, gravest first, then by sample."""
        hit = [fact for fact in self.facts if fact.status == "breached"]
        return sorted(hit, key=lambda f: (-SEVERITIES.index(f.severity or "low"), -f.n))

    @property
    def confidence_max(self) -> float:
        """Cap of a report's confidence by data: n / (n + samples_min), at most 0.95."""
        return round(min(0.95, self.n / (self.n + self.samples_min)), 3)


_METRICS: tuple[tuple[str, Unit, Callable[[Aggregate], float | None]], ...] = (
    ("requests", "requests", lambda a: float(a.requests)),
    ("error_rate", "share", lambda a: a.error_rate),
    ("latency_p95_ms", "ms", lambda a: a.p95),
    ("average_confidence", "share", lambda a: a.average_confidence),
    ("missing_features_rate", "share", lambda a: a.missing_rate),
    ("block_rate", "share", lambda a: ratio(a.blocked, sum(a.counts("action").values()))),
)

Versions = Mapping[tuple[str, ...], Aggregate]


def build(
    current: Aggregate,
    previous: Aggregate,
    versions: Versions,
    versions_before: Versions,
    verdicts: tuple[Aggregate, Aggregate],
    limits: Thresholds,
) -> FactSheet:
    """Compute the facts of a window against the one before.

    Args:
        current, previous: all predictions of both windows.
        versions, versions_before: the same per (model, version).
        verdicts: guardrail verdicts of both windows.
        limits: what counts as broken.
    """
    rows: list[tuple[str | None, str, Unit, float | None, float | None, int, Breach | None]] = []
    rows += _rows(None, current, previous, limits, ("block_rate",))
    rows += [row for row in _rows(None, *verdicts, limits, ()) if row[1] == "block_rate"]
    names: dict[str, str] = {}
    busiest = sorted(
        {*versions, *versions_before},
        key=lambda key: (-versions.get(key, Aggregate()).requests, key),
    )
    if len(busiest) > 1:
        for at, key in enumerate(busiest[:MODELS_MAX], 1):
            names[f"M{at}"] = " ".join(part for part in key if part)
            now, before = versions.get(key, Aggregate()), versions_before.get(key, Aggregate())
            rows += _rows(f"M{at}", now, before, limits, ("block_rate",))
    facts = [_fact(f"F{at}", row, limits) for at, row in enumerate(rows, 1)]
    facts += _error_facts(current, previous, len(facts))
    severities = [fact.severity for fact in facts if fact.severity]
    return FactSheet(
        facts=tuple(facts),
        names=names,
        n=current.requests,
        samples_min=limits.samples_min,
        severity=max(severities, key=SEVERITIES.index, default="low"),
        by_id={fact.id: fact for fact in facts},
    )


def _rows(
    alias: str | None,
    current: Aggregate,
    previous: Aggregate,
    limits: Thresholds,
    without: Sequence[str],
) -> list[tuple[str | None, str, Unit, float | None, float | None, int, Breach | None]]:
    worst: dict[str, Breach] = {}
    for breach in judge(current, previous, limits):
        worst.setdefault(breach.metric, breach)
    return [
        (alias, metric, unit, of(current), of(previous), current.requests, worst.get(metric))
        for metric, unit, of in _METRICS
        if metric not in without and (of(current) is not None or of(previous) is not None)
    ]


def _fact(
    name: str,
    row: tuple[str | None, str, Unit, float | None, float | None, int, Breach | None],
    limits: Thresholds,
) -> Fact:
    alias, metric, unit, value, before, n, breach = row
    enough = n >= limits.samples_min or metric == "requests"
    status: FactStatus = "breached" if breach else "ok" if enough else "insufficient_data"
    return Fact(
        id=name,
        metric=metric,
        model=alias,
        value=value,
        unit=unit,
        previous=before,
        limit=breach.limit if breach else None,
        n=breach.n if breach else n,
        status=status,
        severity=breach.severity if breach else None,
        kind=breach.kind if breach else None,
    )


def _error_facts(current: Aggregate, previous: Aggregate, taken: int) -> list[Fact]:
    """Errors in all, and those whose reason nobody gave: the unexplained remainder."""
    if not current.sums.errors:
        return []
    unknown = current.counts("reason").get("unknown", 0)
    unknown_before = previous.counts("reason").get("unknown", 0)
    n = current.requests
    pairs = (
        ("errors", current.sums.errors, previous.sums.errors),
        ("errors_not_attributed", unknown, unknown_before),
    )
    return [
        Fact(f"F{taken + at}", metric, None, value, "errors", before, None, n, "ok")
        for at, (metric, value, before) in enumerate(pairs, 1)
    ]


def shown(value: float | None, unit: Unit) -> str:
    """Write a figure for people: `120.4 ms`, `0.52 %`, `1200 requests`, `no data`."""
    if value is None:
        return "no data"
    if unit == "ms":
        return f"{value:.1f} ms"
    if unit == "share":
        return f"{value * 100:.2f} %"
    return f"{value:.0f} {unit}"
