"""The head of models that answer by token: tags become spans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libs.common.manifest import Manifest
from services.inference.domain.entities import joined, spans_of
from services.inference.domain.text import Encoding, Reading, TextHead, Truncation

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SpanHead(TextHead):
    """Turns the tags of tokens into spans; `labels` are those of the spans.

    Attributes:
        floors: by label, the least probability of a word of a span. All spans are given;
            `thresholds` only choose the answer's label.
        overlap: tokens that neighbouring windows share.
    """

    floors: Mapping[str, float]
    overlap: int

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "SpanHead":
        """Read labels, thresholds, `parameters.floors`, and the temperature of `calibration`.

        Raises:
            ValueError: labels are missing, or the temperature is not positive.
        """
        labels = tuple(manifest.labels)
        if not labels or len(set(labels)) != len(labels):
            raise ValueError("a text model names its labels, each once")
        temperature = float(manifest.calibration.get("temperature", 1.0))
        if not temperature > 0:
            raise ValueError("the temperature is positive")
        floors = manifest.parameters.get("floors", {})
        tags = 1 + 2 * len(labels)
        return cls(
            labels,
            "softmax",
            np.full(tags, 1.0 / temperature),
            np.zeros(tags),
            manifest.thresholds,
            {str(label): float(value) for label, value in floors.items()},
            Truncation.from_manifest(manifest.truncation).overlap_tokens,
        )

    @property
    def outputs(self) -> int:
        """Logits per token: none, then begin and inside of each label."""
        return len(self.scale)

    def read(self, text: str, encoding: Encoding, logits: Sequence[FloatArray]) -> Reading:
        """Join the windows and read the spans; a label's score is that of its best span."""
        windows = [
            self.probabilities(window[: len(marks.words)])
            for window, marks in zip(logits, encoding.marks, strict=True)
        ]
        tags, marks = joined(windows, encoding.marks, self.overlap)
        spans = spans_of(text, tags, marks, self.labels, self.floors)
        scores = np.zeros(len(self.labels))
        for span in spans:
            index = self.labels.index(span.label)
            scores[index] = max(scores[index], span.score)
        label, confidence = self.highest(scores)
        return Reading(label, confidence, scores, tuple(spans))
