"""Errors of the features service.

Bad events are `InvalidInputError` with one pointer each; a store that is gone is
`UnavailableError`. A ring that cannot be read is never overwritten:

    FeatureStoreError
    `- StoreLostError   Redis no longer holds what was written; the applier starts over
"""


class FeatureStoreError(Exception):
    """The online store cannot be written."""


class StoreLostError(FeatureStoreError):
    """Redis was emptied or rolled back under the writer."""
