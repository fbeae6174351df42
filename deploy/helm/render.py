"""`python -m deploy.helm.render`: write the rendered manifests of every example again.

Uses `helm` where it is on PATH, else `minihelm` from PATH or from the variable RENDERER (a program
with the flags -kube-version, -name, -a and -f that prints the manifests). SOURCES.sha256 names the
renderer and holds the digests of what went in, so that a test notices a template that was edited
without rendering. values.schema.json and README.md of the chart are written first.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

CHART = Path(__file__).parent / "gatehouse"
EXAMPLES = Path(__file__).parent / "examples"
KUBERNETES = "v1.31.0"
RELEASE = "gatehouse"
# Of the operators that the examples use; a bare `helm template` knows none.
API_VERSIONS = (
    "external-secrets.io/v1",
    "gateway.networking.k8s.io/v1",
    "keda.sh/v1alpha1",
    "monitoring.coreos.com/v1",
)


def examples() -> list[Path]:
    """List the folders of the examples."""
    return sorted(path.parent for path in EXAMPLES.glob("*/values.yaml"))


def sources(example: Path) -> str:
    """Give digest and name of each chart file and of the example's values, one per line."""
    files = sorted(p for p in CHART.rglob("*") if p.is_file() and p.suffix != ".md")
    named = [(path.relative_to(CHART.parent).as_posix(), path) for path in files]
    named.append(("values.yaml", example / "values.yaml"))
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for name, path in named
    )


def renderer() -> list[str] | None:
    """Give the command that renders charts here, without values and chart; None without one."""
    if helm := shutil.which("helm"):
        command = [helm, "template", RELEASE, str(CHART), "--kube-version", KUBERNETES]
        return command + [word for api in API_VERSIONS for word in ("--api-versions", api)]
    if small := os.environ.get("RENDERER") or shutil.which("minihelm"):
        command = [small, "-kube-version", KUBERNETES, "-name", RELEASE]
        return command + [word for api in API_VERSIONS for word in ("-a", api)]
    return None


def render(values: Path) -> str:
    """Render the chart with one values file.

    Raises:
        FileNotFoundError: there is no renderer.
        ValueError: the chart refuses the values; the text is the chart's.
    """
    command = renderer()
    if command is None:
        raise FileNotFoundError("install helm, or set RENDERER to a program that renders charts")
    command += ["-f", str(values)]
    if "template" not in command:
        command.append(str(CHART))
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        raise ValueError(result.stderr.strip())
    return result.stdout


def main() -> int:
    """Render all examples."""
    from deploy.helm import readme, schema

    schema.main()
    readme.main()
    command = renderer()
    name = Path(command[0]).name if command else ""
    for example in examples():
        target = example / "rendered"
        target.mkdir(exist_ok=True)
        (target / "manifests.yaml").write_text(render(example / "values.yaml"))
        (target / "SOURCES.sha256").write_text(f"# rendered by {name}\n" + sources(example))
    return 0


if __name__ == "__main__":
    sys.exit(main())
