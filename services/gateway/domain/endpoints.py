"""The endpoints that a caller may use, for the 404 answer; computed once per set of scopes."""

from collections.abc import Iterable

from libs.common.catalog.model import Route
from libs.common.context import Caller

_SETS_MAX = 512


class EndpointList:
    """Filters the public routes by scopes, with a bounded memory of earlier answers."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = sorted(routes, key=lambda route: (route.path, route.method))
        self._known: dict[frozenset[str], list[dict[str, str]]] = {}

    def for_scopes(self, scopes: frozenset[str]) -> list[dict[str, str]]:
        """List method and path of each built route that a caller with `scopes` may call."""
        listed = self._known.get(scopes)
        if listed is None:
            caller = Caller("", "", scopes)
            listed = [
                {"method": route.method, "path": route.path}
                for route in self._routes
                if route.status == "built" and (route.scope is None or caller.may(route.scope))
            ]
            if len(self._known) >= _SETS_MAX:
                self._known.clear()
            self._known[scopes] = listed
        return listed
