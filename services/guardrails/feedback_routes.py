"""What people say about verdicts: the text again, with what each validator should have found.

The service keeps no texts and no verdicts by text, so the caller sends the text with the labels; it
is judged as a check would judge it (most often from the cache) and compared.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from libs.common.context import current
from libs.common.errors import InvalidInputError
from libs.common.events.envelope import event_for_request
from services.guardrails.checker import Checker
from services.guardrails.domain.guard import Ask
from services.guardrails.domain.trial import Trial
from services.guardrails.domain.verdict import Status
from services.guardrails.schemas import POLICY_REFERENCE, Text

router = APIRouter(prefix="/v1/guardrails", tags=["guardrails"])


class Feedback(BaseModel):
    """A text and, by validator, whether there was something to find."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text
    expected: Annotated[dict[str, bool], Field(min_length=1, max_length=20)]
    policy: str | None = Field(default=None, pattern=POLICY_REFERENCE)


@router.post("/feedback", summary="Say what validators should have found in a text")
async def feedback(body: Feedback, request: Request) -> dict[str, Any]:
    """Compare labels with verdicts: accuracy per validator, in metrics and in the log."""
    checker: Checker = request.state.checker
    caller = current().caller
    tenant = caller.tenant if caller else ""
    checker.refuse_long([body.text], ["/text"])
    policy = await checker.guard.policies.resolve(tenant, body.policy)
    names = {rule.name for rule in policy.body.validators}
    for name in body.expected:
        if name not in names:
            raise InvalidInputError.field("/expected", "names a validator outside the policy")
    outcome = await checker.guard.check(
        [body.text],
        Ask(tenant, body.policy, tuple(body.expected), remaining_s=current().remaining_s),
    )
    compared = []
    for verdict in outcome.decisions[0].verdicts:
        if verdict.status is not Status.OK:
            continue
        expected, said = body.expected[verdict.name], bool(verdict.labels)
        request.state.metrics.label(verdict.name, expected=expected, said=said)
        validator = checker.guard.validators.get(verdict.name)
        if isinstance(validator, Trial):
            validator.label(tenant, body.text, wrong=expected is not said)
        compared.append(
            {
                "name": verdict.name,
                "version": verdict.version,
                "expected": expected,
                "said": said,
                "correct": expected is said,
            }
        )
    await request.state.platform.events.emit(
        event_for_request(
            "verdict.labelled",
            "guardrails",
            "standard",
            {
                "policy": outcome.policy.id,
                "version": outcome.policy.version,
                "validators": compared,
                "digest": checker.guard.digest(tenant, body.text),
            },
        )
    )
    return {
        "policy": outcome.policy.id,
        "version": outcome.policy.version,
        "validators": compared,
    }
