"""Neural validators: one V2 call to inference per batch of texts.

Failure policy: anything that is not a well-formed answer (no model, 503, timeout, wrong shapes) is
status ERROR for every text of the call; the policy's `on_error` then decides between PARTIAL and a
block. It is never taken for "nothing found".
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from libs.common.errors import ServiceError
from libs.common.logging import get_logger
from services.guardrails.domain.document import Document
from services.guardrails.domain.params import check_names
from services.guardrails.domain.policy import ValidatorRule
from services.guardrails.domain.verdict import Detection, Status

log = get_logger()


class MalformedReplyError(ValueError):
    """The V2 answer lacks a tensor or has a wrong shape."""


class Reply(Protocol):
    """An HTTP answer."""

    status: int

    def json(self) -> Any:
        """Parse the body."""
        ...


class Caller(Protocol):
    """The client of inference (libs.common.http_client.ServiceClient)."""

    async def request(self, method: str, path: str, *, json: Any = None) -> Reply:
        """Send one request within the caller's deadline."""
        ...


class ModelValidator:
    """A text classifier behind V2: a probability per label, no spans."""

    kind = "model"
    max_span = 0
    lookahead = 0

    def __init__(self, name: str, model: str, labels: Sequence[str], client: Caller) -> None:
        """Build.

        Args:
            name: of the validator.
            model: of the model in inference.
            labels: what is reported of the model's labels.
            client: calls inference.
        """
        self.name = name
        self.labels = tuple(labels)
        self._model = model
        self._client = client
        self._model_version = ""
        self._model_labels: list[str] = []

    @property
    def version(self) -> str:
        """Version of the model as it last answered; empty before the first answer."""
        return self._model_version

    def parse(self, params: Mapping[str, Any]) -> None:
        """Accept no parameters."""
        check_names(params, set())

    async def check(self, documents: Sequence[Document], rule: ValidatorRule) -> list[Detection]:
        """Score all texts in one call."""
        try:
            rows = await self._infer([document.text for document in documents])
        except (ServiceError, MalformedReplyError) as error:
            log.warning("model did not answer", model=self._model, error_type=type(error).__name__)
            return [Detection(status=Status.ERROR, version=self.version)] * len(documents)
        return [
            Detection(
                scores={
                    label: score
                    for label, score in zip(self._model_labels, row, strict=True)
                    if label in self.labels
                },
                version=self.version,
            )
            for row in rows
        ]

    async def _infer(self, texts: list[str]) -> list[list[float]]:
        path = f"/v2/models/{self._model}/infer"
        tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
        reply = await self._client.request("POST", path, json={"inputs": [tensor]})
        if reply.status != 200:
            raise MalformedReplyError(f"inference answered {reply.status}")
        body = reply.json()
        if body.get("model_version") != self._model_version or not self._model_labels:
            self._model_labels = await self._read_labels()
            self._model_version = str(body.get("model_version", ""))
        return _rows(body, len(texts), len(self._model_labels))

    async def _read_labels(self) -> list[str]:
        """Read the order of the labels; it belongs to a model version."""
        reply = await self._client.request("GET", f"/v2/models/{self._model}/config")
        labels = reply.json().get("parameters", {}).get("labels") if reply.status == 200 else None
        if not isinstance(labels, list) or not labels:
            raise MalformedReplyError("the model's config names no labels")
        return [str(label) for label in labels]


def _rows(body: Mapping[str, Any], texts: int, labels: int) -> list[list[float]]:
    """Give the probabilities, one row per text, from flat or nested data."""
    outputs = {output.get("name"): output for output in body.get("outputs", ())}
    data = outputs.get("probabilities", {}).get("data")
    if not isinstance(data, list):
        raise MalformedReplyError("no tensor named probabilities")
    flat = [x for row in data for x in row] if data and isinstance(data[0], list) else data
    is_fine = all(isinstance(value, int | float) and 0 <= value <= 1 for value in flat)
    if len(flat) != texts * labels or not is_fine:
        raise MalformedReplyError("probabilities have a wrong shape or range")
    return [flat[index * labels : (index + 1) * labels] for index in range(texts)]
