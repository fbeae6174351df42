"""The use cases of the alert routes: state, history, webhook."""

from typing import Any

from libs.common.errors import InvalidInputError
from services.analytics import schemas
from services.analytics.adapters.alert_store import AlertStore, Webhook
from services.analytics.domain.alerts import Alert
from services.analytics.domain.webhooks import Destinations, origin_of, secret_of
from services.analytics.errors import WebhooksOffError


class Alerts:
    """Answers the alert routes."""

    def __init__(
        self, store: AlertStore, destinations: Destinations, *, master: str | None
    ) -> None:
        self._store = store
        self._destinations = destinations
        self._master = master

    async def open(self, tenant: str) -> schemas.Alerts:
        """List pending and firing alerts."""
        return schemas.Alerts(
            evaluated_until=await self._store.evaluated_until(),
            items=[_alert_view(alert) for alert in await self._store.open_alerts(tenant)],
        )

    async def history(self, tenant: str, query: schemas.HistoryQuery) -> schemas.History:
        """List what was heard, a page at a time."""
        before = str(query.before) if query.before else None
        rows = await self._store.transitions(tenant, before, query.limit + 1)
        shown = [_transition_view(row) for row in rows[: query.limit]]
        return schemas.History(items=shown, next=shown[-1].id if len(rows) > query.limit else None)

    async def webhook(self, tenant: str) -> schemas.WebhookView:
        """Say where alerts go."""
        return schemas.WebhookView(**_webhook(await self._store.webhook(tenant)))

    async def set_webhook(
        self, tenant: str, request: schemas.WebhookRequest, *, by: str
    ) -> schemas.WebhookSecretView:
        """Set the destination; each change makes a new secret.

        Raises:
            WebhooksOffError: no secret is configured.
            InvalidInputError: the URL is none, or its origin is not on the allow-list.
        """
        if self._master is None:
            raise WebhooksOffError(
                "Webhooks cannot be signed here.", hint="Set ANALYTICS_WEBHOOK_SECRET."
            )
        if request.url is not None and not self._destinations.allows(request.url):
            raise InvalidInputError.field("/url", "its origin is not on the list of destinations")
        stored = await self._store.set_webhook(tenant, request.url, by=by)
        secret = secret_of(self._master, tenant, stored.version) if stored.url else None
        return schemas.WebhookSecretView(**_webhook(stored), secret=secret)


def _webhook(stored: Webhook) -> dict[str, Any]:
    origin = origin_of(stored.url) if stored.url else None
    shown = f"{origin.scheme}://{origin.host}:{origin.port}" if origin else None
    return {"origin": shown, "version": stored.version, "changed_at": stored.changed_at}


def _alert_view(alert: Alert) -> schemas.AlertView:
    watched = alert.watched
    return schemas.AlertView(
        model=watched.model or None,
        release=watched.release or None,
        metric=watched.metric,
        kind=watched.kind,
        severity=alert.severity,
        value=alert.value,
        limit=alert.limit,
        n=alert.n,
        state="firing" if alert.state == "firing" else "pending",
        since=alert.since,
        is_unknown=alert.unknown_since is not None,
    )


def _transition_view(row: Any) -> schemas.TransitionView:
    delivery = None
    if row["delivery"] is not None:
        delivery = schemas.DeliveryView(
            state=row["delivery"], attempts=row["attempts"], last_outcome=row["last_outcome"]
        )
    return schemas.TransitionView(
        id=str(row["id"]),
        at=row["at"],
        model=row["model"] or None,
        release=row["release"] or None,
        metric=row["metric"],
        kind=row["kind"],
        state=row["state"],
        reason=row["reason"],
        severity=row["severity"],
        value=row["value"],
        limit=row["limit_value"],
        n=row["n"],
        window_minutes=row["window_minutes"],
        delivery=delivery,
    )
