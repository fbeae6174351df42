"""Errors of analytics, beside the common tree.

ServiceError
|- InvalidInputError (422)
|  `- CrossedThresholdsError   two limits contradict each other
`- ConflictError (409)
   |- ThresholdsChangedError   the version that the caller read is not the current one
   `- WebhooksOffError         no secret is configured to sign them with
"""

from libs.common.errors import ConflictError, InvalidInputError


class CrossedThresholdsError(InvalidInputError):
    """Limits contradict each other; every field concerned is named."""

    code, title = "crossed_thresholds", "Thresholds contradict each other"

    def __init__(self, wrong: list[tuple[str, str]]) -> None:
        errors = [{"pointer": f"/{field}", "message": message} for field, message in wrong]
        super().__init__(
            "; ".join(f"{error['pointer']}: {error['message']}" for error in errors), errors=errors
        )


class ThresholdsChangedError(ConflictError):
    """Somebody else changed the thresholds in between; read them again."""

    code, title = "thresholds_changed", "Thresholds have changed"


class WebhooksOffError(ConflictError):
    """Webhooks are not configured on this installation."""

    code, title = "webhooks_off", "Webhooks are not configured"
