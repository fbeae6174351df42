"""Errors of the gateway.

ServiceError
|- MethodNotAllowedError      405  carries Allow
|- ReceiptTimeoutError        408
|- UpstreamError              502  the service broke off
|- UpstreamUnavailableError   503  no connection, breaker open, shed (an UnavailableError)
|- InsufficientScopeError     403  (a ForbiddenError)
|- BlockedTextError           422  carries the verdicts of guardrails
|- BinaryTextError            422
|- EncodedTextError           415
|- TokenError                 400/401  carries RFC 6749's `error`
`- IdempotencyError           409/422
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


class BlockedTextError(ServiceError):
    """Guardrails blocks a text of the request; `verdicts` says which and why."""

    status, code, title = 422, "text_blocked", "Text blocked by policy"


class BinaryTextError(ServiceError):
    """A guarded tenant sent text in a form that cannot be checked."""

    status, code, title = 422, "text_not_checkable", "Text cannot be checked"


class EncodedTextError(ServiceError):
    """A guarded tenant sent a compressed body."""

    status, code, title = 415, "text_not_checkable", "Text cannot be checked"


class TokenError(ServiceError):
    """A token request fails; carries the members of RFC 6749 section 5.2."""

    status, code, title = 400, "token_refused", "Token refused"

    def __init__(self, error: str, detail: str, *, status: int = 400) -> None:
        headers = {"Cache-Control": "no-store"}
        if status == 401:
            headers["WWW-Authenticate"] = REALM
        super().__init__(detail, headers=headers, code=error, error=error, error_description=detail)
        self.status = status  # type: ignore[misc] # one instance, not the class


class IdempotencyError(ServiceError):
    """The Idempotency-Key is in use, or was used for another request."""

    status, code, title = 409, "idempotency_in_progress", "Idempotency-Key in use"

    def __init__(self, detail: str, *, is_mismatch: bool = False) -> None:
        super().__init__(detail, code="idempotency_mismatch" if is_mismatch else None)
        if is_mismatch:
            self.status = 422  # type: ignore[misc] # one instance, not the class
