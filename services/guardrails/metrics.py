"""Metrics of guardrails; labels come from closed sets (validators, actions, entity types)."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from libs.common.metrics import DURATION_BUCKETS
from services.guardrails.domain.verdict import Decision, Verdict

# Business kinds by validator.
_KINDS = {
    "pii": "pii",
    "secrets": "secret",
    "toxicity": "toxicity",
    "injection": "injection",
    "malicious": "malicious",
}


def _closed(label: str) -> str:
    """Give a label from a closed set: names of a policy's topics are its own."""
    return label.partition(":")[0]


class GuardMetrics:
    """What a check is measured by."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._verdicts = Counter(
            "gatehouse_guardrails_verdicts_total",
            "Verdicts computed, by validator, action and status.",
            ("validator", "action", "status"),
            registry=registry,
        )
        self._findings = Counter(
            "gatehouse_guardrails_findings_total",
            "Texts with a finding, by validator, label and action.",
            ("validator", "label", "action"),
            registry=registry,
        )
        self._decisions = Counter(
            "gatehouse_guardrails_decisions_total",
            "Texts decided, cached or computed, by policy action and whether all of it ran.",
            ("action", "status"),
            registry=registry,
        )
        self._texts = Counter(
            "gatehouse_guardrails_texts_total", "Texts decided.", registry=registry
        )
        self._flagged = Counter(
            "gatehouse_guardrails_flagged_texts_total",
            "Texts with a finding of a kind: divided by texts, the rate of that kind.",
            ("kind",),
            registry=registry,
        )
        self._labels = Counter(
            "gatehouse_guardrails_labels_total",
            "Labels that came back for verdicts; accuracy is the share with expected equal said.",
            ("validator", "expected", "said"),
            registry=registry,
        )
        self._plugins = Counter(
            "gatehouse_guardrails_plugin_failures_total",
            "Calls of plug-ins that failed, by reason.",
            ("validator", "reason"),
            registry=registry,
        )
        self._duration = Histogram(
            "gatehouse_guardrails_validator_duration_seconds",
            "Time of one validator over the texts of one call.",
            ("validator",),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self._cache = Counter(
            "gatehouse_guardrails_cache_lookups_total",
            "Look-ups in the verdict cache, by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.streams = Gauge(
            "gatehouse_guardrails_streams_active", "Open stream connections.", registry=registry
        )
        self._children: dict[tuple[str, str, str], tuple[Any, Any]] = {}
        self.cache_counts = {"hit": 0, "miss": 0, "unavailable": 0}

    def verdict(self, verdict: Verdict, seconds: float) -> None:
        """Count one computed verdict."""
        key = (verdict.name, verdict.action.value, verdict.status.value)
        children = self._children.get(key)
        if children is None:
            # Labels come from closed sets, so this table is small; looking them up is not cheap.
            children = self._children[key] = (
                self._verdicts.labels(*key),
                self._duration.labels(verdict.name),
            )
        children[0].inc()
        children[1].observe(seconds)
        for label in {_closed(label) for label in verdict.labels}:
            self._findings.labels(verdict.name, label, verdict.action.value).inc()

    def decision(self, decision: Decision) -> None:
        """Count one decision, cached or not."""
        self._texts.inc()
        self._decisions.labels(decision.action.value, decision.status.value).inc()
        for kind in {_KINDS[v.name] for v in decision.verdicts if v.labels and v.name in _KINDS}:
            self._flagged.labels(kind).inc()

    def label(self, validator: str, *, expected: bool, said: bool) -> None:
        """Count one label for a verdict of a validator."""
        self._labels.labels(validator, str(expected).lower(), str(said).lower()).inc()

    def plugin_failure(self, validator: str, reason: str) -> None:
        """Count a failed call of a plug-in."""
        self._plugins.labels(validator, reason).inc()

    def cache(self, outcome: str, count: int) -> None:
        """Count look-ups."""
        if count:
            self.cache_counts[outcome] += count
            self._cache.labels(outcome).inc(count)
