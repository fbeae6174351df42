"""Restarts services when their code changes (`make run RELOAD=1`)."""

from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from deploy.local.children import ROOT
from deploy.local.console import Console


def affected(paths: Iterable[Path], running: tuple[str, ...]) -> list[str]:
    """Say which services a change concerns: the one whose folder it is in, or all for `libs`."""
    names: set[str] = set()
    for path in paths:
        parts = path.relative_to(ROOT).parts
        if parts[0] == "libs":
            return list(running)
        if len(parts) > 1 and parts[1] in running:
            names.add(parts[1])
    return [name for name in running if name in names]


async def watch(
    running: tuple[str, ...], restart: Callable[[str], Awaitable[None]], console: Console
) -> None:
    """Watch `services/` and `libs/` and restart what a change of a Python file concerns."""
    from watchfiles import PythonFilter, awatch

    async for changes in awatch(ROOT / "services", ROOT / "libs", watch_filter=PythonFilter()):
        for name in affected((Path(path) for _, path in changes), running):
            console.say(f"{name}: its code changed, restarting")
            await restart(name)
