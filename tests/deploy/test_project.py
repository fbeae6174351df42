"""The project files: pins, targets, pools that fit the embedded server."""

import os
import re
import subprocess
import tomllib

from deploy.local.children import ROOT
from deploy.local.env_example import settings_class
from deploy.local.servers import _POSTGRES_SETTINGS
from libs.common.catalog import SERVICES

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
# Installed by nobody's default command; `torch` is pinned where it stands.
OPTIONAL = {"torch", "mlflow"}
HEAVY = {"torch", "mlflow", "lightgbm", "xgboost-cpu", "pandas", "pytest", "scikit-learn"}


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert match is not None
    return match.group().lower().replace("_", "-")


def _pinned() -> set[str]:
    return {_name(line) for line in CONSTRAINTS.splitlines() if "==" in line}


def test_every_package_that_is_asked_for_has_an_exact_version() -> None:
    asked = set(map(_name, PROJECT["dependencies"]))
    for extra, requirements in PROJECT["optional-dependencies"].items():
        if extra not in OPTIONAL:
            asked |= set(map(_name, requirements))
    assert asked - _pinned() - {"gatehouse"} == set()


def test_constraints_hold_exact_versions_and_no_address() -> None:
    lines = [line for line in CONSTRAINTS.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.+!-]+", line)] == []


def test_the_light_set_holds_nothing_heavy() -> None:
    makefile = (ROOT / "Makefile").read_text()
    match = re.search(r"^LIGHT := (.+)$", makefile, re.MULTILINE)
    assert match is not None
    extras = match.group(1).split(",")
    assert set(SERVICES) < set(extras)
    light = set(map(_name, PROJECT["dependencies"]))
    for extra in extras:
        light |= set(map(_name, PROJECT["optional-dependencies"][extra]))
    assert light & HEAVY == set()


def test_make_alone_lists_every_target() -> None:
    listed = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MAKEFLAGS": ""},
    ).stdout
    for target in ("run", "test", "lint", "demo", "models", "bench", "clean", "profile"):
        assert f"make {target} " in listed


def test_the_pools_of_all_services_fit_the_embedded_server() -> None:
    pools = [settings_class(name).model_fields["postgres_pool_max"].default for name in SERVICES]
    # Migrations, bootstrap and a person with psql need a few, too.
    assert sum(pools) + 10 <= int(_POSTGRES_SETTINGS["max_connections"])
