"""Wire models of audit."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("must carry a UTC offset")
    return value


Moment = Annotated[datetime, AfterValidator(_aware)]
Word = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]*$")]


class EventFilter(BaseModel):
    """What events are searched by; absent means any."""

    model_config = ConfigDict(extra="forbid")

    type: Word | None = None
    source: Word | None = None
    decision: Word | None = None
    model: Word | None = None
    principal: Word | None = None
    data_subject: Word | None = None
    request_id: Word | None = None
    since: Moment | None = None
    until: Moment | None = None


class EventQuery(EventFilter):
    """Query of `GET /v1/audit/events`."""

    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    cursor: Annotated[str, Field(max_length=64)] | None = None


class ExportQuery(EventFilter):
    """Query of `GET /v1/audit/export`; an index range is for `evidence` alone."""

    format: Literal["ndjson", "csv", "ocsf", "evidence"] = "ndjson"
    from_index: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    to_index: Annotated[int, Field(ge=1, lt=1 << 63)] | None = None


class ErasureRequest(BaseModel):
    """Body of `POST /v1/audit/erasures`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    data_subject: Word


class ReportQuery(BaseModel):
    """Query of `GET /v1/audit/reports/compliance`."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[Moment | None, Field(alias="from")] = None
    until: Annotated[Moment | None, Field(alias="to")] = None
    previous_size: Annotated[int, Field(ge=1, lt=1 << 63)] | None = None
    format: Literal["json", "html"] | None = None


EventClassName = Literal["required", "standard", "sampled"]


class PolicyRequest(BaseModel):
    """Body of `PUT /v1/audit/retention/policies/{event_class}`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    keep_days: Annotated[int, Field(ge=1, le=36_500)]
    applies_to: Literal["tenant", "all"] = "tenant"


class HoldRequest(BaseModel):
    """Body of `POST /v1/audit/legal-holds`; an open time means without end."""

    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, Field(min_length=1, max_length=500, strict=True)]
    applies_to: Literal["tenant", "all"] = "tenant"
    event_class: EventClassName | None = None
    since: Moment | None = None
    until: Moment | None = None


class EntriesQuery(BaseModel):
    """Range of `GET /v1/audit/log/entries`."""

    model_config = ConfigDict(extra="forbid")

    from_index: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    limit: Annotated[int, Field(ge=1, le=5000)] = 1000
