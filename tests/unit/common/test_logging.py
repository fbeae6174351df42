"""Logs: only allow-listed fields, ids of the request, no personal data."""

import io
from typing import Any

import orjson
import structlog

from libs.common import context
from libs.common.logging import LOGGABLE, allow_listed, configure_logging


def test_fields_that_nobody_judged_are_dropped_and_named() -> None:
    event: dict[str, Any] = {"event": "scored", "card_id": "card_1", "status": 200}
    assert allow_listed(None, "info", event) == {
        "event": "scored",
        "status": 200,
        "dropped_fields": ["card_id"],
    }


def test_no_name_of_personal_data_or_secret_is_on_the_list() -> None:
    forbidden = {
        "text",
        "body",
        "card_id",
        "user_id",
        "email",
        "authorization",
        "api_key",
        "query",
        "headers",
        "password",
        "token",
        "secret",
        "value",
        "values",
        "data",
    }
    assert not forbidden & LOGGABLE


def test_a_line_carries_the_ids_of_the_request() -> None:
    configure_logging("inference", log_format="json")
    output = io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(output))
    context.bind(context.RequestContext(request_id="r1", correlation_id="c1", trace_id="t1"))
    try:
        structlog.get_logger().info("scored", status=200, card_id="card_1")
    finally:
        context.bind(context.RequestContext())
        structlog.reset_defaults()
    line = orjson.loads(output.getvalue())
    assert (line["request_id"], line["correlation_id"], line["trace_id"]) == ("r1", "c1", "t1")
    assert line["service"] == "inference"
    assert "card_1" not in output.getvalue()


def test_an_exception_is_logged_without_its_message_or_variables() -> None:
    configure_logging("inference", log_format="json")
    output = io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(output))
    card = "card_00000001"
    try:
        raise ValueError(f"bad value {card}")
    except ValueError:
        structlog.get_logger().exception("unhandled error")
    finally:
        structlog.reset_defaults()
    line = orjson.loads(output.getvalue())
    assert line["exception"].startswith("ValueError at test_logging.py:")
    assert card not in output.getvalue()
