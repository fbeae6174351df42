"""`/v1/auth/tickets`: a way in for browser streams, which cannot set headers."""

from typing import Protocol

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from libs.common.errors import UnauthenticatedError
from services.gateway.domain.ports import Credential

router = APIRouter(tags=["identity"])


class TicketDesk(Protocol):
    """Makes one-use tickets. Raises UnavailableError when they cannot be kept."""

    async def issue(self, credential: Credential) -> tuple[str, int]:
        """Give a ticket for a verified credential, and the seconds for which it works."""
        ...


class TicketView(BaseModel):
    """A ticket: works once, in the query of a stream or WebSocket."""

    ticket: str
    expires_in: int = Field(description="Seconds.", examples=[30])


@router.post(
    "/v1/auth/tickets", status_code=201, summary="A one-use ticket for a stream or WebSocket"
)
async def make_ticket(request: Request, response: Response) -> TicketView:
    """Trade the credential of this request for `?ticket=` of one stream, good for 30 s."""
    credential: Credential | None = request.scope["gatehouse.credential"]
    if credential is None:
        raise UnauthenticatedError(
            "A ticket stands for a credential.",
            headers={"WWW-Authenticate": 'Bearer realm="gatehouse"'},
        )
    desk: TicketDesk = request.state.tickets
    ticket, expires_in = await desk.issue(credential)
    response.headers["cache-control"] = "no-store"
    return TicketView(ticket=ticket, expires_in=expires_in)
