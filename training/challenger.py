"""Makes a challenger of a released version, to try a rollout with: `models/fraud/1` -> `/3`.

    python -m training.challenger models/fraud/1 models/fraud/3 [--thresholds 0.1]

The new version has the same trees and, with `--thresholds`, risk bands that begin at that share of
the old ones: a careless challenger that would stop far more payments. Nothing is trained; real
challengers come from `training.fraud` and `training.retrain`.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path


def make(source: Path, target: Path, *, factor: float = 1.0) -> None:
    """Copy a version folder under another number.

    Args:
        source: `models/<name>/<version>`.
        target: `models/<name>/<number>`, which must not exist.
        factor: what each threshold is multiplied by.

    Raises:
        ValueError: the target is no number, or belongs to another model.
        FileExistsError: there is such a version.
    """
    if not target.name.isdigit() or target.parent.name != source.parent.name:
        raise ValueError("the target is another number of the same model")
    shutil.copytree(source, target)
    path = target / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    scaled = {name: value * factor for name, value in document["thresholds"].items()}
    number = int(target.name)
    document.update(version=number, release=f"{number}.0.0", thresholds=scaled, signature=None)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make a challenger of a released version.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--thresholds", type=float, default=1.0, metavar="SHARE")
    asked = parser.parse_args(arguments)
    make(asked.source, asked.target, factor=asked.thresholds)


if __name__ == "__main__":
    main()
