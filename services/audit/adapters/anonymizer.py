"""Asks guardrails who is named in an operator's words, before these are hashed for ever.

It never stops the log: a text that guardrails did not judge in time is withheld, not kept.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from libs.common.errors import ServiceError
from libs.common.http_client import ServiceClient
from libs.common.logging import get_logger
from services.audit.domain.events import Accepted
from services.audit.domain.texts import Finding, mask, texts_of, with_texts

log = get_logger()

TIMEOUT_S = 2.0
TEXTS_MAX = 100  # what guardrails takes in one call
SCORE_MIN = 0.4
# Times and addresses of pages are what such a record is about; they name nobody by themselves.
_KEPT = frozenset({"DATE_TIME", "URL"})


class Anonymizer:
    """Masks the text members of events."""

    def __init__(self, guardrails: ServiceClient, registry: CollectorRegistry) -> None:
        self._guardrails = guardrails
        self._texts = Counter(
            "gatehouse_audit_texts_total",
            "Texts in events by what became of them: kept, masked or withheld.",
            ("outcome",),
            registry=registry,
        )

    async def clean(self, events: Sequence[Accepted]) -> list[Accepted]:
        """Give the events with every text masked, or withheld."""
        wanted = sorted({text for event in events for text in texts_of(event) if text})
        if not wanted:
            return list(events)
        masked: dict[str, str] = {}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                for start in range(0, len(wanted), TEXTS_MAX):
                    masked |= await self._judge(wanted[start : start + TEXTS_MAX])
        except (ServiceError, TimeoutError, ValueError, KeyError, TypeError) as error:
            log.warning("texts withheld", error_type=type(error).__name__)
        self._count(wanted, masked)
        return [with_texts(event, masked) for event in events]

    async def _judge(self, texts: Sequence[str]) -> dict[str, str]:
        reply = await self._guardrails.request(
            "POST",
            "/presidio/analyze",
            json={"text": list(texts), "language": "en", "score_threshold": SCORE_MIN},
            scopes=("guardrails:check",),
            timeout_s=TIMEOUT_S,
            tenant="",
        )
        if reply.status != 200:
            raise ValueError(f"guardrails answered {reply.status}")
        found: list[list[dict[str, Any]]] = reply.json()
        return {
            text: mask(text, [_finding(item) for item in items if item["entity_type"] not in _KEPT])
            for text, items in zip(texts, found, strict=True)
        }

    def _count(self, wanted: Iterable[str], masked: dict[str, str]) -> None:
        for text in wanted:
            new = masked.get(text)
            outcome = "withheld" if new is None else "kept" if new == text else "masked"
            self._texts.labels(outcome).inc()


def _finding(item: dict[str, Any]) -> Finding:
    return Finding(int(item["start"]), int(item["end"]), str(item["entity_type"]))
