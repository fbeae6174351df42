"""Matching of method and path against the catalogue; pure, used by the gateway and the services.

Works on the raw path, percent-encoding untouched: the same bytes feed routing, authorization and
the upstream URL.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from libs.common.catalog.model import Route

_PARAMETER = re.compile(r"\{([a-z_]+)(:path)?\}")


@dataclass(frozen=True, slots=True)
class Match:
    """A route that fits the path, with its parameters as sent."""

    route: Route
    service: str
    params: dict[str, str]


class RouteTable:
    """All routes of one or more services; static paths by one dictionary look-up."""

    def __init__(self, routes: Iterable[tuple[str, Route]]) -> None:
        self._static: dict[str, dict[str, Match]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, tuple[str, Route]]]] = []
        by_template: dict[str, dict[str, tuple[str, Route]]] = {}
        for service, route in routes:
            for path in route.paths:
                if "{" in path:
                    by_template.setdefault(path, {})[route.method] = (service, route)
                else:
                    self._static.setdefault(path, {})[route.method] = Match(route, service, {})
        # Templates with a fixed tail come before catch-all ones, longer before shorter.
        for template in sorted(by_template, key=lambda path: (":path" in path, -len(path))):
            self._patterns.append((compile_template(template), by_template[template]))

    def match(self, method: str, path: str) -> Match | None:
        """Find the route, or None when no route has this path and method."""
        methods = self._static.get(path)
        if methods and method in methods:
            return methods[method]
        for pattern, by_method in self._patterns:
            found = pattern.fullmatch(path)
            if found and method in by_method:
                service, route = by_method[method]
                return Match(route, service, found.groupdict())
        return None

    def methods(self, path: str) -> frozenset[str]:
        """Name the methods that the path answers; empty when the path is unknown."""
        allowed = set(self._static.get(path, ()))
        for pattern, by_method in self._patterns:
            if pattern.fullmatch(path):
                allowed |= set(by_method)
        return frozenset(allowed)


def compile_template(template: str) -> re.Pattern[str]:
    """Make a pattern of a path with `{parameters}`; `{name:path}` takes slashes too."""
    parts: list[str] = []
    position = 0
    for parameter in _PARAMETER.finditer(template):
        parts.append(re.escape(template[position : parameter.start()]))
        body = ".+" if parameter[2] else "[^/]+"
        parts.append(f"(?P<{parameter[1]}>{body})")
        position = parameter.end()
    parts.append(re.escape(template[position:]))
    return re.compile("".join(parts))
