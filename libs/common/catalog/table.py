"""`python -m libs.common.catalog.table [FILE]`: the status table of the README, from the catalogue.

With a file, the part between the two markers is rewritten in place; a test compares.
"""

import sys
from pathlib import Path

from libs.common.catalog import SERVICES

BEGIN = "<!-- status: begin (make docs) -->"
END = "<!-- status: end -->"


def status_table() -> str:
    """Render every public route with its scope and whether it is built."""
    lines = ["| service | route | scope | what | status |", "|---|---|---|---|---|"]
    for name, service in SERVICES.items():
        for route in service.routes:
            alias = " (also `/v1`)" if route.also_v1 else ""
            scope = f"`{route.scope}`" if route.scope else "public"
            status = "built" if route.status == "built" else "planned: answers 501"
            lines.append(
                f"| {name} | `{route.method} {route.path}`{alias} | {scope} | {route.summary} "
                f"| {status} |"
            )
    return "\n".join(lines)


def replace_between(text: str, table: str) -> str:
    """Put the table between the markers.

    Raises:
        ValueError: a marker is missing.
    """
    head, found, rest = text.partition(BEGIN)
    _, closed, tail = rest.partition(END)
    if not found or not closed:
        raise ValueError("the status markers are missing")
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
        path.write_text(replace_between(path.read_text(), status_table()))
    else:
        print(status_table())
