"""Metrics of guardrails; labels come from closed sets (validators, actions, entity types)."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from libs.common.metrics import DURATION_BUCKETS
from services.guardrails.domain.verdict import Verdict


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
            "Texts with a finding, by validator and label.",
            ("validator", "label"),
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
        self.cache_counts = {"hit": 0, "miss": 0, "unavailable": 0}

    def verdict(self, verdict: Verdict, seconds: float) -> None:
        """Count one computed verdict."""
        self._verdicts.labels(verdict.name, verdict.action.value, verdict.status.value).inc()
        self._duration.labels(verdict.name).observe(seconds)
        for label in verdict.labels:
            self._findings.labels(verdict.name, label).inc()

    def cache(self, outcome: str, count: int) -> None:
        """Count look-ups."""
        if count:
            self.cache_counts[outcome] += count
            self._cache.labels(outcome).inc(count)
