"""Ensembles: versions of several models that answer together; pure voting, no I/O.

Members are named exactly. Probabilities are aligned by label name, weights normalised over the
members that answered. Who took part is part of every answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from libs.common.manifest import EnsembleMember, EnsembleSpec, Manifest
from services.inference.domain.ports import Scores
from services.inference.domain.text import NO_LABEL, FloatArray, TextHead, TextModel

Status = Literal["ok", "timeout", "failed", "not_loaded"]
# Reasons in `degraded_reasons`.
MEMBER_MISSING, FALLBACK = "ensemble_member_missing", "ensemble_fallback"


@dataclass(frozen=True, slots=True)
class Part:
    """What became of one member in one call."""

    member: EnsembleMember
    status: Status


@dataclass(frozen=True, slots=True)
class EnsembleFacts:
    """Who took part in an answer, and how far they agreed.

    Attributes:
        agreement: share of the voting weight whose own decision is the ensemble's; of a fallback 0.
        is_fallback: the members did not suffice and the declared fallback answered.
    """

    method: str
    parts: tuple[Part, ...]
    agreement: float
    is_fallback: bool = False

    @property
    def reason(self) -> str | None:
        """Why the answer is degraded, None when all members took part."""
        if self.is_fallback:
            return FALLBACK
        return None if all(part.status == "ok" for part in self.parts) else MEMBER_MISSING

    def to_wire(self) -> dict[str, Any]:
        """Give the answer's member `ensemble`."""
        return {
            "method": self.method,
            "members": [
                {
                    "model": part.member.model,
                    "version": str(part.member.version),
                    "weight": part.member.weight,
                    "status": part.status,
                }
                for part in self.parts
            ],
            "agreement": round(self.agreement, 6),
            "fallback": self.is_fallback,
        }


def suffices(spec: EnsembleSpec, statuses: Sequence[Status]) -> bool:
    """Whether enough members answered, each required one among them."""
    answered = [status == "ok" for status in statuses]
    required = all(
        is_there for member, is_there in zip(spec.members, answered, strict=True) if member.required
    )
    return required and sum(answered) >= spec.min_members


@dataclass(frozen=True)
class TextEnsemble:
    """One version of an ensemble of text models, ready to serve.

    Attributes:
        head: labels, activation and thresholds of its answers; its calibration is the identity.
    """

    manifest: Manifest
    spec: EnsembleSpec
    head: TextHead
    engine_name: str = "ensemble"
    memory_bytes: int = 0

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

    def close(self) -> None:
        """Hold nothing; the members belong to the repository."""


# What answers texts by a name; works with isinstance.
AnyTextModel = TextModel | TextEnsemble


@dataclass(frozen=True, slots=True)
class TextVote:
    """One member's answer to one text; `scores` are in the order of the ensemble's labels."""

    weight: float
    label: str
    scores: FloatArray


def aligned(labels: Sequence[str], head: TextHead, scores: FloatArray) -> FloatArray:
    """Bring a member's probabilities into the order of the ensemble's labels."""
    return np.asarray(scores[[head.labels.index(label) for label in labels]])


def vote_on_text(
    method: str, head: TextHead, votes: Sequence[TextVote]
) -> tuple[str, float, FloatArray, float]:
    """Combine at least one vote.

    Soft: the mean probability decides and is the confidence. Hard: each member gives its weight to
    its own label; the share of the votes is the score and the confidence; equal shares are told
    apart by mean probability, then by the order of the labels. Independent labels are voted on one
    by one.

    Returns:
        Label, confidence, scores of shape (labels,), and the share of the weight that agrees.
    """
    weights = np.array([vote.weight for vote in votes])
    weights = weights / weights.sum()
    matrix = np.stack([vote.scores for vote in votes])
    mean = np.asarray(weights @ matrix)
    if method == "soft":
        scores = mean
        label, confidence = head.decide(scores)
    elif head.activation == "sigmoid":
        bounds = np.array([head.thresholds.get(name, 0.5) for name in head.labels])
        scores = np.asarray(weights @ (matrix >= bounds))
        best = max(range(len(scores)), key=lambda at: (scores[at], mean[at], -at))
        is_given = scores[best] >= 0.5
        label = head.labels[best] if is_given else NO_LABEL
        confidence = float(scores[best] if is_given else 1.0 - scores[best])
    else:
        scores = np.array(
            [
                sum(w for w, vote in zip(weights, votes, strict=True) if vote.label == name)
                for name in head.labels
            ]
        )
        best = max(range(len(scores)), key=lambda at: (round(float(scores[at]), 12), mean[at], -at))
        label, confidence = head.labels[best], float(scores[best])
    agreement = sum(w for w, vote in zip(weights, votes, strict=True) if vote.label == label)
    return label, confidence, scores, float(agreement)


def vote_on_rows(
    spec: EnsembleSpec, votes: Sequence[tuple[float, Scores]]
) -> tuple[Scores, Scores]:
    """Combine at least one member's scores of the same rows.

    Args:
        spec: the ensemble.
        votes: weight and scores, shape (rows,), of each member that answered.

    Returns:
        Scores and agreement, both of shape (rows,). Soft: the weighted mean. Hard: the share of
        the weight that votes for the positive class.
    """
    weights = np.array([weight for weight, _ in votes])
    weights = weights / weights.sum()
    matrix = np.stack([scores for _, scores in votes])
    positive = np.asarray(weights @ (matrix >= spec.vote_threshold))
    scores = np.asarray(weights @ matrix) if spec.method == "soft" else positive
    bound = spec.vote_threshold if spec.method == "soft" else 0.5
    return scores, np.where(scores >= bound, positive, 1.0 - positive)
