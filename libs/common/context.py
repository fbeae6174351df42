"""Who and what the current request is: ids, caller, deadline.

Set once by the middleware and read by logging, problems, events and outgoing calls. It lives in
one context variable so that concurrent requests never see each other's values.
"""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class Caller:
    """The authenticated caller, as the gateway or another service vouches for it.

    `principal` is who calls (a key, a user, a service); `tenant` comes from the credential only.
    """

    tenant: str
    principal: str
    scopes: frozenset[str]
    issuer: str = ""

    def may(self, scope: str) -> bool:
        """Say whether the granted scopes cover `scope` (exact, `resource:*` or `*`)."""
        if scope in self.scopes or "*" in self.scopes:
            return True
        resource, _, _ = scope.partition(":")
        return f"{resource}:*" in self.scopes


@dataclass(slots=True)
class RequestContext:
    """What follows one request through this process."""

    request_id: str = ""
    correlation_id: str = ""
    traceparent: str = ""
    trace_id: str = ""
    caller: Caller | None = None
    deadline: float | None = None  # time.monotonic() seconds
    log_fields: dict[str, object] = field(default_factory=dict)

    def remaining_s(self, default: float) -> float:
        """Give the seconds left until the deadline, at most `default`, never negative."""
        if self.deadline is None:
            return default
        return max(0.0, min(default, self.deadline - time.monotonic()))


_EMPTY = RequestContext()
_current: ContextVar[RequestContext] = ContextVar("gatehouse_request", default=_EMPTY)


def current() -> RequestContext:
    """Give the context of the running request, or an empty one outside of any."""
    return _current.get()


def bind(context: RequestContext) -> None:
    """Make `context` the current one for this task and those it starts."""
    _current.set(context)
