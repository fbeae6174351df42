"""The report by rules: the same facts, the same shape, always available.

Issues are the broken limits, gravest first. The hypothesis comes from what moved together; when
nothing moved together it says nothing.
"""

from services.analytics.domain.draft import Draft, DraftIssue
from services.analytics.domain.facts import Fact, FactSheet

ISSUES_MAX = 10
# From this growth on, load is named as the cause of a latency that grew with it.
TRAFFIC_GROWTH_MIN = 1.5
_TITLES = {
    "requests": "Traffic fell to {{{0}}} from {{{0}.previous}}",
    "error_rate": "Error rate of {{{0}}} is above the limit of {{{0}.limit}}",
    "latency_p95_ms": "Slowest requests take {{{0}}}, above the limit of {{{0}.limit}}",
    "average_confidence": "Average confidence of {{{0}}} is below the limit of {{{0}.limit}}",
    "missing_features_rate": "Share of missing features rose to {{{0}}} from {{{0}.previous}}",
    "block_rate": "Share of blocked texts rose to {{{0}}} from {{{0}.previous}}",
}
_ADVICE = {
    "requests": "Check the callers, the gateway's refusals and the limits before the models.",
    "error_rate": "Read the reasons of the failed events and compare them by model version.",
    "latency_p95_ms": "Look at the slowest traces and at the batch and queue times of the model.",
    "average_confidence": "Compare the inputs and labels with the reference period for drift.",
    "missing_features_rate": "Check the feature store: freshness, ingestion and its Redis.",
    "block_rate": "Compare the blocked verdicts by validator and look for a policy change.",
}


def write(sheet: FactSheet) -> Draft:
    """Write the report of a fact sheet as a draft."""
    breached = sheet.breached
    issues = [
        DraftIssue(
            title=_TITLES[fact.metric].format(fact.id) + _where(fact),
            severity=fact.severity or "low",
            evidence=[fact.id],
        )
        for fact in breached[:ISSUES_MAX]
    ]
    advice = list(dict.fromkeys(_ADVICE[fact.metric] for fact in breached))
    return Draft(
        summary=_summary(sheet, issues),
        identified_issues=issues,
        root_cause_hypothesis=hypothesis(sheet),
        recommendations=advice or [_idle_advice(sheet)],
        confidence_score=sheet.confidence_max,
    )


def _where(fact: Fact) -> str:
    return f" for {{{fact.model}}}" if fact.model else ""


def _idle_advice(sheet: FactSheet) -> str:
    if sheet.n == 0:
        return "Nothing to do: no requests were seen in this window."
    return "Nothing to do: no limit was broken."


def _summary(sheet: FactSheet, issues: list[DraftIssue]) -> str:
    requests = _find(sheet, "requests")
    parts = []
    if requests is None or sheet.n == 0:
        parts.append("No requests were seen in this window.")
    else:
        parts.append(f"The window saw {{{requests.id}}} ({{{requests.id}.previous}} before).")
    parts += [f"{issue.title}." for issue in issues[:3]]
    if not issues:
        parts.append("No issue: no limit was broken.")
    lost = _find(sheet, "errors_not_attributed")
    errors = _find(sheet, "errors")
    if errors is not None and lost is not None and lost.value:
        parts.append(f"Without a stated reason: {{{lost.id}}} of {{{errors.id}}}.")
    return " ".join(parts)


def _find(sheet: FactSheet, metric: str, model: str | None = None) -> Fact | None:
    return next((f for f in sheet.facts if f.metric == metric and f.model == model), None)


def hypothesis(sheet: FactSheet) -> str | None:
    """Name the likely cause from what moved together, or None.

    The order is from the most to the least specific: one version alone, missing features, traffic
    up or down, blocked texts, everything at once.
    """
    breached = sheet.breached
    metrics = {fact.metric for fact in breached}
    for metric, what in (("error_rate", "fails more"), ("latency_p95_ms", "is slower")):
        sick = {fact.model for fact in breached if fact.metric == metric and fact.model}
        known = {fact.model for fact in sheet.facts if fact.metric == metric and fact.model}
        if len(sick) == 1 and len(known) > 1:
            return (
                f"Version {{{sick.pop()}}} alone {what}; the other versions are within their "
                "limits, so the version itself is the likely cause."
            )
    if "missing_features_rate" in metrics:
        return "Features are missing more often, so the feature store is the likely cause."
    requests = _find(sheet, "requests")
    if "requests" in metrics:
        return "Fewer requests arrive, so the likely cause lies before the models."
    before, now = (requests.previous, requests.value) if requests else (None, None)
    if "latency_p95_ms" in metrics and before and now and now > TRAFFIC_GROWTH_MIN * before:
        return "Traffic grew together with the latency, so load is the likely cause."
    if "block_rate" in metrics:
        return "More texts are blocked: the inputs or a guardrail policy have changed."
    if "error_rate" in metrics:
        return "No single version stands out, so a shared dependency is the likely cause."
    return None
