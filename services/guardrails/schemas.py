"""Wire models of the native endpoints."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.guardrails.domain.guard import Outcome
from services.guardrails.domain.verdict import Decision, Verdict

BATCH_TEXTS_MAX = 100
POLICY_REFERENCE = "^[a-z0-9]{1,64}(@(draft|[1-9][0-9]{0,7}))?$"


def _encodable(text: str) -> str:
    """Refuse lone surrogates: they have no place in UTF-8, so no pattern could see them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds a lone surrogate") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CheckOptions(_Request):
    """What single and batch checks have in common."""

    policy: str | None = Field(
        default=None, pattern=POLICY_REFERENCE, description="`id` or `id@version`."
    )
    validators: Annotated[list[str], Field(min_length=1, max_length=20)] | None = Field(
        default=None, description="Only these validators of the policy."
    )
    cache_ttl: int | None = Field(
        default=None, ge=0, le=86_400, description="Seconds to remember the verdict; 0 is never."
    )


class ValidateRequest(CheckOptions):
    """One text to check."""

    text: Text


class BatchRequest(CheckOptions):
    """Up to 100 texts to check."""

    texts: list[Text] = Field(min_length=1, max_length=BATCH_TEXTS_MAX)


class SpanOut(BaseModel):
    """One finding; code points of the original text, end exclusive."""

    start: int
    end: int
    label: str
    score: float
    rule: str


class VerdictOut(BaseModel):
    """One validator's judgement; `scores` of the labels found, `measured` of all scored ones."""

    name: str
    version: str
    arm: str
    status: str
    action: str
    score: float
    labels: list[str]
    scores: dict[str, float]
    measured: dict[str, float]
    spans: list[SpanOut]


class CoverageOut(BaseModel):
    """Characters that every validator saw, and characters in all."""

    guarded: int
    total: int


class ValidateResponse(BaseModel):
    """The decision about one text; `text` is masked where the policy masks, empty when blocked."""

    id: str
    action: str
    score: float
    text: str
    status: str
    policy: str
    version: str
    coverage: CoverageOut
    validators: list[VerdictOut]
    cached: bool
    latency_ms: float


class BatchResponse(BaseModel):
    """Decisions in the order of the texts."""

    batch_id: str
    results: list[ValidateResponse]


def decision_out(
    outcome: Outcome, decision: Decision, decision_id: str, latency_ms: float
) -> dict[str, Any]:
    """Shape one decision as `ValidateResponse` describes it; a test holds the two together."""
    return {
        "id": decision_id,
        "action": decision.action.value,
        "score": decision.score,
        "text": decision.text,
        "status": decision.status.value,
        "policy": outcome.policy.id,
        "version": outcome.policy.version,
        "coverage": {"guarded": decision.guarded, "total": decision.total},
        "validators": [_verdict(verdict) for verdict in decision.verdicts],
        "cached": decision.cached,
        "latency_ms": latency_ms,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.name,
        "version": verdict.version,
        "arm": verdict.arm,
        "status": verdict.status.value,
        "action": verdict.action.value,
        "score": verdict.score,
        "labels": verdict.labels,
        "scores": verdict.scores,
        "measured": verdict.measured,
        "spans": [
            {
                "start": span.start,
                "end": span.end,
                "label": span.label,
                "score": span.score,
                "rule": span.rule,
            }
            for span in verdict.spans
        ],
    }
