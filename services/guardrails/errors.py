"""Errors of guardrails, leaves of `libs.common.errors`.

PayloadTooLargeError
`- TextTooLongError      413  a text is longer than TEXT_CHARS_MAX
UnavailableError
`- BusyError             503  MAX_CONCURRENT_REQUESTS checks are running
"""

from libs.common.errors import PayloadTooLargeError, UnavailableError


class TextTooLongError(PayloadTooLargeError):
    """One text is longer than the service checks in one piece."""

    code = "text_too_long"

    def __init__(self, pointer: str, chars_max: int) -> None:
        super().__init__(
            f"{pointer}: longer than {chars_max} characters.",
            hint="Send long texts over the WebSocket /v1/guardrails/stream.",
        )


class BusyError(UnavailableError):
    """As many checks run as are allowed."""

    code = "busy"

    def __init__(self) -> None:
        super().__init__("All places for concurrent checks are taken.")
