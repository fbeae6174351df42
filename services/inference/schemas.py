"""Wire models of scoring (the fixed contract and its additions).

Requests are strict: a string or a boolean is no number, unknown fields are refused. Answers are
built as plain dictionaries on the hot path; tests hold them to the models here.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

BATCH_REQUESTS_MAX = 1_000
CANDIDATES_MAX = 500
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
    device_id: Identifier | None = Field(
        None, description="The phone or browser that pays, where there is one."
    )
    currency: Annotated[str, Field(strict=True, pattern=r"^[A-Z]{3}$")] | None = Field(
        None,
        description="ISO 4217 code of the amount; the base currency when absent. One without a "
        "rate is refused.",
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


class Candidate(_Request):
    """An item that may be recommended."""

    item_id: Identifier
    item_category: Identifier | None = None
    item_price: Amount | None = None


class RecommendRequest(_Request):
    """A user or a session, and the items to rank; the caller brings the candidates."""

    user_id: Identifier | None = Field(
        None, description="Absent for a visitor who is known by the session alone."
    )
    session_id: Identifier | None = None
    item_ids: Annotated[list[Identifier], Field(max_length=CANDIDATES_MAX)] = Field(
        default_factory=list, description="Candidates by id alone."
    )
    candidates: Annotated[list[Candidate], Field(max_length=CANDIDATES_MAX)] = Field(
        default_factory=list, description="Candidates with category and price: better scores."
    )
    k: Annotated[int, Field(strict=True, ge=1, le=CANDIDATES_MAX)] = 10
    categories: Annotated[list[Identifier], Field(max_length=50)] = Field(
        default_factory=list, description="Only items of these categories; empty means all."
    )
    exclude_categories: Annotated[list[Identifier], Field(max_length=50)] = Field(
        default_factory=list, description="No item of these; one without a category may stay."
    )
    price_min: Amount | None = Field(None, description="Only items known to cost at least this.")
    price_max: Amount | None = Field(None, description="Only items known to cost at most this.")
    max_per_category: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        None, description="At most so many items of one category; those without one count alone."
    )
    exclude_items: Annotated[list[Identifier], Field(max_length=CANDIDATES_MAX)] = []
    exclude_seen: Flag = Field(
        False,
        description="Leave out what the user met in 30 days or bought in 90; needs user_id, as a "
        "session's events do not name their items.",
    )

    @property
    def subject(self) -> str:
        """Whom the list is for: the user, else the session."""
        return str(self.user_id or self.session_id)

    @property
    def offered(self) -> list[Candidate]:
        """Every candidate, those with details first."""
        return [*self.candidates, *(Candidate(item_id=name) for name in self.item_ids)]

    @model_validator(mode="after")
    def _has_candidates(self) -> Self:
        if not 1 <= len(self.candidates) + len(self.item_ids) <= CANDIDATES_MAX:
            raise ValueError(f"needs 1 to {CANDIDATES_MAX} items in candidates and item_ids")
        return self


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


class EnsemblePart(_Answer):
    """One member of an ensemble in one answer."""

    model: str
    version: str
    weight: float
    status: Literal["ok", "timeout", "failed", "not_loaded"]


class EnsembleAnswer(_Answer):
    """Who took part in an answer, and what share of the voting weight agrees with it."""

    method: Literal["soft", "hard"]
    members: list[EnsemblePart]
    agreement: float
    fallback: bool


class _Common(_Answer):
    features_used: int
    latency_ms: float
    model_version: str
    feature_freshness_sec: int | None
    request_id: str
    prediction_id: str
    model_arm: Literal["stable", "candidate", "fallback"]
    features_missing: list[str]
    features_stale: list[str]
    degraded: bool
    degraded_reasons: list[str]
    ensemble: EnsembleAnswer | None = None


class ConvertedAmount(_Answer):
    """What the model read instead of an amount in another currency."""

    amount: float
    currency: str
    rate: float
    rates_as_of: str


class FraudAnswer(_Common):
    """Score, decision and reasons."""

    fraud_score: float
    risk_level: Literal["low", "medium", "high", "critical"]
    confidence: float
    recommended_action: Literal["approve", "review", "challenge", "decline"]
    explanation: str
    explanation_method: Literal["tree_shap", "none"]
    top_risk_factors: list[str]
    reason_codes: list[str]
    decision_policy: str
    converted_amount: ConvertedAmount | None = None
    explanation_detail: ExplanationDetail | None = None


class PersonalizationAnswer(_Common):
    """What two models say about a user and an item, and the rules around them."""

    relevance_score: float
    conversion_probability: float
    engagement_score: float
    user_segment: str
    behavioral_signals: list[str]
    conversion_model_version: str


class RankedItem(_Answer):
    """One recommended item."""

    item_id: str
    score: float
    rank: int


class RecommendAnswer(_Answer):
    """The best candidates, best first; `prediction_id` is null when no candidate was left."""

    items: list[RankedItem]
    candidates: int
    model_version: str
    request_id: str
    prediction_id: str | None
    degraded: bool
    degraded_reasons: list[str]
    latency_ms: float


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
