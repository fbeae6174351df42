"""The one tree of errors that a caller may see.

    ServiceError                 code, status, title, detail, hint, headers, extra
    |- BadRequestError           400
    |- UnauthenticatedError      401
    |- ForbiddenError            403
    |- NotFoundError             404
    |- ConflictError             409
    |- PayloadTooLargeError      413
    |- InvalidInputError         422  carries `errors`: [{pointer, message}]
    |- RateLimitedError          429
    |- InternalError             500
    |- NotBuiltError             501
    |- UnavailableError          503  carries Retry-After
    `- DeadlineExceededError     504

Services add leaves in their own `errors.py`. The tree knows no web framework;
`libs.common.problems` renders it once, as RFC 9457 `application/problem+json`. A message holds no
secret, no user text and no personal data: it names the field, never the value.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class ServiceError(Exception):
    """A failure with a stable code, a status, and a next step for the reader."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str = "",
        *,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
        code: str | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.headers = dict(headers or {})
        self.problem_code = code or self.code
        self.extra = extra


class BadRequestError(ServiceError):
    """The request cannot be read at all: broken JSON, a bad header, a wrong content type."""

    status, code, title = 400, "bad_request", "Bad request"


class UnauthenticatedError(ServiceError):
    """No credential, or one that does not verify."""

    status, code, title = 401, "unauthenticated", "Authentication required"


class ForbiddenError(ServiceError):
    """A valid credential without the scope that the route needs."""

    status, code, title = 403, "forbidden", "Not allowed"


class NotFoundError(ServiceError):
    """The thing does not exist, or not for this tenant."""

    status, code, title = 404, "not_found", "Not found"


class ConflictError(ServiceError):
    """The change contradicts the present state; read again and retry."""

    status, code, title = 409, "conflict", "Conflict"


class PayloadTooLargeError(ServiceError):
    """The body is larger than the route accepts."""

    status, code, title = 413, "payload_too_large", "Body too large"


class InvalidInputError(ServiceError):
    """The request is readable but wrong; `errors` names each field by JSON pointer."""

    status, code, title = 422, "invalid_input", "Invalid input"

    def __init__(
        self,
        detail: str = "",
        *,
        errors: Sequence[Mapping[str, str]] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(detail, errors=[dict(error) for error in errors], **kwargs)

    @classmethod
    def field(cls, pointer: str, message: str) -> "InvalidInputError":
        """Build the error for one field.

        Args:
            pointer: JSON pointer of the field, for example `/transaction_amount`.
            message: what is wrong, without the value.
        """
        return cls(f"{pointer}: {message}", errors=[{"pointer": pointer, "message": message}])


class RateLimitedError(ServiceError):
    """A limit was reached; Retry-After says when the next call passes."""

    status, code, title = 429, "rate_limited", "Too many requests"


class InternalError(ServiceError):
    """A defect on our side; the request id leads to the log line."""


class NotBuiltError(ServiceError):
    """The route is announced but not built yet; it never answers with something made up."""

    status, code, title = 501, "not_built", "Not built yet"


class UnavailableError(ServiceError):
    """A dependency or this process cannot serve right now."""

    status, code, title = 503, "unavailable", "Temporarily unavailable"

    def __init__(self, detail: str = "", *, retry_after_s: int = 1, **kwargs: Any) -> None:
        headers = {"Retry-After": str(max(1, retry_after_s)), **kwargs.pop("headers", {})}
        super().__init__(detail, headers=headers, **kwargs)


class DeadlineExceededError(ServiceError):
    """The caller's deadline passed before the answer was ready."""

    status, code, title = 504, "deadline_exceeded", "Deadline exceeded"
