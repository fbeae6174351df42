"""What the stand-in answers: drafts made from the prompt's facts, and Google's error bodies."""

import json
from typing import Any

_RPC = "type.googleapis.com/google.rpc."


def draft_for(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """Write a well-behaved draft: placeholders only, issues only for breached facts."""
    breached = [fact for fact in facts if fact["status"] == "breached"]
    return {
        "summary": (f"The window saw {{{facts[0]['id']}}}." if facts else "No requests were seen.")
        + ("" if breached else " There is no issue."),
        "identified_issues": [
            {
                "title": f"{fact['metric'].replace('_', ' ')} of {{{fact['id']}}} is out of bounds"
                if not any(c.isdigit() for c in fact["metric"])
                else f"A latency of {{{fact['id']}}} is out of bounds",
                "severity": "low",
                "evidence": [fact["id"]],
            }
            for fact in breached
        ],
        "root_cause_hypothesis": "A likely cause is a change in the model." if breached else None,
        "recommendations": ["Compare the versions."] if breached else ["Nothing to do."],
        "confidence_score": 0.9,
    }


def answer(
    text: str | None, *, finish: str = "STOP", model: str, thoughts: int = 0
) -> dict[str, Any]:
    """Wrap a text as generateContent does; None leaves the parts out."""
    content: dict[str, Any] = {"role": "model"}
    if text is not None:
        content["parts"] = [{"text": text}]
    count = len(text or "") // 4
    usage: dict[str, int] = {
        "promptTokenCount": 200,
        "candidatesTokenCount": count,
        "totalTokenCount": 200 + count + thoughts,
    }
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    return {
        "candidates": [{"content": content, "finishReason": finish, "index": 0}],
        "usageMetadata": usage,
        "modelVersion": f"{model}-standin",
        "responseId": "stand-in",
    }


def blocked(model: str) -> dict[str, Any]:
    """A prompt that was blocked: no candidates."""
    return {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 200, "totalTokenCount": 200},
        "modelVersion": f"{model}-standin",
        "responseId": "stand-in",
    }


def error(
    code: int, status: str, message: str, details: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Google's error body."""
    body: dict[str, Any] = {"code": code, "message": message, "status": status}
    if details:
        body["details"] = details
    return {"error": body}


def bad_key() -> dict[str, Any]:
    """A bad key is a 400."""
    info = {
        "@type": f"{_RPC}ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    }
    message = "API key not valid. Please pass a valid API key."
    return error(400, "INVALID_ARGUMENT", message, [info])


def exhausted(retry_delay: str) -> dict[str, Any]:
    """A 429 with the quota that failed and the wait that Google asks for."""
    violation = {
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
        "quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
        "quotaDimensions": {"location": "global", "model": "gemini-2.5-flash-lite"},
        "quotaValue": "10",
    }
    return error(
        429,
        "RESOURCE_EXHAUSTED",
        "You exceeded your current quota.",
        [
            {"@type": f"{_RPC}QuotaFailure", "violations": [violation]},
            {"@type": f"{_RPC}RetryInfo", "retryDelay": retry_delay},
        ],
    )


def facts_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the facts out of the prompt."""
    text = "".join(part.get("text", "") for part in body["contents"][0]["parts"])
    facts: list[dict[str, Any]] = json.loads(text)["facts"]
    return facts
