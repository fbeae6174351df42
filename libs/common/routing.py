"""Matching of method and path against the catalogue; pure, used by the gateway and the services.

Works on the raw path, percent-encoding untouched: the same bytes feed routing, authorization and
the upstream URL.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from libs.common.catalog.model import Route

_Pattern = tuple[re.Pattern[str], dict[str, tuple[str, Route]]]
_PARAMETER = re.compile(r"\{([a-z_]+)(:path)?\}")


@dataclass(frozen=True, slots=True)
class Match:
    """A route that fits the path, with its parameters as sent."""

    route: Route
    service: str
    params: dict[str, str]


class RouteTable:
    """All routes of one or more services; static paths by one dictionary look-up.

    Templates are kept by their first segment, so that a path is held against few of them.
    """

    def __init__(self, routes: Iterable[tuple[str, Route]]) -> None:
        self._static: dict[str, dict[str, Match]] = {}
        self._patterns: dict[str, list[_Pattern]] = {}
        by_template: dict[str, dict[str, tuple[str, Route]]] = {}
        for service, route in routes:
            for path in route.paths:
                if "{" in path:
                    by_template.setdefault(path, {})[route.method] = (service, route)
                else:
                    self._static.setdefault(path, {})[route.method] = Match(route, service, {})
        # Templates with a fixed tail come before catch-all ones, longer before shorter.
        ordered = sorted(by_template, key=lambda path: (":path" in path, -len(path)))
        compiled = [(one, (compile_template(one), by_template[one])) for one in ordered]
        # What begins with a parameter fits any first segment, known or not.
        for first in {"", *(_first_segment(template) for template in ordered)}:
            fitting = [entry for one, entry in compiled if _first_segment(one) in {first, ""}]
            self._patterns[first] = fitting

    def match(self, method: str, path: str) -> Match | None:
        """Find the route, or None when no route has this path and method."""
        methods = self._static.get(path)
        if methods and method in methods:
            return methods[method]
        for pattern, by_method in self._fitting(path):
            found = pattern.fullmatch(path)
            if found and method in by_method:
                service, route = by_method[method]
                return Match(route, service, found.groupdict())
        return None

    def methods(self, path: str) -> frozenset[str]:
        """Name the methods that the path answers; empty when the path is unknown."""
        allowed = set(self._static.get(path, ()))
        for pattern, by_method in self._fitting(path):
            if pattern.fullmatch(path):
                allowed |= set(by_method)
        return frozenset(allowed)

    def _fitting(self, path: str) -> list[_Pattern]:
        return self._patterns.get(_first_segment(path), self._patterns[""])


def _first_segment(path: str) -> str:
    """Give the first segment of a path or template; empty for a parameter."""
    first = path.split("/", 2)[1] if "/" in path else ""
    return "" if "{" in first else first


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
