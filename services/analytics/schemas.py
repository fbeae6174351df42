"""Wire models of analytics; absent figures are null, never zero and never NaN."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool, StrictInt

from services.analytics.domain.compare import Outcome
from services.analytics.domain.facts import Unit
from services.analytics.domain.thresholds import Kind, Severity, Status
from services.analytics.domain.windows import WINDOW_MINUTES_MAX

WindowMinutes = Annotated[StrictInt, Field(ge=1, le=WINDOW_MINUTES_MAX)]
# Without NUL, which PostgreSQL cannot hold.
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AggregatedRequest(_Request):
    """Which window, of what."""

    time_window_minutes: WindowMinutes = 60
    model: Name | None = None
    version: Name | None = None
    release: Name | None = None
    route: Name | None = None
    end: AwareDatetime | None = None
    compare: Literal["previous", "none"] = "previous"


class Count(BaseModel):
    """How many predictions there were; `since` is the minute in which this process started."""

    total_predictions: int
    since_start: int
    since: datetime


class WatermarkView(BaseModel):
    """How far the roll-ups follow the audit log."""

    log_index: int
    log_size: int
    event_time: datetime | None
    age_s: float | None = Field(description="Seconds since the end of the log was last reached.")


class WindowView(BaseModel):
    """`[start, end)`; `complete` is true when every event of it is counted."""

    start: datetime
    end: datetime
    minutes: int
    complete: bool
    watermark: WatermarkView


class Totals(BaseModel):
    """Counts with the rates made of them."""

    requests: int
    errors: int
    degraded: int
    error_rate: float | None
    throughput_rps: float | None


class LatencyView(BaseModel):
    """Count, minimum, maximum and mean are exact; quantiles carry the stated error."""

    count: int
    min: float | None
    max: float | None
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    method: Literal["sketch"] = "sketch"
    max_relative_error: float


class GuardrailsView(BaseModel):
    """Verdicts of the window, over all models."""

    checked: int
    blocked: int
    masked: int
    flagged: int


class CacheView(BaseModel):
    """Cache use among the answers that could have been cached."""

    hits: int
    misses: int
    hit_rate: float | None


class ModelView(BaseModel):
    """One model version."""

    model: str
    version: str
    release: str
    arm: str
    requests: int
    error_rate: float | None
    average_confidence: float | None
    p95: float | None


class PreviousView(BaseModel):
    """The window of equal length before."""

    requests: int
    error_rate: float | None
    average_confidence: float | None
    p95: float | None


class BreachView(BaseModel):
    """A limit that was broken, with the sample it was judged on."""

    metric: str
    kind: Literal["absolute", "change"]
    value: float
    limit: float
    severity: Severity
    n: int


class Aggregated(BaseModel):
    """Figures of a window."""

    status: Status
    total_predictions: int
    average_confidence: float | None
    sentiment_distribution: dict[str, int]
    label_distribution: dict[str, int]
    input_length_latency_correlation: float | None
    window: WindowView
    totals: Totals
    latency_ms: LatencyView
    guardrails: GuardrailsView
    cache: CacheView
    by_model: list[ModelView]
    previous: PreviousView | None
    breaches: list[BreachView]
    thresholds_version: str


Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Milliseconds = Annotated[float, Field(strict=True, gt=0, le=3_600_000)]


class ThresholdsRequest(_Request):
    """Limits to change; what is left out keeps its value."""

    min_confidence_warning: Share | None = None
    min_confidence_critical: Share | None = None
    max_inference_time_warning_ms: Milliseconds | None = None
    max_inference_time_critical_ms: Milliseconds | None = None
    max_error_rate_warning: Share | None = None
    max_error_rate_critical: Share | None = None
    latency_change_ratio: Annotated[float, Field(strict=True, gt=1, le=100)] | None = None
    traffic_drop_ratio: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    samples_min: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    alert_window_minutes: Annotated[StrictInt, Field(ge=1, le=60)] | None = None
    alert_for_minutes: Annotated[StrictInt, Field(ge=1, le=60)] | None = None
    alert_clear_ratio: Annotated[float, Field(strict=True, ge=0.5, le=1)] | None = None
    expected_version: Annotated[StrictInt, Field(ge=0)] | None = None


class ThresholdsView(BaseModel):
    """The limits in force; `version` 0 are the defaults, nothing was ever changed."""

    min_confidence_warning: float
    min_confidence_critical: float
    max_inference_time_warning_ms: float
    max_inference_time_critical_ms: float
    max_error_rate_warning: float
    max_error_rate_critical: float
    latency_change_ratio: float
    traffic_drop_ratio: float
    samples_min: int
    alert_window_minutes: int
    alert_for_minutes: int
    alert_clear_ratio: float
    version: int
    changed_at: datetime | None
    changed_by: str | None


class AnalyzeRequest(_Request):
    """Which closed window to explain."""

    time_window_minutes: WindowMinutes = 60
    model: Name | None = None
    release: Name | None = None


class IssueView(BaseModel):
    """Something wrong, with the ids of the facts that show it."""

    title: str
    severity: Severity
    evidence: list[str]


class FactView(BaseModel):
    """One figure that the report rests on."""

    id: str
    metric: str
    model: str | None
    value: float | None
    unit: Unit
    previous: float | None
    limit: float | None
    n: int
    status: Literal["ok", "breached", "insufficient_data"]
    severity: Severity | None
    kind: Literal["absolute", "change"] | None


class ReportWindow(BaseModel):
    """The closed window that was analysed, `[start, end)`."""

    start: datetime
    end: datetime
    minutes: int


class CacheUse(BaseModel):
    """Whether the report was there already, and how old it is."""

    hit: bool
    age_s: float


class UsageView(BaseModel):
    """Tokens of the call that wrote the report."""

    prompt_tokens: int
    answer_tokens: int
    thoughts_tokens: int


class Report(BaseModel):
    """A written analysis; every figure in its prose is one of its facts."""

    summary: str
    severity: Severity
    identified_issues: list[IssueView]
    root_cause_hypothesis: str | None
    recommendations: list[str]
    confidence_score: float
    generated_at: datetime
    metrics_analyzed: dict[str, Any]
    facts: list[FactView]
    generated_by: Literal["gemini", "rules"]
    fallback_reason: str | None = None
    model_version: str | None = None
    usage: UsageView | None = None
    prompt_version: str
    thresholds_version: str
    window: ReportWindow
    cache: CacheUse


class DriftQuery(_Request):
    """Which closed window to compare with the one before, or with a reference period."""

    time_window_minutes: Annotated[int, Field(ge=1, le=WINDOW_MINUTES_MAX)] = 60
    model: Name | None = None
    version: Name | None = None
    reference_end: AwareDatetime | None = None
    reference_minutes: Annotated[int, Field(ge=1, le=7 * WINDOW_MINUTES_MAX)] | None = None


class DriftView(BaseModel):
    """One distribution; `p` and `ks_p` are corrected over all that the answer tests."""

    model: str
    version: str
    metric: str
    psi: float
    effect: float
    p: float
    ks: float | None
    ks_p: float | None
    n: int
    m: int
    verdict: Literal["insufficient_data", "none", "minor", "moderate", "major"]


class InputDriftView(BaseModel):
    """One input of a model, or its score, at `at` against what the model was trained on."""

    model: str
    version: str
    release: str
    kind: Literal["input", "score"]
    name: str
    at: datetime
    psi: float
    effect: float
    p: float
    ks: float
    ks_p: float | None
    n: int
    m: int
    verdict: Literal["insufficient_data", "none", "minor", "moderate", "major"]


class DriftReport(BaseModel):
    """Drift of `[start, end)` against `[reference_start, reference_end)`.

    `inputs` has what inference told last about the inputs and scores of each version.
    """

    start: datetime
    end: datetime
    reference_start: datetime
    reference_end: datetime
    items: list[DriftView]
    inputs: list[InputDriftView]
    next: None = None


class ChartQuery(_Request):
    """Which closed window to draw; `metric` counts for the distribution only."""

    time_window_minutes: Annotated[int, Field(ge=1, le=WINDOW_MINUTES_MAX)] = 60
    model: Name | None = None
    version: Name | None = None
    release: Name | None = None
    route: Name | None = None
    metric: Literal[
        "score", "confidence", "latency_ms", "input_length", "freshness_s",
        "label", "risk", "decision",
    ] = "score"  # fmt: skip


class ReportPageQuery(_Request):
    """Which closed window to explain on a page."""

    time_window_minutes: Annotated[int, Field(ge=1, le=WINDOW_MINUTES_MAX)] = 60
    model: Name | None = None
    release: Name | None = None


class ComparisonQuery(_Request):
    """Which two versions to compare; `share_b` is the planned share of traffic of b.

    With `since`, the fixed start of the comparison, everything from there on counts and the answer
    holds confidence sequences; without it, the last closed window counts.
    """

    model: Name
    version_a: Name
    version_b: Name
    time_window_minutes: Annotated[int, Field(ge=1, le=WINDOW_MINUTES_MAX)] = 60
    looks: Annotated[int, Field(ge=1, le=100)] = 1
    share_b: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] | None = None
    since: AwareDatetime | None = None


class SequentialView(BaseModel):
    """Valid at every look; an e-value of 20 and more is evidence at 5 %."""

    interval: tuple[float, float]
    e_value: float
    level: float = 0.95
    method: str
    verdict: Outcome


class DifferenceView(BaseModel):
    """b minus a of one figure, with its interval at `level`."""

    metric: str
    diff: float | None
    interval: tuple[float, float] | None
    level: float
    method: str
    n_a: int
    n_b: int
    verdict: Outcome
    sequential: SequentialView | None


class Comparison(BaseModel):
    """Differences of two versions; nothing may be read from it when the split is not valid."""

    start: datetime
    end: datetime
    looks: int
    is_split_valid: bool | None
    items: list[DifferenceView]
    next: None = None


class WatchedView(BaseModel):
    """One watched figure that broke a limit; without model it is about all traffic."""

    model: str | None
    release: str | None
    metric: str
    kind: Kind
    severity: Severity
    value: float
    limit: float
    n: int


class AlertView(WatchedView):
    """An open alert; `is_unknown` when too little was seen lately to judge it."""

    state: Literal["pending", "firing"]
    since: datetime
    is_unknown: bool


class Alerts(BaseModel):
    """Open alerts, firing first; judged up to `evaluated_until`."""

    evaluated_until: datetime | None
    items: list[AlertView]
    next: None = None


class HistoryQuery(_Request):
    """A page of what was heard, newest first."""

    limit: Annotated[int, Field(ge=1, le=200)] = 50
    before: UUID | None = None


class DeliveryView(BaseModel):
    """What became of the message."""

    state: Literal["waiting", "delivered", "dead"]
    attempts: int
    last_outcome: str | None


class TransitionView(WatchedView):
    """An alert that fired, got graver or ended."""

    id: str
    at: datetime
    state: Literal["firing", "quiet"]
    reason: Literal["limit_broken", "graver", "back_inside", "no_data"]
    window_minutes: int
    delivery: DeliveryView | None


class History(BaseModel):
    """What was heard of alerts, newest first."""

    items: list[TransitionView]
    next: str | None


class WebhookRequest(_Request):
    """Where alerts go; null switches them off."""

    url: Annotated[str, Field(max_length=2_000)] | None


class WebhookView(BaseModel):
    """The destination; of its address only the origin is shown, a path may be a credential."""

    origin: str | None
    version: int
    changed_at: datetime | None


class WebhookSecretView(WebhookView):
    """The answer to a change: the secret that signs from now on, shown this once."""

    secret: str | None


class RebuildRequest(_Request):
    """Start a rebuild; `accept_loss` goes ahead although old entries of the log are pruned."""

    accept_loss: StrictBool = False


class RebuildView(BaseModel):
    """How the last rebuild stands, in log entries."""

    state: Literal["never", "running", "done", "failed", "interrupted"]
    done: int
    total: int
    started_at: datetime | None
    finished_at: datetime | None
    reason: str | None
