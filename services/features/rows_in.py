"""Rows of a feature service as they are sent: entities, moment, what the request carried."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from libs.common.features.contract import FeatureRequest
from libs.common.features.layout import VALUE_MAX
from services.features.domain.definitions import FEATURE_SERVICES

_Id = Annotated[str, Field(min_length=1, max_length=128)]
_Amount = Annotated[int, Field(ge=0, lt=VALUE_MAX)]


def _known(name: str) -> str:
    if name not in SERVICE_NAMES:
        raise ValueError(f"must be one of {', '.join(sorted(SERVICE_NAMES))}")
    return name


SERVICE_NAMES = frozenset(service.name for service in FEATURE_SERVICES)
ServiceName = Annotated[str, AfterValidator(_known)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Entities(_Model):
    """Join keys; which ones count depends on the feature service."""

    card_id: _Id | None = None
    merchant_id: _Id | None = None
    user_id: _Id | None = None
    item_id: _Id | None = None
    session_id: _Id | None = None


class RowValues(_Model):
    """What the request itself carried."""

    amount_minor: _Amount | None = None
    price_minor: _Amount | None = None
    mcc_code: Annotated[str, Field(pattern=r"^[0-9]{4}$")] | None = None
    country_code: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None
    device_id: _Id | None = None
    item_category: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class Row(_Model):
    """One row to evaluate.

    Attributes:
        as_of: the moment; nothing that arrived later is seen.
        event_id: the event that the row is, so that it counts once.
    """

    entities: Entities
    as_of: Annotated[AwareDatetime, Field(strict=False)]
    values: RowValues = RowValues()
    event_id: _Id | None = None

    def request(self) -> FeatureRequest:
        """Give the row as the reader takes it."""
        entities = {
            name.removesuffix("_id"): value
            for name, value in self.entities.model_dump(exclude_none=True).items()
        }
        values: dict[str, Any] = self.values.model_dump(exclude_none=True)
        return FeatureRequest(entities, values, milliseconds(self.as_of), self.event_id)


class HistoricalBody(_Model):
    """`POST /features/historical`.

    Attributes:
        feature_service: of a model, or one that the tenant defined over computed views.
        include: the model's inputs, or the raw values they are derived from.
        labels_known_by: also give each row's label as it was known at this time; only with
            `event_id`. A label that became available later is null.
    """

    feature_service: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
    rows: Annotated[list[Row], Field(min_length=1, max_length=20_000)]
    include: Literal["features", "raw"] = "features"
    labels_known_by: Annotated[AwareDatetime, Field(strict=False)] | None = None


class Sample(Row):
    """One served vector.

    Attributes:
        sample_id: unique; a repeated one changes nothing.
        offsets: by view, the log offset that the blob had, -1 without a blob.
        raw: raw values as served, in the order of the service's contract.
    """

    sample_id: _Id
    feature_service: ServiceName
    offsets: dict[str, int]
    raw: list[float | None]


class SamplesBody(_Model):
    """`POST /features/samples`."""

    samples: Annotated[list[Sample], Field(min_length=1, max_length=1000)]


class FeedbackBody(_Model):
    """`POST /v1/feedback`: what a decision turned out to be; exactly one id is given."""

    transaction_id: _Id | None = None
    prediction_id: _Id | None = None
    label: Annotated[str, Field(min_length=1, max_length=64)] | bool
    occurred_at: Annotated[AwareDatetime, Field(strict=False)] | None = None


class ErasureBody(_Model):
    """`POST /features/erasures`."""

    entity: Literal["card", "merchant", "user", "item", "session"]
    id: _Id


def milliseconds(moment: datetime) -> int:
    """Give Unix milliseconds."""
    return int(moment.astimezone(UTC).timestamp() * 1000)
