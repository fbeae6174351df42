"""Errors of audit.

ServiceError
|- UnavailableError
|  |- SequencerBusyError   503  another sequencer holds the log, or the database is slow
|  `- LogHaltedError       503  the log does not extend what was signed or witnessed
|- NotFoundError
|  |- NoSuchEventError     404
|  `- NoSuchHoldError      404
`- PrunedError             410  below the minimum index
"""

from libs.common.errors import NotFoundError, ServiceError, UnavailableError


class SequencerBusyError(UnavailableError):
    """The log could not be locked in time; the shipper tries again."""

    code = "sequencer_busy"


class LogHaltedError(UnavailableError):
    """The log contradicts a signed checkpoint: nothing is appended until a person decides."""

    code = "log_halted"


class NoSuchEventError(NotFoundError):
    """The event is not in the log, or not for this tenant."""

    code = "no_such_event"


class NoSuchHoldError(NotFoundError):
    """No legal hold of this id is in force, or not for this tenant."""

    code = "no_such_hold"


class PrunedError(ServiceError):
    """The entries were removed under the retention policy; tiles and proofs stay."""

    status, code, title = 410, "pruned", "Pruned under the retention policy"
