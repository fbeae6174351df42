"""Structured logs: JSON in production, readable on a terminal, no personal data.

An event is a constant phrase plus fields. A field is written only if its name is on the allow-list:
a new field must be judged once, here, and a value that slips in elsewhere is dropped and counted in
`dropped_fields`. Trace and request ids come from the request context.
"""

import logging
import sys
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson
import structlog

from libs.common.context import RequestContext, current

# Names whose values may be logged. Never add: text, body, query, authorization, card, user, email.
_LOGGABLE_NAMES = """
action address age_s alias attempt backlog_bytes backlog_events batch bytes cached calls code
component count current dependency detail digest documents duration_ms endpoint engine epoch
error error_type errors event_id events exit_code expected file from_version head hint index
interval_s items key_id kind lag lag_s latency_ms limit lines load_s method metric minute mode
model models name offset origin partition partitions path pid policy pool port prefix previous
principal_kind quarantined reason release remaining_s retry_after_s revision rollout route rows rule
schema_version seconds segment service signal size source state status tables tenant to_version
total tree_size type upstream url_host validator variable version wait_s warnings window
"""
LOGGABLE: frozenset[str] = frozenset(_LOGGABLE_NAMES.split())
_ALWAYS = frozenset(
    {
        "event",
        "level",
        "timestamp",
        "service",
        "request_id",
        "correlation_id",
        "trace_id",
        "dropped_fields",
        "exception",
        "logger",
    }
)


def _add_context(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    context = current()
    if context.request_id:
        event["request_id"] = context.request_id
        event["correlation_id"] = context.correlation_id
        if context.trace_id:
            event["trace_id"] = context.trace_id
    return event


def allow_listed(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Drop every field whose name is not on the allow-list and name what was dropped."""
    dropped = [key for key in event if key not in LOGGABLE and key not in _ALWAYS]
    for key in dropped:
        del event[key]
    if dropped:
        event["dropped_fields"] = sorted(dropped)
    return event


def _safe_exception(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Render an exception as its types and frames, without messages or local variables.

    Messages of drivers and validators repeat the values they were given; frames do not.
    """
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else sys.exc_info()[1] if info else None
    if error is not None:
        event["exception"] = describe_exception(error)
    return event


def describe_exception(error: BaseException) -> str:
    """Give `Type at file:line in function <- ...` for an error and its causes."""
    parts: list[str] = []
    current_error: BaseException | None = error
    while current_error is not None and len(parts) < 4:
        frames = traceback.extract_tb(current_error.__traceback__)[-6:]
        where = " < ".join(
            f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
            for frame in reversed(frames)
        )
        parts.append(f"{type(current_error).__name__} at {where}")
        current_error = current_error.__cause__ or current_error.__context__
    return " <- ".join(parts)


def configure_logging(
    service: str, *, level: str = "info", log_format: Literal["json", "console", "auto"] = "auto"
) -> None:
    """Set up logging for the process; called once by the entry point.

    Args:
        service: name written with each line.
        level: debug, info, warning or error.
        log_format: `auto` writes for people on a terminal and JSON elsewhere.
    """
    readable = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer()
        if readable
        else structlog.processors.JSONRenderer(
            serializer=lambda value, **_: orjson.dumps(value, default=str).decode()
        )
    )

    def add_service(
        _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["service"] = service
        return event

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            add_service,
            _add_context,
            _safe_exception,
            allow_listed,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    global _access_service
    is_shown = logging.getLevelName(level.upper()) <= logging.INFO
    _access_service = "" if readable else service if is_shown else None
    # Libraries keep their own loggers quiet unless something is wrong.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")


# Who writes access lines: a service name for plain JSON, "" through structlog, None not at all.
_access_service: str | None = ""


def access_line(
    method: str, route: str, status: int, seconds: float, context: RequestContext
) -> None:
    """Write the one line of a finished request.

    The fields are fixed and all of them allow-listed, so JSON is written without the processor
    chain: 4 us in place of 20 (docs/benchmarks/gateway.md).
    """
    if _access_service is None:
        return
    duration_ms = round(seconds * 1e3, 2)
    if not _access_service:
        get_logger().info(
            "request", method=method, route=route, status=status, duration_ms=duration_ms
        )
        return
    line = orjson.dumps(
        {
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": duration_ms,
            "event": "request",
            "level": "info",
            "timestamp": datetime.now(UTC),
            "service": _access_service,
            "request_id": context.request_id,
            "correlation_id": context.correlation_id,
            "trace_id": context.trace_id,
        },
        option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE,
    )
    sys.stderr.write(line.decode())


def get_logger() -> Any:
    """Give the process's structured logger."""
    return structlog.get_logger()
