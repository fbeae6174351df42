"""Pages of the console beside the live one: each shows what the API answers to this person."""

import asyncio
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request, Response

from libs.common.settings import ServiceSettings
from services.gateway.adapters.backstage import Backstage, Seen
from services.gateway.routes.console_view import HEADERS, form_of, html

router = APIRouter(tags=["console"], include_in_schema=False)

_WINDOWS = (15, 60, 360, 1_440)
_CHARTS = ("latency", "confidence", "distribution", "drift")
# Parameters of `GET /v1/audit/events`; a test holds them to its description.
AUDIT_FILTERS = (
    "type", "decision", "model", "request_id", "principal", "data_subject", "since", "until",
)  # fmt: skip
_PAGE = 25
_DRAWN_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


async def ask(request: Request, path: str, query: str = "") -> Seen:
    """Ask the API as the person who is signed in."""
    door: Backstage = request.state.backstage
    return await door.call(request.scope, "GET", path, query=query)


@router.get("/console/models")
async def models(request: Request) -> Response:
    """Show models, versions, loads and rollouts."""
    return await _models(request)


async def _models(request: Request, done: Seen | None = None) -> Response:
    listed = await ask(request, "/models")
    names = [item["name"] for item in listed.items]
    found = await asyncio.gather(*(ask(request, f"/models/{_part(n)}/rollouts") for n in names))
    rollouts = {name: seen.items[:3] for name, seen in zip(names, found, strict=True)}
    loading = any(v["state"] in {"loading", "warming"} for i in listed.items for v in i["versions"])
    return html(
        request, "models.html", page="models", listed=listed, rollouts=rollouts, done=done,
        loading=loading,
    )  # fmt: skip


@router.post("/console/models/{name}")
async def act_on_model(name: str, request: Request) -> Response:
    """Load, unload, promote, roll back or reload, or act on a rollout."""
    form = await form_of(request)
    action, version = form.get("action", ""), form.get("version", "")
    base = f"/models/{_part(name)}"
    if action in {"load", "unload", "promote"}:
        path = f"{base}/versions/{_part(version)}/{action}"
    elif form.get("rollout"):
        path = f"{base}/rollouts/{_part(form['rollout'])}/{_part(action)}"
    else:
        path = f"{base}/{_part(action)}"
    generation = form.get("generation", "")
    document = {"generation": int(generation)} if generation.isdigit() else None
    door: Backstage = request.state.backstage
    done = await door.call(request.scope, "POST", path, document=document)
    return await _models(request, done)


@router.get("/console/analytics")
async def analytics(request: Request) -> Response:
    """Show figures of a window, alerts and charts."""
    asked = request.query_params.get("minutes", "60")
    minutes = int(asked) if asked.isdigit() and int(asked) in _WINDOWS else 60
    model = request.query_params.get("model", "")[:63]
    door: Backstage = request.state.backstage
    document = {"time_window_minutes": minutes} | ({"model": model} if model else {})
    figures, alerts, history, thresholds, listed = await asyncio.gather(
        door.call(request.scope, "POST", "/metrics/aggregated", document=document),
        ask(request, "/v1/analytics/alerts"),
        ask(request, "/v1/analytics/alerts/history", "limit=10"),
        ask(request, "/metrics/thresholds"),
        ask(request, "/models"),
    )
    query = {"time_window_minutes": str(minutes)} | ({"model": model} if model else {})
    return html(
        request,
        "analytics.html",
        page="analytics",
        minutes=minutes,
        windows=_WINDOWS,
        model=model,
        models=[item["name"] for item in listed.items],
        figures=figures,
        alerts=alerts,
        history=history,
        thresholds=thresholds,
        charts=_CHARTS,
        query=urlencode(query),
    )


@router.get("/console/charts/{kind}")
async def chart(kind: str, request: Request) -> Response:
    """Give one chart of analytics; an image cannot send a key, but it carries the cookie."""
    return await _passed_on(request, f"/v1/analytics/charts/{_part(kind)}.svg")


@router.get("/console/report")
async def report(request: Request) -> Response:
    """Give the written report of analytics."""
    return await _passed_on(request, "/v1/analytics/report.html")


@router.get("/console/compliance")
async def compliance(request: Request) -> Response:
    """Give the compliance report of audit as a page to read or print."""
    return await _passed_on(request, "/v1/audit/reports/compliance")


async def _passed_on(request: Request, path: str) -> Response:
    seen = await ask(request, path, request.url.query)
    kind = seen.headers.get("content-type", "text/plain")
    kept = {k: v for k, v in seen.headers.items() if k == "content-security-policy"}
    # A drawing or a report brings styles of its own, and may run nothing.
    policy = {
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    }
    return Response(seen.body, seen.status, media_type=kind, headers=HEADERS | policy | kept)


@router.get("/console/guardrails")
async def guardrails(request: Request) -> Response:
    """Show validators, policies, plug-ins with their trials, and the cache."""
    health, policies, plugins = await asyncio.gather(
        ask(request, "/v1/guardrails/health"),
        ask(request, "/v1/guardrails/policies"),
        ask(request, "/v1/guardrails/plugins"),
    )
    return html(
        request, "guardrails.html", page="guardrails", health=health, policies=policies,
        plugins=plugins,
    )  # fmt: skip


@router.get("/console/features")
async def features(request: Request) -> Response:
    """Show how fresh the views are, what they hold, and what the parity job found."""
    freshness, definitions, parity = await asyncio.gather(
        ask(request, "/features/freshness"),
        ask(request, "/features/definitions"),
        ask(request, "/features/parity"),
    )
    return html(
        request, "features.html", page="features", freshness=freshness, definitions=definitions,
        parity=parity,
    )  # fmt: skip


@router.get("/console/audit")
async def audit(request: Request) -> Response:
    """Search the log."""
    asked = {name: request.query_params.get(name, "")[:200] for name in AUDIT_FILTERS}
    chosen = {name: value for name, value in asked.items() if value}
    cursor = request.query_params.get("cursor", "")[:500]
    query = urlencode(chosen | {"limit": str(_PAGE)} | ({"cursor": cursor} if cursor else {}))
    found, status = await asyncio.gather(
        ask(request, "/v1/audit/events", query), ask(request, "/v1/audit/status")
    )
    following = found.document.get("next") if found.ok else None
    more = urlencode(chosen | {"cursor": following}) if following else ""
    return html(
        request, "audit.html", page="audit", asked=asked, found=found, status=status, more=more
    )


@router.get("/console/system")
async def system(request: Request) -> Response:
    """Show health, settings with their source, keys and tenants."""
    health, keys, tenants = await asyncio.gather(
        ask(request, "/health"),
        ask(request, "/v1/auth/keys", "limit=20"),
        ask(request, "/v1/admin/tenants"),
    )
    settings: ServiceSettings = request.state.platform.settings
    return html(
        request, "system.html", page="system", health=health, keys=keys, tenants=tenants,
        settings=shown_settings(settings),
    )  # fmt: skip


def shown_settings(settings: ServiceSettings) -> list[dict[str, Any]]:
    """List the settings of this process, those that were set first."""
    rows = settings.effective()
    return sorted(rows, key=lambda row: (row["source"] == "default", row["variable"]))


def _part(text: str) -> str:
    return quote(text[:200], safe="")
