"""The page of analytics reads what analytics answers: alerts are rendered from its own schemas."""

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from services.analytics import schemas
from services.gateway.adapters.backstage import Seen
from services.gateway.routes.console_view import templates

AT = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
FIGURES: dict[str, Any] = {
    "model": "sentiment", "release": "2.0.0", "metric": "latency_p95_ms", "kind": "change",
    "severity": "critical", "value": 612.5, "limit": 431.25, "n": 97,
}  # fmt: skip


def seen(answer: BaseModel | None) -> Seen:
    headers = {"content-type": "application/json"}
    if answer is None:
        return Seen(503, headers, b"{}", 1.0)
    return Seen(200, headers, answer.model_dump_json().encode(), 1.0)


def page(alerts: schemas.Alerts, history: schemas.History) -> str:
    return templates.get_template("analytics.html").render(
        token="", page="analytics", minutes=60, windows=(60,), model="", models=[],
        figures=seen(None), alerts=seen(alerts), history=seen(history), thresholds=seen(None),
        charts=("latency",), query="",
    )  # fmt: skip


def test_an_alert_is_shown_with_state_figure_limit_and_since():
    alert = schemas.AlertView(**FIGURES, state="firing", since=AT, is_unknown=True)
    told = schemas.TransitionView(
        **FIGURES, id="1", at=AT, state="quiet", reason="back_inside", window_minutes=15,
        delivery=schemas.DeliveryView(state="delivered", attempts=2, last_outcome="delivered"),
    )  # fmt: skip
    text = page(
        schemas.Alerts(evaluated_until=AT, items=[alert]), schemas.History(items=[told], next=None)
    )
    for shown in (
        ">firing<", ">critical<", "latency p95 ms", "against before", "sentiment", "2.0.0",
        ">612.5<", ">431.25<", ">97<", "2026-03-04T05:06:00Z", "too little seen lately",
        ">quiet<", "back inside", "delivered after 2",
    ):  # fmt: skip
        assert shown in text, shown


def test_without_alerts_the_page_says_until_when_that_is_known():
    none_heard = schemas.History(items=[], next=None)
    known = page(schemas.Alerts(evaluated_until=AT, items=[]), none_heard)
    assert "Judged until 2026-03-04T05:06:00Z" in known
    unknown = page(schemas.Alerts(evaluated_until=None, items=[]), none_heard)
    assert "Nothing was judged yet" in unknown
