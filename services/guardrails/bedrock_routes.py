"""Bedrock's ApplyGuardrail: policy ids and versions are ours, the shapes are Bedrock's.

`match` never echoes personal data: the operator's replacement stands there.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from libs.common.context import current
from services.guardrails.checker import Checked, Checker
from services.guardrails.domain.entities import LABELS
from services.guardrails.domain.operators import TenantKeys, edit
from services.guardrails.domain.pii import wanted_entities
from services.guardrails.domain.policy import ValidatorRule
from services.guardrails.domain.verdict import Action, Decision, Span, Verdict, strictest
from services.guardrails.schemas import BATCH_TEXTS_MAX, Text

router = APIRouter(tags=["bedrock"])
UNIT_CHARS = 1_000
# Our entity types under Bedrock's names; an entity it does not know is reported as a regex.
PII_TYPES = {
    "EMAIL_ADDRESS": "EMAIL", "PHONE_NUMBER": "PHONE", "CREDIT_CARD": "CREDIT_DEBIT_CARD_NUMBER",
    "CREDIT_CARD_CVV": "CREDIT_DEBIT_CARD_CVV", "CREDIT_CARD_EXPIRY": "CREDIT_DEBIT_CARD_EXPIRY",
    "IBAN_CODE": "INTERNATIONAL_BANK_ACCOUNT_NUMBER", "IP_ADDRESS": "IP_ADDRESS", "AGE": "AGE",
    "MAC_ADDRESS": "MAC_ADDRESS", "URL": "URL", "US_SSN": "US_SOCIAL_SECURITY_NUMBER",
    "US_ITIN": "US_INDIVIDUAL_TAX_IDENTIFICATION_NUMBER", "US_PASSPORT": "US_PASSPORT_NUMBER",
    "US_BANK_NUMBER": "US_BANK_ACCOUNT_NUMBER", "US_ROUTING_NUMBER": "US_BANK_ROUTING_NUMBER",
    "US_DRIVER_LICENSE": "DRIVER_ID", "UK_NHS": "UK_NATIONAL_HEALTH_SERVICE_NUMBER",
    "UK_NINO": "UK_NATIONAL_INSURANCE_NUMBER", "CA_SIN": "CA_SOCIAL_INSURANCE_NUMBER",
    "UK_UTR": "UK_UNIQUE_TAXPAYER_REFERENCE_NUMBER", "SWIFT_CODE": "SWIFT_CODE",
    "VEHICLE_IDENTIFICATION_NUMBER": "VEHICLE_IDENTIFICATION_NUMBER", "PASSWORD": "PASSWORD",
    "PERSON": "NAME", "ADDRESS": "ADDRESS",
    "AWS_ACCESS_KEY": "AWS_ACCESS_KEY", "AWS_SECRET_KEY": "AWS_SECRET_KEY",
}  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextBlock(_Strict):
    """One text; qualifiers name its part in grounding, which is not built."""

    text: Text
    qualifiers: list[Literal["grounding_source", "query", "guard_content"]] = []


class Content(_Strict):
    """One block; an image block is refused."""

    text: TextBlock


class ApplyRequest(_Strict):
    """Texts of one turn."""

    source: Literal["INPUT", "OUTPUT"]
    content: list[Content] = Field(min_length=1, max_length=BATCH_TEXTS_MAX)
    outputScope: Literal["INTERVENTIONS", "FULL"] = "INTERVENTIONS"  # noqa: N815 - wire name


@router.post("/guardrail/{guardrail_id}/version/{version}/apply", summary="Bedrock ApplyGuardrail")
async def apply(
    guardrail_id: Annotated[str, Path(pattern="^[a-z0-9]{1,64}$")],
    version: Annotated[str, Path(pattern="^(DRAFT|[1-9][0-9]{0,7})$")],
    body: ApplyRequest,
    request: Request,
) -> dict[str, Any]:
    """Apply one policy version to the texts of a turn."""
    checker: Checker = request.state.checker
    texts = [content.text.text for content in body.content]
    checked = await checker.check(
        texts,
        pointers=[f"/content/{index}/text/text" for index in range(len(texts))],
        policy=f"{guardrail_id}@{version.lower()}",
    )
    return _response(checker, checked, texts, is_full=body.outputScope == "FULL")


def _response(
    checker: Checker, checked: Checked, texts: list[str], *, is_full: bool
) -> dict[str, Any]:
    decisions = checked.outcome.decisions
    acted = any(decision.action.rank >= Action.MASK.rank for decision in decisions)
    body = checked.outcome.policy.body
    blocked = body.messages.get("blocked", "Sorry, this content is not allowed.")
    total = sum(decision.total for decision in decisions)
    coverage = {"textCharacters": {"guarded": sum(d.guarded for d in decisions), "total": total}}
    usage = _usage(total, {rule.name for rule in body.validators})
    return {
        "action": "GUARDRAIL_INTERVENED" if acted else "NONE",
        "actionReason": "Guardrail intervened." if acted else "No action.",
        "outputs": [
            {"text": blocked if decision.action is Action.BLOCK else decision.text}
            for decision in decisions
        ]
        if acted
        else [],
        "assessments": [
            {
                **_assessment(checker, checked, decision, text, is_full=is_full),
                "invocationMetrics": {
                    "guardrailProcessingLatency": round(checked.latency_ms),
                    "usage": usage,
                    "guardrailCoverage": coverage,
                },
            }
            for decision, text in zip(decisions, texts, strict=True)
        ],
        "usage": usage,
        "guardrailCoverage": coverage,
    }


def _usage(chars: int, ran: set[str]) -> dict[str, int]:
    units = -(-chars // UNIT_CHARS)
    return {
        "topicPolicyUnits": units if "topics" in ran else 0,
        "contentPolicyUnits": units if ran & {"injection", "toxicity"} else 0,
        "wordPolicyUnits": units if "words" in ran else 0,
        "sensitiveInformationPolicyUnits": units if ran & {"pii", "secrets"} else 0,
        "sensitiveInformationPolicyFreeUnits": units if "regex" in ran else 0,
        "contextualGroundingPolicyUnits": 0,
    }


def _assessment(
    checker: Checker, checked: Checked, decision: Decision, text: str, *, is_full: bool
) -> dict[str, Any]:
    """Say what each kind of check found; the full scope also lists what it looked for in vain."""
    result: dict[str, Any] = {}
    entities: list[dict[str, Any]] = []
    regexes: list[dict[str, Any]] = []
    filters: list[dict[str, Any]] = []
    for verdict in decision.verdicts:
        rule = checked.outcome.policy.body.rule(verdict.name)
        if rule is None:
            continue
        if verdict.name in CONTENT:
            filters += _filters(rule, verdict, is_full=is_full)
        elif verdict.name == "topics":
            topics = _topics(rule, verdict, is_full=is_full)
            result.update({"topicPolicy": {"topics": topics}} if topics else {})
        elif verdict.name == "words" and verdict.spans:
            result["wordPolicy"] = _words(rule, verdict, text)
        else:
            for span in verdict.spans:
                _sensitive(checker, rule, span, text, entities, regexes)
            if is_full and verdict.name == "pii":
                entities += _not_found(rule, entities)
    if filters:
        result["contentPolicy"] = {"filters": filters}
    if entities or regexes:
        result["sensitiveInformationPolicy"] = {"piiEntities": entities, "regexes": regexes}
    return result


def _words(rule: ValidatorRule, verdict: Verdict, text: str) -> dict[str, Any]:
    return {
        "customWords": [
            {
                "match": text[span.start : span.end],
                "action": _blocked(rule, span.label),
                "detected": True,
            }
            for span in verdict.spans
        ],
        "managedWordLists": [],
    }


def _topics(rule: ValidatorRule, verdict: Verdict, *, is_full: bool) -> list[dict[str, Any]]:
    found = {label.partition(":")[2]: label for label in verdict.scores}
    names = list(rule.params.get("topics", {})) if is_full else list(found)
    return [
        {
            "name": name,
            "type": "DENY",
            "action": _blocked(rule, found[name]) if name in found else "NONE",
            "detected": name in found,
        }
        for name in names
    ]


def _not_found(rule: ValidatorRule, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the kinds of personal data that were looked for and are not among the found."""
    known = {item["type"] for item in found}
    wanted = wanted_entities(rule.params)
    if rule.params.get("model"):
        wanted |= set(rule.params.get("entities") or LABELS.values())
    types = {PII_TYPES[entity] for entity in wanted if entity in PII_TYPES}
    return [
        {"match": "", "type": kind, "action": "NONE", "detected": False}
        for kind in sorted(types - known)
    ]


def _sensitive(
    checker: Checker,
    rule: ValidatorRule,
    span: Span,
    text: str,
    entities: list[dict[str, Any]],
    regexes: list[dict[str, Any]],
) -> None:
    caller = current().caller
    keys = checker.guard.keys(caller.tenant if caller else "")
    found = {
        "match": _shown(rule, span, text, keys),
        "action": {Action.MASK: "ANONYMIZED", Action.BLOCK: "BLOCKED"}.get(
            rule.action_of(span.label), "NONE"
        ),
        "detected": True,
    }
    if span.label in PII_TYPES:
        entities.append({**found, "type": PII_TYPES[span.label]})
    else:
        regexes.append({**found, "name": span.rule})


def _shown(rule: ValidatorRule, span: Span, text: str, keys: TenantKeys) -> str:
    """Give what may stand for the match: the replacement, or the label where text is kept."""
    spec = rule.operator_of(span.label)
    is_telling = spec.type in {"keep", "mask"}
    shown = edit(spec, span.label, text[span.start : span.end], keys)
    return shown if shown and not is_telling else f"<{span.label}>"


def _blocked(rule: ValidatorRule, label: str) -> str:
    return "BLOCKED" if rule.action_of(label) is Action.BLOCK else "NONE"


# Labels of findings about content, by Bedrock's filter.
_FILTER_OF = {
    "hate": "HATE",
    "self_harm": "VIOLENCE",
    "sexist": "HATE",
    "sexual": "SEXUAL",
    "toxic": "INSULTS",
    "violence": "VIOLENCE",
}
# Validators that fill Bedrock's filters of content.
CONTENT = ("injection", "toxicity")


def _filters(rule: ValidatorRule, verdict: Verdict, *, is_full: bool) -> list[dict[str, Any]]:
    """Give one filter per kind of content, with its highest score and strictest action."""
    found: dict[str, tuple[float, Action]] = {}
    findings = [(span.label, span.score) for span in verdict.spans] + list(verdict.scores.items())
    for label, score in findings:
        kind = _FILTER_OF.get(label, "PROMPT_ATTACK")
        known = found.get(kind, (0.0, Action.ALLOW))
        found[kind] = (max(score, known[0]), strictest([rule.action_of(label), known[1]]))
    filters = [
        {
            "type": kind,
            "confidence": "HIGH" if score >= 0.8 else "MEDIUM" if score >= 0.6 else "LOW",
            "filterStrength": "HIGH",
            "action": "BLOCKED" if action is Action.BLOCK else "NONE",
            "detected": True,
        }
        for kind, (score, action) in found.items()
    ]
    looked_for = {_FILTER_OF.get(label, "PROMPT_ATTACK") for label in verdict.measured}
    if verdict.name == "injection":
        looked_for.add("PROMPT_ATTACK")
    missing = sorted(looked_for - found.keys()) if is_full else []
    return filters + [
        {
            "type": kind,
            "confidence": "NONE",
            "filterStrength": "HIGH",
            "action": "NONE",
            "detected": False,
        }
        for kind in missing
    ]
