"""A model in inference, asked by the Open Inference Protocol V2: one call per batch of texts.

Failure policy: anything that is not a well-formed answer (no model, 503, timeout, wrong shapes) is
an error, which the caller turns into a status; it is never taken for "nothing found".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from libs.common.errors import ServiceError

# Texts per call; inference refuses more.
TEXTS_MAX = 1_024
_SCOPES = ("predict:model",)


class MalformedReplyError(ValueError):
    """The V2 answer lacks a tensor or has a wrong shape."""


class Reply(Protocol):
    """An HTTP answer."""

    @property
    def status(self) -> int:
        """Status code."""
        ...

    def json(self) -> Any:
        """Parse the body."""
        ...


class Caller(Protocol):
    """The client of inference (libs.common.http_client.ServiceClient)."""

    async def request(
        self, method: str, path: str, *, json: Any = None, scopes: tuple[str, ...] = ()
    ) -> Reply:
        """Send one request within the caller's deadline."""
        ...


@dataclass(frozen=True)
class ModelConfig:
    """What a model version says about itself."""

    version: str = ""
    labels: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = field(default_factory=dict)


class V2Model:
    """One model by name; its labels and thresholds are read again with every new version."""

    def __init__(self, model: str, client: Caller) -> None:
        """Build.

        Args:
            model: name in inference.
            client: calls inference.
        """
        self.model = model
        self.config = ModelConfig()
        self._client = client

    @property
    def version(self) -> str:
        """Version as it last answered; empty before the first answer."""
        return self.config.version

    async def is_ready(self) -> bool:
        """Say whether the model would answer now."""
        try:
            path = f"/v2/models/{self.model}/ready"
            reply = await self._client.request("GET", path, scopes=_SCOPES)
        except ServiceError:
            return False
        return reply.status == 200

    async def infer(self, texts: list[str], output: str) -> Any:
        """Give the data of one output tensor for at most TEXTS_MAX texts.

        Raises:
            ServiceError: inference cannot be reached or is late.
            MalformedReplyError: it did not answer as V2 says.
        """
        path = f"/v2/models/{self.model}/infer"
        tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
        body = {"inputs": [tensor], "outputs": [{"name": output}]}
        reply = await self._client.request("POST", path, json=body, scopes=_SCOPES)
        if reply.status != 200:
            raise MalformedReplyError(f"inference answered {reply.status}")
        answer = reply.json()
        version = str(answer.get("model_version", ""))
        if version != self.config.version or not self.config.labels:
            self.config = await self._read_config(version)
        outputs = {item.get("name"): item for item in answer.get("outputs", ())}
        return outputs.get(output, {}).get("data")

    async def _read_config(self, version: str) -> ModelConfig:
        """Read labels and thresholds; they belong to a model version."""
        path = f"/v2/models/{self.model}/config"
        reply = await self._client.request("GET", path, scopes=_SCOPES)
        parameters = reply.json().get("parameters", {}) if reply.status == 200 else {}
        labels = parameters.get("labels")
        if not isinstance(labels, list) or not labels:
            raise MalformedReplyError("the model's config names no labels")
        thresholds = {
            str(label): float(value) for label, value in parameters.get("thresholds", {}).items()
        }
        return ModelConfig(version, tuple(map(str, labels)), thresholds)
