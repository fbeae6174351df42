"""`python -m libs.cli analytics`: rebuild the roll-ups of a running suite."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from libs.cli.connection import Gateway, NotRunningError

app = typer.Typer(no_args_is_help=True, help="Figures made of the audit log.")
_PATH = "/v1/analytics/rebuild"
_POLL_S = 0.5


@app.callback()
def commands() -> None:
    """Figures made of the audit log."""


@app.command()
def rebuild(
    state_dir: Annotated[Path, typer.Option(help="State directory of the suite.")] = Path(
        ".gatehouse"
    ),
    accept_loss: Annotated[
        bool, typer.Option(help="Go ahead although old entries of the log are pruned.")
    ] = False,
) -> None:
    """Count the whole audit log again and put the result in place of the roll-ups."""
    try:
        gateway = Gateway.find(state_dir)
    except NotRunningError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    view = asyncio.run(_rebuild(gateway, accept_loss=accept_loss))
    if view.get("state") != "done":
        text = view.get("reason") or view.get("detail") or view.get("state")
        print(f"rebuild: {text}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"rebuilt from {view['done']} entries")


async def _rebuild(gateway: Gateway, *, accept_loss: bool) -> dict[str, Any]:
    columns = (TextColumn("entries"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with gateway.session() as session:
        async with session.post(_PATH, json={"accept_loss": accept_loss}) as answer:
            view: dict[str, Any] = await answer.json(content_type=None)
            if answer.status != 202:
                return view
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("entries", total=None)
            while view["state"] == "running":
                progress.update(task, completed=view["done"], total=view["total"] or None)
                await asyncio.sleep(_POLL_S)
                async with session.get(_PATH) as answer:
                    view = await answer.json(content_type=None)
                    if answer.status != 200:
                        break
    return view
