"""The committed API description is what the services say of themselves."""

import orjson

from deploy.local.api_docs import render
from deploy.local.children import ROOT
from libs.common.catalog import SERVICES

PATH = ROOT / "docs" / "api" / "openapi.json"


def test_the_committed_description_is_what_the_services_give() -> None:
    assert PATH.read_bytes() == render(), "run: make api-docs"


def test_every_public_route_is_described_with_its_operation_id() -> None:
    paths = orjson.loads(PATH.read_bytes())["paths"]
    missing = [
        (route.method, route.path)
        for entry in SERVICES.values()
        for route in entry.routes
        if route.method != "WS"
        and "operationId" not in paths[route.path.replace(":path}", "}")][route.method.lower()]
    ]
    assert missing == []
