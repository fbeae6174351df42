"""Wire models of scoring (`notes/mission-contracts.md` and its additions).

Requests are strict: a string or a boolean is no number, unknown fields are refused. Answers are
built as plain dictionaries on the hot path; tests hold them to the models here.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

BATCH_REQUESTS_MAX = 1_000
# Keeps amounts in minor units below 2^40, the bound of exact sums in the feature rings.
AMOUNT_MAX = 1e9


def _aware(value: str) -> str:
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("must be an RFC 3339 time") from None
    if parsed.tzinfo is None:
        raise ValueError("must carry a UTC offset, for example a final Z")
    return value


Identifier = Annotated[
    str, Field(strict=True, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$")
]
Amount = Annotated[float, Field(strict=True, ge=0, le=AMOUNT_MAX, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Timestamp = Annotated[str, Field(strict=True, max_length=40), AfterValidator(_aware)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FraudRequest(_Request):
    """A card payment to score."""

    card_id: Identifier
    transaction_amount: Amount = Field(description="Major units, for example 150.0.")
    merchant_id: Identifier | None = None
    mcc_code: Annotated[str, Field(strict=True, pattern=r"^[0-9]{4}$")] | None = Field(
        None, description="ISO 18245 category, four digits."
    )
    country_code: Annotated[str, Field(strict=True, pattern=r"^[A-Za-z]{2}$")] | None = Field(
        None, description="ISO 3166 alpha-2."
    )
    transaction_id: Identifier | None = Field(
        None, description="The id under which the payment is or will be ingested: it counts once."
    )
    timestamp: Timestamp | None = Field(
        None, description="When the payment happens, at most 5 minutes ahead; default now."
    )
    explain: Flag = Field(False, description="Adds explanation_detail.")


class PersonalizationRequest(_Request):
    """A user and an item to score."""

    user_id: Identifier
    item_id: Identifier
    item_category: Identifier | None = None
    item_price: Amount | None = None
    session_id: Identifier | None = None
    timestamp: Timestamp | None = Field(
        None, description="When the item is shown, at most 5 minutes ahead; default now."
    )


class BatchRequest(_Request):
    """Up to 1,000 requests of one kind; each is checked and answered by itself."""

    model_type: Literal["fraud_detection", "personalization"]
    requests: Annotated[list[Any], Field(min_length=1, max_length=BATCH_REQUESTS_MAX)]
    batch_id: Identifier | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ExplainedFeature(_Answer):
    """One feature of a group; value null when missing."""

    name: str
    value: float | None
    contribution: float


class ExplainedGroup(_Answer):
    """One group with its summed contribution."""

    group: str
    contribution: float
    features: list[ExplainedFeature]


class ExplanationDetail(_Answer):
    """Exact contributions: base_value plus all of them is margin."""

    method: Literal["tree_shap"]
    space: Literal["margin"]
    model: str
    base_value: float
    margin: float
    groups: list[ExplainedGroup]


class _Common(_Answer):
    features_used: int
    latency_ms: float
    model_version: str
    feature_freshness_sec: int | None
    request_id: str
    prediction_id: str
    model_arm: Literal["stable"]
    features_missing: list[str]
    features_stale: list[str]
    degraded: bool
    degraded_reasons: list[str]


class FraudAnswer(_Common):
    """Score, decision and reasons."""

    fraud_score: float
    risk_level: Literal["low", "medium", "high", "critical"]
    confidence: float
    recommended_action: Literal["approve", "review", "challenge", "decline"]
    explanation: str
    explanation_method: Literal["tree_shap", "none"]
    top_risk_factors: list[str]
    explanation_detail: ExplanationDetail | None = None


class PersonalizationAnswer(_Common):
    """What two models say about a user and an item, and the rules around them."""

    relevance_score: float
    conversion_probability: float
    engagement_score: float
    user_segment: str
    behavioral_signals: list[str]
    conversion_model_version: str


class BatchItem(_Answer):
    """One result or one problem."""

    index: int
    status: int
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class BatchAnswer(_Answer):
    """Results in input order."""

    batch_id: str
    results: list[BatchItem]
    succeeded: int
    failed: int
    latency_ms: float
