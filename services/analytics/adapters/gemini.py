"""Gemini through google-genai: one attempt at a time, every way to fail has a name.

The library's own retries are off (`attempts=1`): on a dropped connection it would otherwise send
the request again by itself, past our quota. Its `timeout` is in milliseconds. Key, base URL, API
version and backend are passed explicitly, because environment variables could replace each of them.
Exception text is never logged or kept: it carries the server's details.
"""

import asyncio
import importlib
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt

from libs.common.logging import get_logger
from services.analytics.adapters.quota import Quota
from services.analytics.domain.draft import Draft, refusal_of
from services.analytics.domain.facts import FactSheet
from services.analytics.domain.prompt import SYSTEM, facts_json, schema
from services.analytics.settings import AnalyticsSettings

log = get_logger()

Reason = Literal[
    "no_key", "quota", "quota_unavailable", "rate_limited", "upstream_error", "timeout",
    "transport", "bad_key", "bad_request", "blocked", "truncated", "empty", "invalid_json",
    "invented_number", "unknown_fact", "unsupported_issue", "unsafe_text", "circuit_open",
    "deadline", "busy",
]  # fmt: skip
# Worth another attempt; everything else would fail again, or costs more than it can bring.
_TRANSIENT: frozenset[str] = frozenset({"rate_limited", "upstream_error", "timeout", "transport"})
ATTEMPTS_MAX = 4
# Waits before the second, third and fourth attempt: 1-2, 2-4, 4-8 s.
_WAITS_S = ((1.0, 2.0), (2.0, 4.0), (4.0, 8.0))
# The server's own retryDelay is honoured up to this; a longer one ends the attempts.
RETRY_DELAY_S_MAX = 15.0
_BREAKER_FAILURES = 3
_BREAKER_OPEN_S = 30.0
_DELAY = re.compile(r"^(\d{1,6}(?:\.\d{1,9})?)s$")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no draft; `retry_delay_s` is the server's own wish."""

    reason: Reason
    retry_delay_s: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as Google counts them; thoughts are paid as answer."""

    prompt_tokens: int = 0
    answer_tokens: int = 0
    thoughts_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A draft that passed every check, and what its call used."""

    draft: Draft
    model_version: str
    usage: Usage


class GeminiWriter:
    """Writes drafts with Gemini; safe for concurrent use, one per process."""

    def __init__(
        self,
        settings: AnalyticsSettings,
        quota: Quota,
        *,
        on_attempt: Callable[[str], None] = lambda outcome: None,
        on_usage: Callable[[Usage, float], None] = lambda usage, cost_usd: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._quota = quota
        self._on_attempt = on_attempt
        self._on_usage = on_usage
        self._sleep = sleep
        self._clock = clock
        self._client: Any = None
        self._failures = 0
        self._open_until = 0.0

    async def analyse(self, sheet: FactSheet) -> Answer | Failure:
        """Ask for a draft about the facts; never raises for anything the far side does."""
        if self._settings.gemini_api_key is None:
            return Failure("no_key")
        if self._clock() < self._open_until:
            return Failure("circuit_open")
        result = await self._with_retries(sheet)
        if isinstance(result, Failure) and result.reason == "invalid_json":
            # One repair attempt: the same question again; it takes a unit of quota as any other.
            result = await self._attempt(sheet)
        self._judge(result)
        return result

    async def _with_retries(self, sheet: FactSheet) -> Answer | Failure:
        retrying = AsyncRetrying(
            retry=retry_if_result(_is_worth_retrying),
            stop=stop_after_attempt(ATTEMPTS_MAX),
            wait=_wait_s,
            sleep=self._sleep,
            retry_error_callback=_last_result,
        )
        result: Answer | Failure = await retrying(self._attempt, sheet)
        return result

    def _judge(self, result: Answer | Failure) -> None:
        if isinstance(result, Failure) and result.reason in {*_TRANSIENT, "bad_key"}:
            self._failures += 1
            if self._failures >= _BREAKER_FAILURES:
                self._open_until = self._clock() + _BREAKER_OPEN_S
        elif not isinstance(result, Failure) or not result.reason.startswith("quota"):
            self._failures = 0

    async def _attempt(self, sheet: FactSheet) -> Answer | Failure:
        granted = await self._quota.take()
        if granted != "granted":
            return Failure("quota" if granted == "exhausted" else "quota_unavailable")
        result = await self._call(sheet)
        self._on_attempt(result.reason if isinstance(result, Failure) else "ok")
        return result

    async def _call(self, sheet: FactSheet) -> Answer | Failure:
        # The first import takes a second; on this thread everything else would stand still.
        await asyncio.to_thread(importlib.import_module, "google.genai")
        from google.genai import errors, types

        settings = self._settings
        config = types.GenerateContentConfig(
            system_instruction=SYSTEM,
            temperature=settings.gemini_temperature,
            max_output_tokens=settings.gemini_max_tokens,
            response_mime_type="application/json",
            response_json_schema=schema(),
            # Thinking tokens count against the answer's limit; a report needs none.
            thinking_config=types.ThinkingConfig(thinking_budget=0),
        )
        try:
            async with asyncio.timeout(settings.gemini_timeout_s):
                response = await self._open().aio.models.generate_content(
                    model=settings.gemini_model, contents=facts_json(sheet), config=config
                )
        except errors.APIError as error:
            return _api_failure(error)
        except TimeoutError:
            return Failure("timeout")
        except ValueError:  # UnknownApiResponseError, broken JSON, a response of another shape
            return Failure("upstream_error")
        except (aiohttp.ClientError, OSError):
            return Failure("transport")
        except Exception as error:  # the library may raise anything; the rules' report must stand
            log.error("gemini call failed", error_type=type(error).__name__)
            return Failure("upstream_error")
        usage = _usage_of(response)
        # Paid whether the answer can be used or not.
        self._on_usage(usage, self._cost_usd(usage))
        return _checked(response, sheet, usage)

    def _open(self) -> Any:
        if self._client is None:
            from google import genai
            from google.genai import types

            key = self._settings.gemini_api_key
            self._client = genai.Client(
                vertexai=False,
                api_key=key.get_secret_value() if key else None,
                http_options=types.HttpOptions(
                    base_url=self._settings.gemini_base_url,
                    api_version="v1beta",
                    timeout=int(self._settings.gemini_timeout_s * 1000),
                    retry_options=types.HttpRetryOptions(attempts=1),
                ),
            )
        return self._client

    def _cost_usd(self, usage: Usage) -> float:
        prompt = usage.prompt_tokens * self._settings.gemini_prompt_usd
        answer = (usage.answer_tokens + usage.thoughts_tokens) * self._settings.gemini_answer_usd
        return (prompt + answer) / 1_000_000

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aio.aclose()
            self._client = None


def _is_worth_retrying(result: Answer | Failure) -> bool:
    if not isinstance(result, Failure) or result.reason not in _TRANSIENT:
        return False
    return result.retry_delay_s is None or result.retry_delay_s <= RETRY_DELAY_S_MAX


def _last_result(state: RetryCallState) -> Any:
    return state.outcome.result() if state.outcome else None


def _wait_s(state: RetryCallState) -> float:
    result = state.outcome.result() if state.outcome else None
    if isinstance(result, Failure) and result.retry_delay_s is not None:
        return result.retry_delay_s
    low, high = _WAITS_S[min(state.attempt_number, len(_WAITS_S)) - 1]
    return random.uniform(low, high)


def _api_failure(error: Any) -> Failure:
    code = int(error.code or 0)
    details = _details_of(error.details)
    if code == 429:
        return Failure("rate_limited", _retry_delay_of(details))
    if code >= 500:
        return Failure("upstream_error", _retry_delay_of(details))
    reasons = {detail.get("reason") for detail in details}
    return Failure(
        "bad_key" if code in {401, 403} or "API_KEY_INVALID" in reasons else "bad_request"
    )


def _details_of(body: Any) -> list[dict[str, Any]]:
    """Give the typed details of Google's error body, an empty list for any other body."""
    error = body.get("error", body) if isinstance(body, dict) else {}
    details = error.get("details") if isinstance(error, dict) else None
    return [item for item in details if isinstance(item, dict)] if isinstance(details, list) else []


def _retry_delay_of(details: list[dict[str, Any]]) -> float | None:
    for detail in details:
        match = _DELAY.match(str(detail.get("retryDelay", "")))
        if match:
            return float(match[1])
    return None


def _usage_of(response: Any) -> Usage:
    found = response.usage_metadata
    if found is None:
        return Usage()
    return Usage(
        prompt_tokens=found.prompt_token_count or 0,
        answer_tokens=found.candidates_token_count or 0,
        thoughts_tokens=found.thoughts_token_count or 0,
    )


def _checked(response: Any, sheet: FactSheet, usage: Usage) -> Answer | Failure:
    """Check in this order: blocked, candidates, finish reason, text, JSON, numbers."""
    feedback = response.prompt_feedback
    if feedback is not None and feedback.block_reason:
        return Failure("blocked")
    if not response.candidates:
        return Failure("empty")
    candidate = response.candidates[0]
    finish = getattr(candidate.finish_reason, "value", candidate.finish_reason)
    if finish == "MAX_TOKENS":
        return Failure("truncated")
    if finish != "STOP":
        return Failure("blocked")
    parts = (candidate.content.parts if candidate.content else None) or []
    text = "".join(part.text for part in parts if part.text and not part.thought)
    if not text.strip():
        return Failure("empty")
    try:
        draft = Draft.model_validate_json(json_of(text))
    except ValidationError:
        return Failure("invalid_json")
    refusal = refusal_of(draft, sheet)
    if refusal:
        return Failure(refusal)
    return Answer(draft, str(response.model_version or ""), usage)


def json_of(text: str) -> str:
    """Cut a code fence or leading prose: from the first `{` to the last `}`."""
    first, last = text.find("{"), text.rfind("}")
    return text[first : last + 1] if 0 <= first < last else text
