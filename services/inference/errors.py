"""Errors of inference, leaves of the tree in `libs.common.errors`.

UnavailableError 503
|- ModelNotLoadedError      no version of the model is ready
|- EnsembleUnavailableError too few members answered, and no fallback did
|- OverloadedError          shed at the door: queue full, deadline out of reach, draining
`- ExecutorLostError        the thread that ran the batch died; it is being replaced
InternalError 500
`- InferenceFailedError     the engine failed or gave a number that is none
NotFoundError 404
|- UnknownModelError        the repository has no such model
`- UnknownRolloutError      the model has no such rollout
ConflictError 409
`- VersionBrokenError       the version does not pass its checks; the old one serves on
"""

from typing import ClassVar

from libs.common.errors import ConflictError, InternalError, NotFoundError, UnavailableError


class ModelNotLoadedError(UnavailableError):
    """The model exists or is expected, but no version of it is ready."""

    code: ClassVar[str] = "model_not_loaded"
    title: ClassVar[str] = "Model not loaded"


class EnsembleUnavailableError(UnavailableError):
    """Too few members of an ensemble answered, and it has no fallback that did."""

    code: ClassVar[str] = "ensemble_unavailable"
    title: ClassVar[str] = "Ensemble unavailable"


class OverloadedError(UnavailableError):
    """Refused before any work was done; Retry-After says when the queue will have drained."""

    code: ClassVar[str] = "overloaded"
    title: ClassVar[str] = "Overloaded"


class ExecutorLostError(UnavailableError):
    """The executor died with this work; a new one starts, the call may be repeated."""

    code: ClassVar[str] = "executor_lost"
    title: ClassVar[str] = "Executor lost"


class InferenceFailedError(InternalError):
    """A loaded model could not answer; an event with status failed was recorded."""

    code: ClassVar[str] = "inference_failed"
    title: ClassVar[str] = "Inference failed"


class UnknownModelError(NotFoundError):
    """No such model in the repository."""

    code: ClassVar[str] = "unknown_model"
    title: ClassVar[str] = "Unknown model"


class VersionBrokenError(ConflictError):
    """A version was asked for that does not pass its checks; what serves is untouched."""

    code: ClassVar[str] = "version_broken"
    title: ClassVar[str] = "Version cannot serve"


class UnknownRolloutError(NotFoundError):
    """The model has no rollout of this id."""

    code: ClassVar[str] = "unknown_rollout"
    title: ClassVar[str] = "Unknown rollout"
