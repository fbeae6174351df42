"""One event as a line of an export: NDJSON, CSV, or OCSF 1.6."""

import csv
import io
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import orjson

CSV_COLUMNS = (
    "index",
    "ingested_at",
    "time",
    "id",
    "type",
    "source",
    "class",
    "principal",
    "data_subject",
    "request_id",
    "traceparent",
    "data",
)
# A spreadsheet runs a cell that starts with one of these.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_API, _AUTHENTICATION, _FINDING = (6, 6003), (3, 3002), (2, 2004)
_OTHER = 99
_SUCCESS, _FAILURE = 1, 2
_SEVERITY = {"low": 2, "medium": 3, "high": 4, "critical": 5}
_FINDINGS = frozenset({"security.alert", "verdict.blocked", "audit.gap"})
_CREATED, _LOGON = 1, 1


def ndjson_line(item: Mapping[str, Any]) -> bytes:
    """Give the event as one JSON line."""
    return orjson.dumps(item) + b"\n"


def csv_header() -> bytes:
    """Give the header line."""
    return (",".join(CSV_COLUMNS) + "\r\n").encode()


def csv_line(item: Mapping[str, Any]) -> bytes:
    """Give the event as one CSV line (RFC 4180); `data` is JSON in a cell."""
    cells = []
    for name in CSV_COLUMNS:
        value = item.get(name, "")
        if name == "data_subject" and isinstance(value, Mapping):
            value = value["pseudonym"]
        if isinstance(value, Mapping | list):
            value = orjson.dumps(value).decode()
        text = str(value)
        cells.append(f"'{text}" if text.startswith(_FORMULA) else text)
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue().encode()


def ocsf_line(item: Mapping[str, Any]) -> bytes:
    """Give the event as one OCSF object: API Activity, Authentication or Detection Finding.

    What OCSF has no place for stands under `unmapped`.
    """
    kind, data = str(item.get("type", "")), dict(item.get("data") or {})
    subject = item.get("data_subject")
    if kind.startswith("auth."):
        (category, class_uid), activity = _AUTHENTICATION, _LOGON
    elif kind in _FINDINGS:
        (category, class_uid), activity = _FINDING, _CREATED
    else:
        (category, class_uid), activity = _API, _OTHER
    is_failure = kind == "auth.failed" or data.get("status") == "failed"
    document: dict[str, Any] = {
        "category_uid": category,
        "class_uid": class_uid,
        "activity_id": activity,
        "type_uid": class_uid * 100 + activity,
        "time": _milliseconds(item.get("time") or item["ingested_at"]),
        "severity_id": _SEVERITY.get(str(data.get("severity")), 1),
        "status_id": _FAILURE if is_failure else _SUCCESS,
        "metadata": {
            "version": "1.6.0",
            "uid": item.get("id", ""),
            "log_name": "gatehouse.audit",
            "logged_time": _milliseconds(item["ingested_at"]),
            "correlation_uid": item.get("request_id", ""),
            "sequence": item["index"],
            "tenant_uid": item.get("tenant", ""),
            "product": {"name": "Gatehouse", "vendor_name": "Gatehouse"},
        },
        "actor": {"user": {"uid": item.get("principal", "")}},
        "api": {"operation": kind, "service": {"name": item.get("source", "")}},
        "unmapped": data,
    }
    if isinstance(subject, Mapping):
        document["unmapped"] = {**data, "data_subject": subject["pseudonym"]}
    if class_uid == _FINDING[1]:
        title = str(data.get("rule") or data.get("policy") or data.get("reason") or kind)
        document["finding_info"] = {"uid": item.get("id", ""), "title": title}
    if class_uid == _AUTHENTICATION[1]:
        document["user"] = {"uid": str(data.get("key_id") or item.get("principal", ""))}
    return orjson.dumps(document) + b"\n"


def _milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)
