"""Workflows by their schema; one version, one truth in runner, compose, chart and README."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.helm.render import CHART
from deploy.local.children import ROOT
from deploy.local.dotenv import read_dotenv
from deploy.local.environment import child_environment
from deploy.local.layout import Layout
from deploy.local.ports import choose_ports
from libs.common.catalog import NEIGHBOUR_PORTS, SERVICES
from libs.common.platform import VERSION
from tests.deploy.policies import first, workloads
from tests.deploy.test_chart import manifests
from tests.deploy.test_compose import ENTRIES

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
# SchemaStore's, Apache-2.0, unchanged from the Python package check-jsonschema 0.39.0.
SCHEMA = json.loads((Path(__file__).parent / "schema" / "github-workflows.json").read_text())


def loaded(path: Path) -> dict[str, Any]:
    document: dict[Any, Any] = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the key `on` as true.
    document["on"] = document.pop(True)
    return document


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_keeps_the_schema_and_pins_what_it_uses(path: Path) -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(loaded(path))
    text = path.read_text()
    assert "not run yet" in text.splitlines()[0]
    for action in re.findall(r"uses: (\S+)", text):
        assert re.search(r"@v\d+", action), action
    assert "pull_request_target" not in text
    assert loaded(path)["permissions"] == {"contents": "read"}


def test_the_schema_of_workflows_catches_a_typo() -> None:
    document = loaded(WORKFLOWS[0])
    document["jobs"]["test"]["runs_on"] = document["jobs"]["test"].pop("runs-on")
    assert list(jsonschema.Draft7Validator(SCHEMA).iter_errors(document))


def test_the_release_builds_every_service_with_sbom_and_provenance() -> None:
    images = loaded(ROOT / ".github/workflows/release.yaml")["jobs"]["images"]
    built = {each["service"] for each in images["strategy"]["matrix"]["include"]}
    assert built == set(SERVICES)
    step = next(s for s in images["steps"] if "build-push-action" in s.get("uses", ""))
    assert step["with"]["sbom"] is True
    assert step["with"]["provenance"] == "mode=max"
    arguments = set(re.findall(r"^([A-Z_]+)=", step["with"]["build-args"], re.MULTILINE))
    recipe = (ROOT / "deploy/docker/Dockerfile").read_text()
    assert arguments <= set(re.findall(r"^ARG ([A-Z_]+)", recipe, re.MULTILINE))


def test_one_version_stands_in_every_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    compose = read_dotenv(ROOT / "deploy/compose/.env")
    found = {project["version"], chart["appVersion"], compose["GATEHOUSE_VERSION"], VERSION}
    assert len(found) == 1
    assert f"## {chart['version']}" in (CHART / "UPGRADING.md").read_text()


@pytest.mark.parametrize("name", list(SERVICES))
def test_runner_compose_and_chart_give_a_service_the_same_addresses(name: str) -> None:
    def peers(environment: dict[str, str]) -> set[tuple[str, str]]:
        """(peer, port) of what a service is told to call."""
        found = set()
        for peer in SERVICES:
            url = environment.get(f"{peer.upper()}_URL")
            if url:
                found.add((peer, url.rpartition(":")[2]))
        return found

    compose = peers(ENTRIES[name]["environment"])
    items = first(workloads(manifests("minimal"))[name])["env"]
    chart = peers({item["name"]: item.get("value", "") for item in items})
    local = child_environment(
        {},
        Layout(Path("/nowhere")),
        choose_ports({}, auto=False),
        postgres_url="postgresql://h/d",
        redis_url="redis://h",
        is_terminal=False,
    )
    assert compose == chart
    # The runner tells everybody all addresses; none may differ.
    assert compose <= peers(local)


def test_stores_have_the_same_names_for_all() -> None:
    for name, entry in SERVICES.items():
        compose = ENTRIES[name]["environment"]
        container = first(workloads(manifests("minimal"))[name])
        chart = {item["name"] for item in container["env"]}
        assert "POSTGRES_URL_FILE" in compose
        assert "POSTGRES_URL" in chart
        assert ("REDIS_URL" in chart) is entry.redis


def test_the_readme_names_the_ports_and_the_probes_are_routes() -> None:
    text = (ROOT / "README.md").read_text()
    for entry in SERVICES.values():
        assert f":{entry.port}" in text
    container = first(workloads(manifests("minimal"))["gateway"])
    served = {route.path for route in SERVICES["gateway"].routes}
    for probe in ("startup", "readiness", "liveness"):
        assert container[f"{probe}Probe"]["httpGet"]["path"] in served


def test_published_ports_are_the_catalogues_in_the_compose_readme() -> None:
    text = (ROOT / "deploy/compose/README.md").read_text()
    for name in ("jaeger_ui", "prometheus", "grafana", "mlflow", "pgadmin"):
        assert str(NEIGHBOUR_PORTS[name]) in text


def test_the_k6_script_asks_for_the_missions_objectives() -> None:
    text = (ROOT / "deploy/load/score.js").read_text()
    assert '"p(95)<150", "p(99)<300"' in text
    assert '"rate<0.01"' in text
    for path in re.findall(r"\$\{base\}(/\S+?)`", text):
        routes = {route.path for service in SERVICES.values() for route in service.routes}
        assert path in routes
    assert ENTRIES["load"]["command"][-1] == "/load/score.js"
