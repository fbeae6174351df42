"""Text models: what tokens are, and how logits become the answer; pure.

A text is one or more windows of tokens. Each window goes through the model by itself; their
calibrated probabilities are max-pooled per label, so that a short attack in a long text is found.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from libs.common.manifest import Manifest
from services.inference.domain.cost import CostModel
from services.inference.domain.entities import Marks, Span
from services.inference.domain.ports import TextEngine

if TYPE_CHECKING:
    from services.inference.domain.ensemble import EnsembleFacts

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

Policy = Literal["truncate", "window", "refuse"]

# Longer texts are refused: 256 windows of 112 tokens hold about 100,000 characters.
WINDOWS_MAX = 256
# What `label` says when no label of a multi-label model reaches its threshold.
NO_LABEL = "none"


class TextTooLongError(ValueError):
    """The model's manifest says that texts of this length are refused."""


@dataclass(frozen=True, slots=True)
class Truncation:
    """What happens to texts longer than the model reads; part of the manifest."""

    max_tokens: int
    policy: Policy = "truncate"
    overlap_tokens: int = 0

    @classmethod
    def from_manifest(cls, document: Mapping[str, Any]) -> "Truncation":
        """Read the manifest's `truncation`.

        Raises:
            ValueError: no usable bound or policy.
        """
        found = cls(
            int(document.get("max_tokens", 512)),
            document.get("policy", "truncate"),
            int(document.get("overlap_tokens", 0)),
        )
        if found.policy not in {"truncate", "window", "refuse"}:
            raise ValueError(f"truncation policy {found.policy} is not known")
        if found.max_tokens < 8 or not 0 <= found.overlap_tokens < found.max_tokens - 4:
            raise ValueError("truncation: max_tokens and overlap_tokens do not fit together")
        return found


@dataclass(frozen=True, slots=True)
class Encoding:
    """One tokenized text.

    Attributes:
        windows: token ids, each of shape (length,), at least one.
        is_truncated: the model does not see the end of the text.
        marks: where the tokens of each window stand, for models that answer by token.
    """

    windows: tuple[IntArray, ...]
    is_truncated: bool = False
    marks: tuple[Marks, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens over all windows."""
        return sum(len(window) for window in self.windows)


class TextEncoder(Protocol):
    """Turns texts into tokens; used by several threads at once."""

    def encode(self, texts: Sequence[str]) -> list[Encoding | TextTooLongError]:
        """Tokenize; a text that the model refuses gives its error in its place."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """What a head reads from the logits of one text; `scores` has shape (labels,)."""

    label: str
    confidence: float
    scores: FloatArray
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class TextHead:
    """Turns logits into calibrated probabilities by label.

    Attributes:
        labels: in the order of the logits.
        activation: softmax for one label out of many, sigmoid for independent labels.
        scale / bias: per label; the activation is applied to `logits * scale + bias`.
        thresholds: of independent labels; a label below its threshold is not given.
    """

    labels: tuple[str, ...]
    activation: Literal["softmax", "sigmoid"]
    scale: FloatArray
    bias: FloatArray
    thresholds: Mapping[str, float]

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "TextHead":
        """Read labels, activation, calibration and thresholds.

        `{"method": "temperature", "temperature": t, "bias": [..]}` means (logits + bias) / t;
        `{"method": "platt", "by_label": {label: [scale, offset]}}` means scale * logit + offset.

        Raises:
            ValueError: labels or activation are missing, or the calibration does not fit them.
        """
        labels = tuple(manifest.labels)
        if not labels or len(set(labels)) != len(labels):
            raise ValueError("a text model names its labels, each once")
        if manifest.activation not in {"softmax", "sigmoid"}:
            raise ValueError("a text model's activation is softmax or sigmoid")
        scale, bias = _calibration(manifest.calibration, labels)
        if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
            raise ValueError("the calibration holds a number that is none")
        return cls(labels, manifest.activation, scale, bias, manifest.thresholds)

    @property
    def outputs(self) -> int:
        """Logits per window."""
        return len(self.labels)

    def read(self, text: str, encoding: Encoding, logits: Sequence[FloatArray]) -> Reading:
        """Read the answer from the logits of a text's windows: pool and decide."""
        scores = self.pool(self.probabilities(np.stack(logits)))
        label, confidence = self.decide(scores)
        return Reading(label, confidence, scores)

    def probabilities(self, logits: FloatArray) -> FloatArray:
        """Give calibrated probabilities, one row per window, shape (windows, labels)."""
        scaled = logits * self.scale + self.bias
        if self.activation == "sigmoid":
            return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scaled)))
        shifted = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))

    def pool(self, probabilities: FloatArray) -> FloatArray:
        """Join the windows of one text, shape (labels,): the largest of each label."""
        if len(probabilities) == 1:
            return np.asarray(probabilities[0])
        largest = probabilities.max(axis=0)
        return np.asarray(largest / largest.sum()) if self.activation == "softmax" else largest

    def decide(self, scores: FloatArray) -> tuple[str, float]:
        """Name the label and how sure the model is of it.

        Independent labels: the highest that reaches its threshold (0.5 without one), else
        `NO_LABEL`, whose confidence is one minus the highest score.
        """
        if self.activation == "softmax":
            best = int(scores.argmax())
            return self.labels[best], float(scores[best])
        return self.highest(scores)

    def highest(self, scores: FloatArray) -> tuple[str, float]:
        """Name the highest label that reaches its threshold, or none."""
        reached = [
            index
            for index, label in enumerate(self.labels)
            if scores[index] >= self.thresholds.get(label, 0.5)
        ]
        if not reached:
            return NO_LABEL, float(1.0 - scores.max())
        chosen = max(reached, key=lambda index: float(scores[index]))
        return self.labels[chosen], float(scores[chosen])


def _calibration(
    document: Mapping[str, Any], labels: tuple[str, ...]
) -> tuple[FloatArray, FloatArray]:
    """Give scale and bias per label."""
    count = len(labels)
    method = document.get("method", "none")
    if method == "none":
        return np.ones(count), np.zeros(count)
    if method == "temperature":
        temperature = float(document["temperature"])
        if temperature <= 0:
            raise ValueError("the temperature is positive")
        bias = np.asarray(document.get("bias") or [0.0] * count, dtype=np.float64)
        if bias.shape != (count,):
            raise ValueError("the calibration has one bias per label")
        return np.full(count, 1.0 / temperature), bias / temperature
    if method == "platt":
        by_label = document["by_label"]
        if set(by_label) != set(labels):
            raise ValueError("the calibration has one pair per label")
        pairs = np.asarray([by_label[label] for label in labels], dtype=np.float64)
        return pairs[:, 0], pairs[:, 1]
    raise ValueError(f"calibration method {method} is not known")


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """What the model says about one text.

    Attributes:
        scores: calibrated probabilities, shape (labels,).
        spans: names in the text, from models that find them.
        tokens: real tokens over all windows.
        queue_s / model_s / tokenize_s: longest wait and forward of its windows, tokenizing time.
        batch_items: windows in the batch that answered last.
        depth: windows that waited when it was admitted.
        ensemble: who took part, where several models answered together.
    """

    label: str
    confidence: float
    scores: FloatArray
    windows: int
    tokens: int
    is_truncated: bool
    tokenize_s: float = 0.0
    queue_s: float = 0.0
    model_s: float = 0.0
    batch_items: int = 0
    depth: int = 0
    cached: bool = False
    ensemble: "EnsembleFacts | None" = None
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True)
class TextModel:
    """One version of a text model, ready to serve.

    Attributes:
        cost: fitted at warm-up; the scheduler keeps it honest.
        closers: what runs this version adds itself here, and frees the engine when it has finished.
    """

    manifest: Manifest
    engine: TextEngine
    engine_name: str
    encoder: TextEncoder
    head: TextHead
    cost: CostModel
    closers: list[Callable[[], None]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name in the repository."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """Integer version as text, for labels."""
        return str(self.manifest.version)

    @property
    def model_version(self) -> str:
        """What text answers show, for example `1.0.0`."""
        return self.manifest.release

    @property
    def memory_bytes(self) -> int:
        """What the version holds, as far as its engine can tell."""
        return self.engine.memory_bytes

    def close(self) -> None:
        """Free the engine after the last answer; callable from any thread."""
        for closer in self.closers:
            closer()
        if not self.closers:
            self.engine.close()
