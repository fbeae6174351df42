"""Rule files: TOML documents of expressions with their own positives and negatives."""

import hashlib
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

_DIRECTORY = Path(__file__).resolve().parents[1] / "rules"


@lru_cache
def load(name: str) -> dict[str, Any]:
    """Read one rule file of this package.

    Args:
        name: file name without `.toml`.
    """
    return tomllib.loads((_DIRECTORY / f"{name}.toml").read_text(encoding="utf-8"))


@lru_cache
def version(name: str) -> str:
    """Give the version of a rule file: `1.0.0` and the start of its SHA-256.

    A changed rule changes the version, so that no cached verdict outlives its rule.
    """
    digest = hashlib.sha256((_DIRECTORY / f"{name}.toml").read_bytes()).hexdigest()
    return f"1.0.0+{digest[:8]}"


def unmark(example: str) -> tuple[str, int, int]:
    """Split an example such as `to «a@b.co» now` into its text and the marked span."""
    start = example.index("«")
    end = example.index("»") - 1
    return example.replace("«", "").replace("»", ""), start, end
