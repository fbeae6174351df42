"""Guarded text: a tenant's texts are checked by guardrails before a model sees them.

`enforce`: a block is 422 with the verdict, a mask replaces the text, and a check that cannot be
made refuses the request. `shadow`: the check runs beside the request and only leaves its record.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from libs.common.catalog import Route
from libs.common.errors import ServiceError, UnavailableError
from libs.common.http_client import ServiceClient
from services.gateway.adapters.exchange import Exchange
from services.gateway.domain import guarded_text
from services.gateway.domain.guarded_text import Found
from services.gateway.domain.tenants import GuardRule
from services.gateway.errors import BinaryTextError, BlockedTextError, EncodedTextError

_PATH = "/v1/guardrails/validate/batch"
# What guardrails takes in one call.
_TEXTS_PER_CALL = 100
_TIMEOUT_S = 10.0
_SHADOWS_MAX = 64
_BINARY_HEADER = b"inference-header-content-length"


def pointers_of(route: Route) -> tuple[str, ...]:
    """Name where a route carries text; empty when it carries none."""
    if route.text_pointers:
        return route.text_pointers
    if route.error_shape == "v2" and route.method == "POST":
        return guarded_text.V2_POINTERS
    return ()


class Guard:
    """Asks guardrails about the texts of one request."""

    def __init__(self, client: ServiceClient, registry: CollectorRegistry) -> None:
        self._client = client
        self._shadows: set[asyncio.Task[None]] = set()
        self._outcomes = Counter(
            "gatehouse_gateway_guard_total",
            "Guarded requests by outcome: allowed, masked, blocked, failed, shadowed, skipped.",
            ("outcome",),
            registry=registry,
        )

    async def checked(
        self, exchange: Exchange, route: Route, rule: GuardRule, body: bytes
    ) -> bytes:
        """Give the body that may go on.

        Args:
            exchange: the admitted request of a tenant whose rule is not `off`.
            route: a route that carries text.
            rule: the tenant's.
            body: as the caller sent it.

        Raises:
            BlockedTextError, BinaryTextError, EncodedTextError: the text does not go on.
            BadRequestError, InvalidInputError: the body cannot be read in one way only.
            UnavailableError: guardrails cannot say (only with `enforce`).
        """
        try:
            document, found = self._texts(exchange, route, body)
        except ServiceError:
            if rule.mode == "shadow":
                self._outcomes.labels("skipped").inc()
                return body
            raise
        if not found:
            return body
        if rule.mode == "shadow":
            self._beside(found, rule, exchange)
            return body
        try:
            results = await self._ask(found, rule, exchange)
        except ServiceError as error:
            self._outcomes.labels("failed").inc()
            raise UnavailableError(
                "The texts of this request cannot be checked right now.", code="guard_unavailable"
            ) from error
        self._refuse_blocked(found, results)
        if all(result["action"] != "mask" for result in results):
            self._outcomes.labels("allowed").inc()
            return body
        self._outcomes.labels("masked").inc()
        texts = [
            result["text"] if result["action"] == "mask" else item.text
            for item, result in zip(found, results, strict=True)
        ]
        return guarded_text.replace(found, texts, document)

    @staticmethod
    def _texts(exchange: Exchange, route: Route, body: bytes) -> tuple[Any, list[Found]]:
        if exchange.fields.get(b"content-encoding", b"identity").lower() != b"identity":
            raise EncodedTextError("A guarded tenant's text must not be compressed.")
        header_length = exchange.text(_BINARY_HEADER)
        if header_length:
            if guarded_text.binary_text_tensor(body, header_length):
                raise BinaryTextError(
                    "Text in a binary tensor cannot be checked.",
                    hint="Send the text as JSON data; numeric tensors may stay binary.",
                )
            return None, []
        document = guarded_text.parse(body)
        return document, guarded_text.find(document, pointers_of(route))

    async def _ask(
        self, found: Sequence[Found], rule: GuardRule, exchange: Exchange
    ) -> list[dict[str, Any]]:
        caller = exchange.context.caller
        assert caller is not None
        results: list[dict[str, Any]] = []
        for start in range(0, len(found), _TEXTS_PER_CALL):
            texts = [item.text for item in found[start : start + _TEXTS_PER_CALL]]
            question = {"texts": texts, **({"policy": rule.reference} if rule.reference else {})}
            reply = await self._client.request(
                "POST",
                _PATH,
                json=question,
                timeout_s=_TIMEOUT_S,
                tenant=caller.tenant,
                scopes=("guardrails:check",),
            )
            answered = reply.json().get("results") if reply.status == 200 else None
            if not isinstance(answered, list) or len(answered) != len(texts):
                raise UnavailableError(f"guardrails answered {reply.status}.")
            results += answered
        return results

    def _refuse_blocked(self, found: Sequence[Found], results: Sequence[dict[str, Any]]) -> None:
        blocked = [
            {"pointer": item.pointer, **_verdict(result)}
            for item, result in zip(found, results, strict=True)
            if result["action"] == "block"
        ]
        if blocked:
            self._outcomes.labels("blocked").inc()
            raise BlockedTextError("A policy does not let this text pass.", verdicts=blocked)

    def _beside(self, found: Sequence[Found], rule: GuardRule, exchange: Exchange) -> None:
        if len(self._shadows) >= _SHADOWS_MAX:
            self._outcomes.labels("skipped").inc()
            return

        async def ask() -> None:
            try:
                await self._ask(found, rule, exchange)
                self._outcomes.labels("shadowed").inc()
            except ServiceError:
                self._outcomes.labels("failed").inc()

        task = asyncio.create_task(ask())
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)


def _verdict(result: dict[str, Any]) -> dict[str, Any]:
    """Give what a refusal may show: no text, no positions of what was found."""
    return {
        "id": result.get("id"),
        "action": result["action"],
        "policy": result.get("policy"),
        "version": result.get("version"),
        "status": result.get("status"),
        "validators": [
            {name: item.get(name) for name in ("name", "version", "action", "labels", "score")}
            for item in result.get("validators", ())
        ],
    }
