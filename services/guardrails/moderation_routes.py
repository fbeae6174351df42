"""OpenAI's moderation endpoint: the `openai` SDK works unchanged.

A category is scored only by a validator that reports it under the category's own name; where none
does, the answer is `false`, `0.0` and `[]`, which claims no check.
"""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from services.guardrails.checker import Checker
from services.guardrails.domain.guard import Outcome
from services.guardrails.domain.verdict import Action, Decision
from services.guardrails.schemas import BATCH_TEXTS_MAX, POLICY_REFERENCE, Text

router = APIRouter(tags=["moderations"])
CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit",
    "illicit/violent", "self-harm", "self-harm/instructions", "self-harm/intent", "sexual",
    "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
# The model's labels and the category each stands for; a category's own name stands for itself.
_CATEGORY_OF = {"toxic": "harassment", "sexist": "harassment", "self_harm": "self-harm"}
MODEL = "gatehouse-guardrails"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Strict):
    """One text of a multimodal input; an image part is refused with 400."""

    type: Literal["text"]
    text: Text


class ModerationRequest(_Strict):
    """One text, several texts, or the parts of one multimodal input."""

    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=BATCH_TEXTS_MAX)]
        | Annotated[list[TextPart], Field(min_length=1, max_length=BATCH_TEXTS_MAX)]
    )
    model: Annotated[str, Field(max_length=128)] = Field(
        default=MODEL, description="`gatehouse-guardrails/<policy>` chooses a policy."
    )

    @property
    def policy(self) -> str | None:
        """The policy that the model name asks for; None means the tenant's active one."""
        family, _, policy = self.model.partition("/")
        return policy if family == MODEL and re.fullmatch(POLICY_REFERENCE, policy) else None


@router.post("/v1/moderations", summary="OpenAI moderation")
async def moderations(body: ModerationRequest, request: Request) -> dict[str, Any]:
    """Moderate texts under the tenant's policy."""
    checker: Checker = request.state.checker
    parts = [body.input] if isinstance(body.input, str) else body.input
    texts = [part if isinstance(part, str) else part.text for part in parts]
    checked = await checker.check(texts, pointers=["/input"] * len(texts), policy=body.policy)
    decisions = checked.outcome.decisions
    is_one = isinstance(parts[0], TextPart)
    groups = [decisions] if is_one else [[decision] for decision in decisions]
    return {
        "id": f"modr-{checked.ids[0]}",
        "model": body.model,
        "results": [_result(checked.outcome, group) for group in groups],
    }


def _result(outcome: Outcome, decisions: list[Decision]) -> dict[str, Any]:
    """Shape one result: OR of the flags, maximum of the scores."""
    scores: dict[str, float] = {}
    found: set[str] = set()
    for decision in decisions:
        for verdict in decision.verdicts:
            rule = outcome.policy.body.rule(verdict.name)
            for label, score in verdict.measured.items():
                category = _CATEGORY_OF.get(label, label)
                scores[category] = max(score, scores.get(category, 0.0))
                is_found = label in verdict.scores
                if is_found and rule and rule.action_of(label) is not Action.ALLOW:
                    found.add(category)
    return {
        "flagged": any(decision.action is not Action.ALLOW for decision in decisions),
        "categories": {name: name in found for name in CATEGORIES},
        "category_scores": {name: scores.get(name, 0.0) for name in CATEGORIES},
        "category_applied_input_types": {
            name: ["text"] if name in scores else [] for name in CATEGORIES
        },
        "x_guardrails": {
            "policy": f"{outcome.policy.id}@{outcome.policy.version}",
            "status": decisions[0].status.value,
            "cache": all(decision.cached for decision in decisions),
        },
    }
