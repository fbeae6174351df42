"""The written analysis: facts first, then Gemini's words about them, else the rules' words."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import rfc8785
from prometheus_client import CollectorRegistry, Counter

from libs.common.redis import tag
from services.analytics import schemas
from services.analytics.adapters.gemini import Failure, GeminiWriter, Usage
from services.analytics.adapters.report_cache import Made, ReportCache
from services.analytics.adapters.rollups import RollupStore
from services.analytics.adapters.thresholds import ThresholdStore, ThresholdsVersion
from services.analytics.domain import facts, rules
from services.analytics.domain.aggregate import Aggregate, aggregate, by_key
from services.analytics.domain.draft import Draft, fill
from services.analytics.domain.facts import FactSheet
from services.analytics.domain.ports import Filters, SeriesFigures
from services.analytics.domain.prompt import PROMPT_VERSION
from services.analytics.domain.windows import Window, aligned_window
from services.analytics.settings import AnalyticsSettings
from services.analytics.views import latency_view

SCHEMA_VERSION = 1
# Below the route's 12 s, so that the answer by rules is on its way in time.
ANSWER_WITHIN_S = 10.0
# How long the key of a question is reused without asking the database, and for how many questions.
KEY_REUSED_S = 1.0
KEYS_MAX = 1_000


class ReportMetrics:
    """What the reports cost."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "gatehouse_analytics_gemini_attempts_total",
            "Upstream attempts by outcome.",
            ("outcome",),
            registry=registry,
        )
        self.tokens = Counter(
            "gatehouse_analytics_gemini_tokens_total",
            "Tokens by kind: prompt, answer, thoughts.",
            ("kind",),
            registry=registry,
        )
        self.cost = Counter(
            "gatehouse_analytics_gemini_cost_usd_total",
            "Cost of Gemini calls at the configured prices; zero while none is configured.",
            registry=registry,
        )
        self.reports = Counter(
            "gatehouse_analytics_reports_total",
            "Reports by writer and reason of the fallback.",
            ("generated_by", "reason"),
            registry=registry,
        )
        self.cache = Counter(
            "gatehouse_analytics_report_cache_total",
            "Report questions by cache result: hit or miss.",
            ("result",),
            registry=registry,
        )

    def used(self, usage: Usage, cost_usd: float) -> None:
        """Count the tokens of one call and what they cost."""
        for kind, tokens in asdict(usage).items():
            self.tokens.labels(kind.removesuffix("_tokens")).inc(tokens)
        self.cost.inc(cost_usd)


class Reports:
    """Answers `POST /analyze/performance`."""

    def __init__(
        self,
        settings: AnalyticsSettings,
        store: RollupStore,
        thresholds: ThresholdStore,
        writer: GeminiWriter,
        cache: ReportCache,
        metrics: ReportMetrics,
    ) -> None:
        self._settings = settings
        self._store = store
        self._thresholds = thresholds
        self._writer = writer
        self._cache = cache
        self._metrics = metrics
        self._keys: dict[tuple[str, schemas.AnalyzeRequest, Window], tuple[str, float]] = {}

    async def analyze(
        self, tenant: str, request: schemas.AnalyzeRequest, now: datetime
    ) -> dict[str, Any]:
        """Give the report of the last closed window.

        Raises:
            UnavailableError: the database does not answer.
        """
        window = aligned_window(now, request.time_window_minutes)
        if self._settings.gemini_api_key is None:
            base, sheet = await self._facts(tenant, request, window)
            return self._stamp(self._by_rules(base, sheet, "no_key"), hit=False)
        key = await self._key(tenant, request, window)

        async def make() -> Made:
            return await self._make(*await self._facts(tenant, request, window))

        got = await self._cache.get_or_make(key, make, deadline_s=ANSWER_WITHIN_S)
        self._metrics.cache.labels("hit" if got and got[1] else "miss").inc()
        if got is None:
            base, sheet = await self._facts(tenant, request, window)
            return self._stamp(self._by_rules(base, sheet, "deadline"), hit=False)
        return self._stamp(got[0], hit=got[1])

    async def _facts(
        self, tenant: str, request: schemas.AnalyzeRequest, window: Window
    ) -> tuple[dict[str, Any], FactSheet]:
        """Read both windows; give the members that do not depend on who writes, and the facts."""
        limits = await self._thresholds.current(tenant)
        question = Filters("prediction", request.model, None, request.release, None)
        series, before, verdicts, verdicts_before = [
            await self._store.read(tenant, part, filters)
            for filters in (question, Filters("verdict", histograms=()))
            for part in (window, window.previous())
        ]
        sheet = facts.build(
            aggregate(series),
            aggregate(before),
            _versions(series),
            _versions(before),
            (aggregate(verdicts), aggregate(verdicts_before)),
            limits.limits,
        )
        return _base(window, sheet, aggregate(series), limits), sheet

    async def _make(self, base: Mapping[str, Any], sheet: FactSheet) -> Made:
        result = await self._writer.analyse(sheet)
        if isinstance(result, Failure):
            report = self._by_rules(base, sheet, result.reason)
            return Made(report, self._settings.gemini_fallback_ttl_s)
        self._metrics.reports.labels("gemini", "").inc()
        report = _report(base, result.draft, sheet, "gemini")
        report["model_version"] = result.model_version
        report["usage"] = asdict(result.usage)
        return Made(_checked(report), self._settings.gemini_cache_ttl_s)

    def _by_rules(self, base: Mapping[str, Any], sheet: FactSheet, reason: str) -> dict[str, Any]:
        self._metrics.reports.labels("rules", reason).inc()
        report = _report(base, rules.write(sheet), sheet, "rules")
        return _checked({**report, "fallback_reason": reason})

    async def _key(self, tenant: str, request: schemas.AnalyzeRequest, window: Window) -> str:
        """Give the cache key of a question; within a second it is not worked out again.

        So a changed limit or a late event shows in reports a second later at most.
        """
        asked = (tenant, request, window)
        now = time.monotonic()
        known = self._keys.get(asked)
        if known is not None and known[1] > now:
            return known[0]
        limits = await self._thresholds.current(tenant)
        revision = await self._store.revision(
            tenant, Window(window.previous().start, window.end), request.model, request.release
        )
        key = self._digest(tenant, request, window, limits, revision)
        if len(self._keys) >= KEYS_MAX:
            self._keys.clear()
        self._keys[asked] = (key, now + KEY_REUSED_S)
        return key

    def _digest(
        self,
        tenant: str,
        request: schemas.AnalyzeRequest,
        window: Window,
        limits: ThresholdsVersion,
        revision: int,
    ) -> str:
        # Aligned windows and revisions, never the data itself: the key of a closed window stays the
        # same until a late event changes one of its minutes.
        question: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "prompt": PROMPT_VERSION,
            "model": self._settings.gemini_model,
            "minutes": window.minutes,
            "end": window.end.isoformat(),
            "thresholds": limits.version,
            "revision": revision,
            "filter": [request.model, request.release],
        }
        digest = hashlib.sha256(rfc8785.dumps(question)).hexdigest()
        return f"reports:{tag(tenant, 'analysis')}:{digest}"

    @staticmethod
    def _stamp(report: Mapping[str, Any], *, hit: bool) -> dict[str, Any]:
        made = datetime.fromisoformat(report["generated_at"])
        age_s = (datetime.now(UTC) - made).total_seconds() if hit else 0.0
        return {**report, "cache": {"hit": hit, "age_s": round(max(0.0, age_s), 3)}}


def _versions(series: list[SeriesFigures]) -> dict[tuple[str, ...], Aggregate]:
    return by_key(series, lambda one: (one.series.model, one.series.release or one.series.version))


def _base(
    window: Window, sheet: FactSheet, figures: Aggregate, limits: ThresholdsVersion
) -> dict[str, Any]:
    """Give the members that do not depend on who writes."""
    return {
        "facts": [
            {**asdict(fact), "model": sheet.names.get(fact.model or "")} for fact in sheet.facts
        ],
        "generated_at": _wire(datetime.now(UTC)),
        "metrics_analyzed": {
            "total_predictions": figures.requests,
            "errors": figures.sums.errors,
            "error_rate": figures.error_rate,
            "average_confidence": figures.average_confidence,
            "latency_ms": latency_view(figures).model_dump(),
            "sentiment_distribution": figures.sentiments(),
        },
        "prompt_version": PROMPT_VERSION,
        "thresholds_version": str(limits.version),
        "window": {
            "start": _wire(window.start),
            "end": _wire(window.end),
            "minutes": window.minutes,
        },
    }


def _wire(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _report(base: Mapping[str, Any], draft: Draft, sheet: FactSheet, writer: str) -> dict[str, Any]:
    return {**asdict(fill(draft, sheet)), **base, "generated_by": writer}


def _checked(report: Mapping[str, Any]) -> dict[str, Any]:
    """Hold a finished report to its wire model once, so that a cached one need not be."""
    whole = schemas.Report.model_validate({**report, "cache": {"hit": False, "age_s": 0.0}})
    return whole.model_dump(mode="json")
