"""`python -m libs.cli features`: plan and apply feature definitions of a running suite."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from libs.cli.connection import Gateway, NotRunningError

app = typer.Typer(no_args_is_help=True, help="Definitions of feature views and services.")
_PATH = "/features/definitions"
_StateDir = Annotated[Path, typer.Option(help="State directory of the suite.")]
_File = Annotated[Path, typer.Argument(help='JSON file: a list, or {"definitions": [...]}.')]
_SIGNS = {"create": "+", "update": "~", "unchanged": " "}


@app.callback()
def commands() -> None:
    """Definitions of feature views and services."""


@app.command()
def plan(file: _File, state_dir: _StateDir = Path(".gatehouse")) -> None:
    """Say what applying the file would change."""
    _run(file, state_dir, is_dry=True)


@app.command()
def apply(file: _File, state_dir: _StateDir = Path(".gatehouse")) -> None:
    """Apply the file, all of it or nothing."""
    _run(file, state_dir, is_dry=False)


def _run(file: Path, state_dir: Path, *, is_dry: bool) -> None:
    try:
        gateway = Gateway.find(state_dir)
        document = orjson.loads(file.read_bytes())
    except (NotRunningError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    definitions = document.get("definitions") if isinstance(document, dict) else document
    status, answer = asyncio.run(_send(gateway, {"definitions": definitions, "dry_run": is_dry}))
    if status != 200:
        print(f"features: {answer.get('detail', answer)}", file=sys.stderr)
        raise typer.Exit(1)
    for line in lines_of(answer):
        print(line)


async def _send(gateway: Gateway, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    async with gateway.session() as session, session.post(_PATH, json=body) as response:
        return response.status, await response.json(content_type=None)


def lines_of(answer: dict[str, Any]) -> list[str]:
    """Give one line per definition, one per detail of a change, and a sum."""
    lines = []
    counts = dict.fromkeys(_SIGNS, 0)
    for change in answer["changes"]:
        counts[change["action"]] += 1
        lines.append(f"{_SIGNS[change['action']]} {change['kind']} {change['name']}")
        lines += [f"    {detail}" for detail in change["details"]]
    verb = "applied" if answer["applied"] else "planned"
    summary = ", ".join(f"{count} {action}" for action, count in counts.items())
    return [*lines, f"{verb}: {summary}"]
