"""The route table: static paths, parameters, catch-alls, methods."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.catalog import SERVICES
from libs.common.catalog.model import Route
from libs.common.routing import RouteTable, compile_template

TABLE = RouteTable(
    [
        ("a", Route("GET", "/things", "things:read", "", also_v1=True)),
        ("a", Route("POST", "/things", "things:write", "")),
        ("a", Route("GET", "/things/{thing_id}", "things:read", "")),
        ("a", Route("GET", "/things/{thing_id}/parts", "things:read", "")),
        ("b", Route("GET", "/tile/{rest:path}", None, "")),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "template", "params"),
    [
        ("GET", "/things", "/things", {}),
        ("GET", "/v1/things", "/things", {}),
        ("POST", "/things", "/things", {}),
        ("GET", "/things/7", "/things/{thing_id}", {"thing_id": "7"}),
        ("GET", "/things/7/parts", "/things/{thing_id}/parts", {"thing_id": "7"}),
        ("GET", "/tile/0/x001/234", "/tile/{rest:path}", {"rest": "0/x001/234"}),
    ],
)
def test_matches(method: str, path: str, template: str, params: dict[str, str]) -> None:
    match = TABLE.match(method, path)
    assert match is not None
    assert (match.route.path, match.params) == (template, params)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/things"),
        ("POST", "/v1/things"),
        ("GET", "/things/"),
        ("GET", "/things/7/parts/1"),
        ("GET", "/tile/"),
        ("GET", "/nothing"),
        ("GET", "/things\n"),
    ],
)
def test_no_match(method: str, path: str) -> None:
    assert TABLE.match(method, path) is None


def test_the_methods_of_a_path_are_known() -> None:
    assert TABLE.methods("/things") == {"GET", "POST"}
    assert TABLE.methods("/nothing") == frozenset()


EVERY = [(name, route) for name, service in SERVICES.items() for route in service.routes] + [
    ("x", Route("GET", "/{any}/parts/{rest:path}", None, ""))
]
_TEMPLATES = sorted({path for _, route in EVERY for path in route.paths})


def _by_scanning_all(method: str, path: str) -> tuple[str, dict[str, str]] | None:
    """Hold the path against every template: fixed before catch-all, long before short."""
    order = sorted(_TEMPLATES, key=lambda one: ("{" in one, ":path" in one, -len(one)))
    for template in order:
        found = compile_template(template).fullmatch(path)
        for _, route in EVERY:
            if found and template in route.paths and route.method == method:
                return route.path, found.groupdict()
    return None


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_looking_by_first_segment_finds_what_a_scan_of_all_templates_finds(data) -> None:
    word = st.sampled_from(["a", "models", "v1", "v2", "parts", "7", "a%2Fb", "{x}", ""])
    template = data.draw(st.sampled_from(_TEMPLATES))
    path = re.sub(r"\{[a-z_]+(:path)?\}", lambda _: data.draw(word), template)
    path += data.draw(st.sampled_from(["", "", "", "/", "/more"]))
    method = data.draw(st.sampled_from(["GET", "POST", "DELETE", "PUT"]))
    match = RouteTable(EVERY).match(method, path)
    assert (match and (match.route.path, match.params)) == _by_scanning_all(method, path)


def test_no_two_services_claim_one_path() -> None:
    owners: dict[tuple[str, str], str] = {}
    for name, service in SERVICES.items():
        for route in service.routes:
            for path in route.paths:
                key = (route.method, path)
                operations = {"/livez", "/readyz", "/ready", "/health", "/metrics"}
                assert key not in owners or path in operations, (key, name, owners[key])
                owners[key] = name
