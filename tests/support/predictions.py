"""Builders of prediction and verdict events as the services emit them."""

from datetime import UTC, datetime
from typing import Any

from libs.common.events.envelope import Event


def wire_time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def prediction(at: datetime | None = None, *, tenant: str = "default", **data: Any) -> Event:
    """One prediction.made; keyword arguments replace members of `data`."""
    return Event(
        type="prediction.made",
        source="inference",
        event_class="standard",
        tenant=tenant,
        time=wire_time(at or datetime.now(UTC)),
        data={
            "route": "/predict",
            "model": "sentiment",
            "release": "1.0.0",
            "version": "1",
            "arm": "stable",
            "label": "positive",
            "score": 0.9,
            "confidence": 0.9,
            "status": "ok",
            "cached": False,
            "latency_ms": {"total": 10.0, "model": 8.0},
            "input_length": 20,
            **data,
        },
    )


def model_drift(at: datetime | None = None, *, tenant: str = "default", **data: Any) -> Event:
    """One model.drift: 2,000 rows, one input that moved and one that did not."""
    return Event(
        type="model.drift",
        source="inference",
        event_class="sampled",
        tenant=tenant,
        time=wire_time(at or datetime.now(UTC)),
        data={
            "model": "fraud",
            "version": "2",
            "release": "2.0.0",
            "rows": 5_000,
            "rows_compared": 2_000,
            "reference_rows": 600_000,
            "score_psi": 0.0,
            "score_ks": 0.01,
            "inputs_compared": 30,
            "input_psi": {"amount": 0.4, "hour": 0.0},
            "input_ks": {"amount": 0.3, "hour": 0.012},
            "score_bins": 11,
            "input_known": {"amount": 2_000, "hour": 1_500},
            "input_bins": {"amount": 11, "hour": 10},
            **data,
        },
    )


def verdict(at: datetime | None = None, *, tenant: str = "default", **data: Any) -> Event:
    """One verdict.given."""
    return Event(
        type="verdict.given",
        source="guardrails",
        event_class="standard",
        tenant=tenant,
        time=wire_time(at or datetime.now(UTC)),
        data={
            "policy": "default",
            "version": "1",
            "action": "allow",
            "validators": [],
            "cached": False,
            "latency_ms": 2.0,
            "length": 20,
            **data,
        },
    )
