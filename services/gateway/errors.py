"""Errors of the gateway.

ServiceError
|- MethodNotAllowedError      405  carries Allow
|- ReceiptTimeoutError        408
|- HeadersTooLargeError       431
|- UpstreamError              502  the service broke off
|- UpstreamUnavailableError   503  no connection, breaker open, shed (an UnavailableError)
`- InsufficientScopeError     403  (a ForbiddenError)
"""

from collections.abc import Sequence

from libs.common.errors import (
    ForbiddenError,
    RateLimitedError,
    ServiceError,
    UnavailableError,
)

REALM = 'Bearer realm="gatehouse"'


class MethodNotAllowedError(ServiceError):
    """The path exists, the method does not."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"


class ReceiptTimeoutError(ServiceError):
    """The caller sends its body too slowly."""

    status, code, title = 408, "receipt_timeout", "Body not received in time"


class LimitExceededError(RateLimitedError):
    """One or more policies refuse the request; `violated-policies` names them."""

    def __init__(
        self, detail: str, *, violated: Sequence[str], retry_after_s: int, hint: str | None = None
    ) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)}, hint=hint)
        self.extra["violated-policies"] = list(violated)


class UpstreamError(ServiceError):
    """The service closed the connection before its answer was complete."""

    status, code, title = 502, "upstream_error", "Bad gateway"


class UpstreamUnavailableError(UnavailableError):
    """The service cannot be reached or must not be called right now."""

    code, title = "upstream_unavailable", "Service unavailable"


class InsufficientScopeError(ForbiddenError):
    """The credential is valid but lacks the scope of the route."""

    code, title = "insufficient_scope", "Insufficient scope"

    def __init__(self, scope: str) -> None:
        super().__init__(
            f"The credential lacks the scope {scope}.",
            hint="Ask whoever made the key to grant it.",
            headers={"WWW-Authenticate": f'{REALM}, error="insufficient_scope", scope="{scope}"'},
            scope=scope,
        )
