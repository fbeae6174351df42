"""`python -m deploy.helm.render`: write the rendered manifests of every example again.

Uses `helm` where it is on PATH, else the renderer that RENDERER names (any program with the flags
-kube-version, -name and -f that prints the manifests). SOURCES.sha256 holds the digests of what
went in, so that a test notices a template that was edited without rendering.
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


def sources(example: Path) -> str:
    """Give digest and name of each chart file and of the example's values, one per line."""
    files = sorted(path for path in CHART.rglob("*") if path.is_file())
    named = [(path.relative_to(CHART.parent).as_posix(), path) for path in files]
    named.append(("values.yaml", example / "values.yaml"))
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for name, path in named
    )


def render(example: Path) -> str:
    """Render one example.

    Raises:
        FileNotFoundError: there is no renderer.
    """
    values = str(example / "values.yaml")
    if helm := shutil.which("helm"):
        command = [helm, "template", RELEASE, str(CHART), "-f", values]
        command += ["--kube-version", KUBERNETES]
    elif renderer := os.environ.get("RENDERER"):
        command = [renderer, "-kube-version", KUBERNETES, "-name", RELEASE, "-f", values]
        command.append(str(CHART))
    else:
        raise FileNotFoundError("install helm, or set RENDERER to a program that renders charts")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> int:
    """Render all examples."""
    for example in sorted(path.parent for path in EXAMPLES.glob("*/values.yaml")):
        target = example / "rendered"
        target.mkdir(exist_ok=True)
        (target / "manifests.yaml").write_text(render(example))
        (target / "SOURCES.sha256").write_text(sources(example))
    return 0


if __name__ == "__main__":
    sys.exit(main())
