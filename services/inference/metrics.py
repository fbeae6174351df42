"""Metrics of inference: the mission's names exactly, and our additions prefixed `inference_`."""

from collections.abc import Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from libs.common.metrics import DURATION_BUCKETS
from services.inference.execution.statistics import ModelStatistics

_SCORE_BUCKETS = tuple(round(0.05 * step, 2) for step in range(1, 21))


MetricT = TypeVar("MetricT", bound=MetricWrapperBase)


class Labelled(Generic[MetricT]):
    """A metric whose children are looked up once per label set: each score needs eleven.

    The library's own look-up takes a lock and checks the values each time.
    """

    def __init__(self, metric: MetricT) -> None:
        self._metric = metric
        self._children: dict[tuple[str, ...], MetricT] = {}

    def labels(self, *values: str) -> MetricT:
        """Give the child of these label values; they come from closed sets."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


class _Make:
    """Makes labelled collectors in one registry; durations share their buckets."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str, *labels: str) -> Labelled[Counter]:
        return Labelled(Counter(name, text, labels, registry=self._registry))

    def gauge(self, name: str, text: str, *labels: str) -> Labelled[Gauge]:
        return Labelled(Gauge(name, text, labels, registry=self._registry))

    def histogram(
        self, name: str, text: str, *labels: str, buckets: Sequence[float] = DURATION_BUCKETS
    ) -> Labelled[Histogram]:
        return Labelled(Histogram(name, text, labels, buckets=buckets, registry=self._registry))


class InferenceMetrics:
    """All collectors of the service, in the app's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        make = _Make(registry)
        self._calls(make)
        self._models(make)
        self._control(make)
        self.text = TextMetrics(registry)
        self.statistics = ModelStatistics()

    def _calls(self, make: "_Make") -> None:
        """Calls, as their callers see them."""
        self.requests = make.counter(
            "inference_requests_total",
            "Calls by endpoint, model, version and HTTP status.",
            "endpoint",
            "model",
            "version",
            "status",
        )
        self.duration = make.histogram(
            "inference_request_duration_seconds",
            "Time from reading the body to the finished answer.",
            "endpoint",
            "model",
        )
        self.active = make.gauge("inference_active_requests", "Calls in flight.", "endpoint")
        self.errors = make.counter(
            "inference_errors_total",
            "Calls that failed, by type of error.",
            "type",
            "endpoint",
            "model",
            "version",
        )
        self.degraded = make.counter(
            "inference_degraded_total",
            "Answers given with less than was asked for, by reason.",
            "reason",
        )
        self.feature_fetch = make.histogram(
            "feature_fetch_duration_seconds",
            "Time of one feature read, whatever its number of rows.",
            "service",
        )
        self.feature_status = make.counter(
            "inference_feature_status_total", "Feature values used by answers, by status.", "status"
        )

    def _models(self, make: "_Make") -> None:
        """Model calls, loads and what they answered."""
        self.model_inference = make.histogram(
            "model_inference_duration_seconds",
            "Time of one model call, whatever its number of rows.",
            "model",
            "version",
        )
        self.prediction_scores = make.histogram(
            "prediction_scores",
            "Distribution of the scores answered.",
            "model",
            "version",
            buckets=_SCORE_BUCKETS,
        )
        self.explanation = make.histogram(
            "inference_explanation_duration_seconds", "Time of one TreeSHAP explanation.", "model"
        )
        self.batch_size = make.histogram(
            "inference_batch_size",
            "Rows per model call.",
            "model",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
        )
        self.model_load = make.gauge(
            "inference_model_load_duration_seconds",
            "Time that the last load of the serving version took.",
            "model",
            "version",
        )
        self.model_memory = make.gauge(
            "inference_model_memory_bytes",
            "What the serving version holds, as far as its engine can tell.",
            "model",
            "version",
        )
        self.model_state = make.gauge(
            "inference_model_state",
            "1 for the present state of each version.",
            "model",
            "version",
            "state",
        )

    def _control(self, make: "_Make") -> None:
        """Rollouts, ensembles and drift."""
        self.rollout_evidence = make.gauge(
            "inference_rollout_evidence",
            "ln E against the candidate, by signal; a rollback follows at ln 500.",
            "model",
            "signal",
        )
        self.rollouts = make.counter(
            "inference_rollouts_total", "Rollouts that ended, by outcome.", "outcome"
        )
        self.shadow = make.counter(
            "inference_shadow_total",
            "Work after the answer: done, failed, or dropped because too much waited.",
            "result",
        )
        self.ensemble_members = make.counter(
            "inference_ensemble_members_total",
            "Answers of ensemble members by what became of them.",
            "model",
            "member",
            "status",
        )
        self.score_drift = make.gauge(
            "inference_score_drift_psi",
            "Population stability index of recent scores against the manifest's, less noise.",
            "model",
            "version",
        )
        self.input_drift = make.gauge(
            "inference_input_drift_psi",
            "Population stability index of a recent input against the manifest's, less noise.",
            "model",
            "version",
            "feature",
        )


class TextMetrics:
    """What the scheduler of text models and the prediction cache measure."""

    def __init__(self, registry: CollectorRegistry) -> None:
        make = _Make(registry)
        self._scheduler(make)
        self.confidence = make.histogram(
            "inference_confidence",
            "Confidence of text answers.",
            "model",
            "version",
            buckets=_SCORE_BUCKETS,
        )
        self.cache = make.counter("inference_cache_total", "Prediction cache look-ups.", "result")
        self.gpu_memory = make.gauge(
            "inference_gpu_memory_used_bytes", "GPU memory in use, where there is one.", "device"
        )
        self.gpu_busy = make.gauge(
            "inference_gpu_utilisation_ratio", "GPU utilisation, where there is one.", "device"
        )

    def _scheduler(self, make: "_Make") -> None:
        """Queues, batches and executors."""
        self.queue = make.histogram(
            "inference_queue_duration_seconds",
            "Time from admission to the start of the batch.",
            "model",
        )
        self.tokenize = make.histogram(
            "inference_tokenize_duration_seconds",
            "Time to tokenize the texts of one call.",
            "model",
        )
        self.queue_items = make.gauge("inference_queue_items", "Windows that wait.", "model")
        self.queue_tokens = make.gauge("inference_queue_tokens", "Tokens that wait.", "model")
        self.batch_tokens = make.counter(
            "inference_batch_tokens_total",
            "Tokens sent through models; padded over real is the padding ratio.",
            "model",
            "kind",
        )
        self.dispatch = make.counter(
            "inference_dispatch_total", "Batches by what ended their growth.", "model", "reason"
        )
        self.shed = make.counter("inference_shed_total", "Work refused at the door.", "reason")
        self.skipped = make.counter(
            "inference_skipped_total", "Admitted work that was no longer wanted.", "reason"
        )
        self.restarts = make.counter(
            "inference_executor_restarts_total", "Executor threads replaced after a death.", "model"
        )
