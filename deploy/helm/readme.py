"""`python -m deploy.helm.readme`: write the values table of the chart's README from the comments.

A comment above a key of values.yaml is its description; the default is what YAML reads.
"""

import json
import sys
from typing import Any

import yaml

from deploy.helm.render import CHART

BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"


def described() -> list[tuple[str, str, str]]:
    """Give (path, default, description) of every commented key, in the order of the file."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    values: dict[str, Any] = yaml.safe_load("\n".join(lines))
    rows: list[tuple[str, str, str]] = []
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in lines:
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
            continue
        key, colon, _ = stripped.partition(":")
        indent = len(line) - len(line.lstrip())
        if colon and key.replace("_", "").isalnum():
            parents = [parent for parent in parents if parent[0] < indent]
            parents.append((indent, key))
            path = ".".join(name for _, name in parents)
            if comment:
                rows.append((path, _default(values, path), " ".join(comment)))
        comment = []
    return rows


def _default(values: dict[str, Any], path: str) -> str:
    value: Any = values
    for name in path.split("."):
        value = value[name]
    is_block = isinstance(value, dict) and bool(value)
    return "" if is_block else f"`{json.dumps(value)}`"


def table() -> str:
    """Give the table in Markdown."""
    rows = [
        f"| `{path}` | {default} | {text.replace('|', chr(92) + '|')} |"
        for path, default, text in described()
    ]
    return "\n".join(["| key | default | what |", "|---|---|---|", *rows])


def text(old: str) -> str:
    """Give the README with a fresh table between its marks."""
    head, _, rest = old.partition(BEGIN)
    return f"{head}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


def main() -> int:
    """Write the file."""
    path = CHART / "README.md"
    path.write_text(text(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
