"""Errors as Feast clients expect them: a JSON string that holds JSON.

The client rebuilds the exception from `module` and `class`, so both are constants, never text of a
request. Pure; the features service and the gateway render with it.
"""

import orjson

from libs.common.errors import ServiceError

_CLASS_BY_STATUS = {401: "FeastPermissionError", 403: "FeastPermissionError"}


def feast_error_body(error: ServiceError) -> bytes:
    """Render an error; leaves with a `feast_class` name their exception."""
    name = getattr(error, "feast_class", None) or _CLASS_BY_STATUS.get(error.status, "FeastError")
    detail = {"module": "feast.errors", "class": name, "message": error.detail or error.title}
    return orjson.dumps(orjson.dumps(detail).decode())
