"""Errors of the features service.

Bad events are `InvalidInputError` with one pointer each; a store that is gone is
`UnavailableError`. What Feast clients know by name carries `feast_class`:

    FeatureStoreError
    `- StoreLostError             Redis no longer holds what was written; the applier starts over
    ServiceError
    |- UnknownViewError           404
    |- UnknownServiceError        404
    |- UnknownPushSourceError     422
    |- FeastRequestError          422, or 400 where the body is no JSON
    `- StillMaterializingError    409
"""

from libs.common.errors import ConflictError, InvalidInputError, NotFoundError


class FeatureStoreError(Exception):
    """The online store cannot be written."""


class StoreLostError(FeatureStoreError):
    """Redis was emptied or rolled back under the writer."""


class UnknownViewError(NotFoundError):
    """No such feature view, or not in that version."""

    feast_class = "FeatureViewNotFoundException"


class UnknownServiceError(NotFoundError):
    """No such feature service."""

    feast_class = "FeatureServiceNotFoundException"


class UnknownPushSourceError(InvalidInputError):
    """No feature view takes pushes from this source."""

    feast_class = "PushSourceNotFoundException"


class FeastRequestError(InvalidInputError):
    """Any other mistake in a request of a Feast client."""

    feast_class = "FeastError"


class StillMaterializingError(ConflictError):
    """A materialization of one of the views is still running."""

    feast_class = "FeastError"
