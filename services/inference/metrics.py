"""Metrics of inference: the mission's names exactly, and our additions prefixed `inference_`."""

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


class InferenceMetrics:
    """All collectors of the service, in the app's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Labelled(
            Counter(
                "inference_requests_total",
                "Calls by endpoint, model, version and HTTP status.",
                ("endpoint", "model", "version", "status"),
                registry=registry,
            )
        )
        self.duration = Labelled(
            Histogram(
                "inference_request_duration_seconds",
                "Time from reading the body to the finished answer.",
                ("endpoint", "model"),
                buckets=DURATION_BUCKETS,
                registry=registry,
            )
        )
        self.active = Labelled(
            Gauge(
                "inference_active_requests",
                "Calls in flight.",
                ("endpoint",),
                registry=registry,
            )
        )
        self.feature_fetch = Labelled(
            Histogram(
                "feature_fetch_duration_seconds",
                "Time of one feature read, whatever its number of rows.",
                ("service",),
                buckets=DURATION_BUCKETS,
                registry=registry,
            )
        )
        self.model_inference = Labelled(
            Histogram(
                "model_inference_duration_seconds",
                "Time of one model call, whatever its number of rows.",
                ("model", "version"),
                buckets=DURATION_BUCKETS,
                registry=registry,
            )
        )
        self.prediction_scores = Labelled(
            Histogram(
                "prediction_scores",
                "Distribution of the scores answered.",
                ("model", "version"),
                buckets=_SCORE_BUCKETS,
                registry=registry,
            )
        )
        self.errors = Labelled(
            Counter(
                "inference_errors_total",
                "Calls that failed, by type of error.",
                ("type", "endpoint", "model", "version"),
                registry=registry,
            )
        )
        self.explanation = Labelled(
            Histogram(
                "inference_explanation_duration_seconds",
                "Time of one TreeSHAP explanation.",
                ("model",),
                buckets=DURATION_BUCKETS,
                registry=registry,
            )
        )
        self.model_load = Labelled(
            Gauge(
                "inference_model_load_duration_seconds",
                "Time that the last load of the serving version took.",
                ("model", "version"),
                registry=registry,
            )
        )
        self.model_memory = Labelled(
            Gauge(
                "inference_model_memory_bytes",
                "What the serving version holds, as far as its engine can tell.",
                ("model", "version"),
                registry=registry,
            )
        )
        self.model_state = Labelled(
            Gauge(
                "inference_model_state",
                "1 for the present state of each version.",
                ("model", "version", "state"),
                registry=registry,
            )
        )
        self.batch_size = Labelled(
            Histogram(
                "inference_batch_size",
                "Rows per model call.",
                ("model",),
                buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
                registry=registry,
            )
        )
        self.feature_status = Labelled(
            Counter(
                "inference_feature_status_total",
                "Feature values used by answers, by status.",
                ("status",),
                registry=registry,
            )
        )
        self.rollout_evidence = Labelled(
            Gauge(
                "inference_rollout_evidence",
                "ln E against the candidate, by signal; a rollback follows at ln 500.",
                ("model", "signal"),
                registry=registry,
            )
        )
        self.rollouts = Labelled(
            Counter(
                "inference_rollouts_total",
                "Rollouts that ended, by outcome.",
                ("outcome",),
                registry=registry,
            )
        )
        self.shadow = Labelled(
            Counter(
                "inference_shadow_total",
                "Work after the answer: done, failed, or dropped because too much waited.",
                ("result",),
                registry=registry,
            )
        )
        self.ensemble_members = Labelled(
            Counter(
                "inference_ensemble_members_total",
                "Answers of ensemble members by what became of them.",
                ("model", "member", "status"),
                registry=registry,
            )
        )
        self.score_drift = Labelled(
            Gauge(
                "inference_score_drift_psi",
                "Population stability index of recent scores against the manifest's, less noise.",
                ("model", "version"),
                registry=registry,
            )
        )
        self.input_drift = Labelled(
            Gauge(
                "inference_input_drift_psi",
                "Population stability index of a recent input against the manifest's, less noise.",
                ("model", "version", "feature"),
                registry=registry,
            )
        )
        self.degraded = Labelled(
            Counter(
                "inference_degraded_total",
                "Answers given with less than was asked for, by reason.",
                ("reason",),
                registry=registry,
            )
        )
        self.text = TextMetrics(registry)
        self.statistics = ModelStatistics()


class TextMetrics:
    """What the scheduler of text models and the prediction cache measure."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str) -> Labelled[Histogram]:
            labels = ("model",)
            return Labelled(
                Histogram(name, text, labels, buckets=DURATION_BUCKETS, registry=registry)
            )

        def counter(name: str, text: str, *labels: str) -> Labelled[Counter]:
            return Labelled(Counter(name, text, labels, registry=registry))

        def gauge(name: str, text: str, *labels: str) -> Labelled[Gauge]:
            return Labelled(Gauge(name, text, labels, registry=registry))

        self.queue = histogram(
            "inference_queue_duration_seconds", "Time from admission to the start of the batch."
        )
        self.tokenize = histogram(
            "inference_tokenize_duration_seconds", "Time to tokenize the texts of one call."
        )
        self.queue_items = gauge("inference_queue_items", "Windows that wait.", "model")
        self.queue_tokens = gauge("inference_queue_tokens", "Tokens that wait.", "model")
        self.batch_tokens = counter(
            "inference_batch_tokens_total",
            "Tokens sent through models; padded over real is the padding ratio.",
            "model",
            "kind",
        )
        self.dispatch = counter(
            "inference_dispatch_total", "Batches by what ended their growth.", "model", "reason"
        )
        self.shed = counter("inference_shed_total", "Work refused at the door.", "reason")
        self.skipped = counter(
            "inference_skipped_total", "Admitted work that was no longer wanted.", "reason"
        )
        self.restarts = counter(
            "inference_executor_restarts_total", "Executor threads replaced after a death.", "model"
        )
        self.confidence = Labelled(
            Histogram(
                "inference_confidence",
                "Confidence of text answers.",
                ("model", "version"),
                buckets=_SCORE_BUCKETS,
                registry=registry,
            )
        )
        self.cache = counter("inference_cache_total", "Prediction cache look-ups.", "result")
        self.gpu_memory = gauge(
            "inference_gpu_memory_used_bytes", "GPU memory in use, where there is one.", "device"
        )
        self.gpu_busy = gauge(
            "inference_gpu_utilisation_ratio", "GPU utilisation, where there is one.", "device"
        )
