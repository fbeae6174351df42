"""Wire models of text prediction (the fixed contract and its additions)."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from services.inference.schemas import EnsembleAnswer

TEXTS_MAX = 1_000
_TEXT_MAX = 1_000
# What a named model takes per text; longer ones come in pieces.
_NAMED_TEXT_MAX = 100_000


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    return value


Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[
    str, Field(strict=True, min_length=1, max_length=_TEXT_MAX), AfterValidator(_not_blank)
]
LongText = Annotated[
    str, Field(strict=True, min_length=1, max_length=_NAMED_TEXT_MAX), AfterValidator(_not_blank)
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PredictRequest(_Request):
    """A text to judge."""

    CHARACTERS_MAX: ClassVar[int] = _TEXT_MAX

    text: Text
    include_metrics: Flag = Field(False, description="Adds `metric`.")


class PredictBatchRequest(_Request):
    """Up to 1,000 texts; each is checked and answered by itself."""

    texts: Annotated[list[Any], Field(min_length=1, max_length=TEXTS_MAX)]
    include_metrics: Flag = False
    batch_id: (
        Annotated[
            str,
            Field(
                strict=True, min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@-]*$"
            ),
        ]
        | None
    ) = None


class TextParameters(_Request):
    """How to answer."""

    timeout_ms: Annotated[int, Field(strict=True, ge=1, le=60_000)] | None = None
    top_k: Annotated[int, Field(strict=True, ge=1, le=100)] | None = None


class TextPredictRequest(_Request):
    """Texts for a named model."""

    inputs: Annotated[list[LongText], Field(min_length=1, max_length=TEXTS_MAX)]
    version: Annotated[str, Field(strict=True, pattern=r"^[0-9]{1,9}$")] | None = None
    parameters: TextParameters = TextParameters()


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PredictionMetric(_Answer):
    """What the caller may keep about one prediction."""

    prediction_id: str
    timestamp: str
    confidence: float
    inference_time_ms: float
    sentiment: Literal["positive", "negative", "neutral"]
    input_length: int
    model_version: str


class PredictAnswer(_Answer):
    """The sentiment of one text."""

    sentiment: Literal["positive", "negative", "neutral"]
    confidence: float
    inference_time_ms: float
    timestamp: str
    model_version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    metric: PredictionMetric | None
    scores: dict[str, float]
    cached: bool
    truncated: bool
    prediction_id: str
    request_id: str
    model_arm: Literal["stable", "candidate", "fallback"]
    ensemble: EnsembleAnswer | None = None
    degraded: bool = False


class PredictBatchAnswer(_Answer):
    """Results in input order; an item holds the fields of a single answer, or `error`."""

    batch_id: str
    results: list[dict[str, Any]]
    succeeded: int
    failed: int
    model_version: str
    latency_ms: float


class TextPredictAnswer(_Answer):
    """What a named text model says."""

    request_id: str
    model: dict[str, Any]
    predictions: list[dict[str, Any]]
    cached: bool
    degraded: bool
    latency_ms: float
