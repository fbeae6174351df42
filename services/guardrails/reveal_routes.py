"""The way back from the operator `encrypt`: an administrator opens what a policy sealed."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from libs.common.context import current
from libs.common.errors import InvalidInputError
from libs.common.events.envelope import event_for_request
from services.guardrails.checker import Checker
from services.guardrails.domain.operators import CipherError, reveal
from services.guardrails.schemas import Text

router = APIRouter(prefix="/v1/guardrails", tags=["guardrails"])


class Sealed(BaseModel):
    """A text with ciphertexts in it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text


@router.post("/decrypt", summary="Open what the operator encrypt sealed")
async def decrypt(body: Sealed, request: Request) -> dict[str, Any]:
    """Open every ciphertext of the caller's tenant in a text; who did is recorded first."""
    checker: Checker = request.state.checker
    checker.refuse_long([body.text], ["/text"])
    caller = current().caller
    tenant = caller.tenant if caller else ""
    try:
        text, count = reveal(checker.guard.keys(tenant).cipher, body.text)
    except CipherError as error:
        raise InvalidInputError.field("/text", str(error)) from None
    await request.state.platform.events.emit(
        event_for_request(
            "text.revealed",
            "guardrails",
            "required",
            {
                "by": caller.principal if caller else "",
                "count": count,
                "digest": checker.guard.digest(tenant, body.text),
            },
        )
    )
    return {"text": text, "count": count}
