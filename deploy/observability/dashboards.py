"""`python -m deploy.observability.dashboards`: write the Grafana dashboards from the table below.

They lie in the chart (files/dashboards), which ships them as ConfigMaps; compose mounts the same
folder. A test compares the files with this output and each metric with the services' registries.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "helm" / "gatehouse" / "files" / "dashboards"
PROMETHEUS = {"type": "prometheus", "uid": "gatehouse-prometheus"}
_WIDTH, _HEIGHT = 12, 8
_SCORES = 'route=~"/score/(fraud|personalization)"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    Attributes:
        title: what it shows.
        queries: (PromQL, legend) pairs.
        unit: Grafana's name of the unit.
        bound: value drawn as a line, such as an objective.
        exemplars: whether dots link to traces.
    """

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    bound: float | None = None
    exemplars: bool = False


def quantiles(metric: str, by: str = "", where: str = "") -> list[tuple[str, str]]:
    """Give queries for median, p95 and p99 of a histogram.

    Args:
        metric: name without `_bucket`.
        by: a label to keep apart, or nothing.
        where: label matchers.
    """
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return [
        (
            f"histogram_quantile({share}, "
            f"sum by ({labels}) (rate({metric}_bucket{{{where}}}[5m])))",
            f"p{round(share * 100)}{legend}",
        )
        for share in (0.5, 0.95, 0.99)
    ]


def rate(metric: str, by: str, where: str = "") -> tuple[str, str]:
    """Give the query for the rate of a counter by one label."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[5m]))", f"{{{{{by}}}}}"


DASHBOARDS: dict[str, tuple[str, list[Panel]]] = {
    "gatehouse-overview": (
        "Gatehouse: overview",
        [
            Panel(
                "Requests at the door",
                [rate("gatehouse_gateway_http_requests_total", "route")],
                "reqps",
            ),
            Panel(
                "Share of failed calls (objective: 1 %)",
                [
                    ("gatehouse:errors:ratio_rate5m", "5 minutes"),
                    ("gatehouse:errors:ratio_rate1h", "1 hour"),
                ],
                "percentunit",
                0.01,
            ),
            Panel(
                "Scores: p95 and p99 (objectives: 150 and 300 ms)",
                quantiles("gatehouse_gateway_http_request_duration_seconds", "", _SCORES),
                "s",
                0.15,
                exemplars=True,
            ),
            Panel(
                "Share of scores above 150 ms (5 % may) and 300 ms (1 % may)",
                [
                    ("gatehouse:slow150ms:ratio_rate5m", "above 150 ms"),
                    ("gatehouse:slow300ms:ratio_rate5m", "above 300 ms"),
                ],
                "percentunit",
                0.05,
            ),
            Panel(
                "Breakers: 2 is open",
                [("max by (upstream) (gatehouse_gateway_breaker_state)", "{{upstream}}")],
            ),
            Panel(
                "Calls to services by outcome",
                [rate("gatehouse_gateway_upstream_outcomes_total", "outcome")],
                "reqps",
            ),
            Panel(
                "In flight against the adaptive limit",
                [
                    (
                        "sum by (upstream) (gatehouse_gateway_upstream_in_flight)",
                        "{{upstream}} in flight",
                    ),
                    (
                        "sum by (upstream) (gatehouse_gateway_concurrency_limit)",
                        "{{upstream}} limit",
                    ),
                ],
            ),
            Panel("Stores reached", [("gatehouse:dependency_up", "{{service}} {{dependency}}")]),
        ],
    ),
    "gatehouse-inference": (
        "Gatehouse: inference",
        [
            Panel("Requests", [rate("inference_requests_total", "endpoint")], "reqps"),
            Panel("Errors by type", [rate("inference_errors_total", "type")], "reqps"),
            Panel(
                "Duration by endpoint",
                quantiles("inference_request_duration_seconds", "endpoint"),
                "s",
                exemplars=True,
            ),
            Panel("Feature reads", quantiles("feature_fetch_duration_seconds", "service"), "s"),
            Panel("Model calls", quantiles("model_inference_duration_seconds", "model"), "s"),
            Panel(
                "Explanations", quantiles("inference_explanation_duration_seconds", "model"), "s"
            ),
            Panel(
                "Scores: median and tails",
                quantiles("prediction_scores", "model"),
                "percentunit",
            ),
            Panel(
                "Feature values by status",
                [rate("inference_feature_status_total", "status")],
                "ops",
            ),
            Panel(
                "Degraded answers by reason", [rate("inference_degraded_total", "reason")], "reqps"
            ),
            Panel(
                "Model states",
                [
                    (
                        "sum by (model, version, state) (inference_model_state)",
                        "{{model}} {{version}} {{state}}",
                    )
                ],
            ),
            Panel(
                "Memory of models",
                [("sum by (model) (inference_model_memory_bytes)", "{{model}}")],
                "bytes",
            ),
            Panel(
                "Queue of text models", [("sum by (model) (inference_queue_items)", "{{model}}")]
            ),
            Panel("Batch sizes", quantiles("inference_batch_size", "model")),
            Panel("Prediction cache", [rate("inference_cache_total", "result")], "ops"),
        ],
    ),
    "gatehouse-guardrails": (
        "Gatehouse: guardrails",
        [
            Panel(
                "Verdicts by action", [rate("gatehouse_guardrails_verdicts_total", "action")], "ops"
            ),
            Panel(
                "Findings by label", [rate("gatehouse_guardrails_findings_total", "label")], "ops"
            ),
            Panel(
                "Duration of validators",
                quantiles("gatehouse_guardrails_validator_duration_seconds", "validator"),
                "s",
            ),
            Panel(
                "Verdict cache",
                [rate("gatehouse_guardrails_cache_lookups_total", "outcome")],
                "ops",
            ),
            Panel(
                "Duration of calls",
                quantiles("gatehouse_guardrails_http_request_duration_seconds", "route"),
                "s",
                exemplars=True,
            ),
            Panel("Open streams", [("sum(gatehouse_guardrails_streams_active)", "streams")]),
        ],
    ),
    "gatehouse-data": (
        "Gatehouse: features, events, audit, analytics",
        [
            Panel(
                "Ingested events by outcome",
                [rate("gatehouse_features_events_total", "outcome")],
                "ops",
            ),
            Panel(
                "From arrival to readable (objective: 5 minutes)",
                quantiles("gatehouse_features_ingest_to_readable_seconds"),
                "s",
                300,
            ),
            Panel(
                "Events not yet in the windows",
                [("max(gatehouse_features_log_lag_events)", "events")],
            ),
            Panel("Undelivered audit events", [("gatehouse:events_backlog", "{{service}}")]),
            Panel(
                "Age of the oldest of them",
                [("gatehouse:events_oldest_age_seconds", "{{service}}")],
                "s",
                300,
            ),
            Panel(
                "Lost or refused events", [("gatehouse:events_lost:rate15m", "{{service}}")], "ops"
            ),
            Panel(
                "Events taken by audit",
                [rate("gatehouse_audit_ingested_events_total", "status")],
                "ops",
            ),
            Panel(
                "Entries analytics is behind",
                [("max(gatehouse_analytics_tail_lag_entries)", "entries")],
            ),
            Panel(
                "Reports by writer",
                [rate("gatehouse_analytics_reports_total", "generated_by")],
                "ops",
            ),
            Panel(
                "Gemini attempts",
                [rate("gatehouse_analytics_gemini_attempts_total", "outcome")],
                "ops",
            ),
        ],
    ),
    "gatehouse-processes": (
        "Gatehouse: processes",
        [
            Panel("Answering", [('up{job="gatehouse"}', "{{service}} {{instance}}")]),
            Panel(
                "Memory",
                [('process_resident_memory_bytes{job="gatehouse"}', "{{service}} {{instance}}")],
                "bytes",
            ),
            Panel("Processor cores", [("gatehouse:cpu_cores:rate5m", "{{service}}")], bound=0.9),
            Panel(
                "Open files", [('process_open_fds{job="gatehouse"}', "{{service}} {{instance}}")]
            ),
            Panel(
                "Versions",
                [("count by (service, version) (gatehouse_build_info)", "{{service}} {{version}}")],
            ),
            Panel(
                "Limits: decisions at the door",
                [rate("gatehouse_gateway_limit_decisions_total", "outcome")],
                "ops",
            ),
        ],
    ),
}


def dashboard(uid: str) -> dict[str, Any]:
    """Give one dashboard as Grafana reads it."""
    title, panels = DASHBOARDS[uid]
    return {
        "uid": uid,
        "title": title,
        "tags": ["gatehouse"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bound is not None:
        steps.append({"color": "red", "value": panel.bound})
    return {
        "id": number + 1,
        "title": panel.title,
        "type": "timeseries",
        "datasource": PROMETHEUS,
        "gridPos": {
            "x": number % 2 * _WIDTH,
            "y": number // 2 * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": {
                    "thresholdsStyle": {"mode": "off" if panel.bound is None else "line"},
                },
            },
            "overrides": [],
        },
        "targets": [
            {
                "refId": chr(ord("A") + position),
                "datasource": PROMETHEUS,
                "expr": query,
                "legendFormat": legend,
                "exemplar": panel.exemplars,
            }
            for position, (query, legend) in enumerate(panel.queries)
        ],
    }


def files() -> dict[str, str]:
    """Give the text of every file by name."""
    return {f"{uid}.json": json.dumps(dashboard(uid), indent=2) + "\n" for uid in DASHBOARDS}


def main() -> int:
    """Write the files."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (TARGET / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
