"""What the endpoints of inference share: the count and the clock of one call."""

import time

from libs.common.errors import ServiceError
from services.inference.metrics import InferenceMetrics


class Measured:
    """Counts and times one call; used as a context manager around an endpoint's body."""

    def __init__(self, metrics: InferenceMetrics, endpoint: str, model: str) -> None:
        self._metrics = metrics
        self._endpoint = endpoint
        self.model = model
        self.version = ""
        self._started = 0.0

    def __enter__(self) -> "Measured":
        self._metrics.active.labels(self._endpoint).inc()
        self._started = time.perf_counter()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        metrics, status = self._metrics, "200"
        metrics.active.labels(self._endpoint).dec()
        if error is not None:
            status, kind = "500", "internal"
            if isinstance(error, ServiceError):
                status, kind = str(error.status), error.problem_code
            metrics.errors.labels(kind, self._endpoint, self.model, self.version).inc()
        metrics.requests.labels(self._endpoint, self.model, self.version, status).inc()
        seconds = time.perf_counter() - self._started
        metrics.duration.labels(self._endpoint, self.model).observe(seconds)
