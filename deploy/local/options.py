"""What can be said on the command line of the runner."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from libs.common.catalog import SERVICES

DEFAULT_STATE_DIR = Path(".gatehouse")


@dataclass(frozen=True, slots=True)
class Options:
    """Choices of one run.

    Attributes:
        state_dir: databases, keys, write-ahead logs, demo key; absolute.
        only: services to start, in catalogue order.
        auto_ports: free ports instead of the catalogue's.
        reload: restart a service when its code changes.
        env_file: variables that the environment does not set.
    """

    state_dir: Path
    only: tuple[str, ...]
    auto_ports: bool = False
    reload: bool = False
    env_file: Path = Path(".env")


def parse(arguments: list[str]) -> Options:
    """Read the command line; a mistake ends the process with code 2 and a usage text."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local",
        description="Run Gatehouse on this machine: Postgres, Redis and the six services.",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=DEFAULT_STATE_DIR,
        help="where all state lives (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        type=_services,
        default=tuple(SERVICES),
        metavar="A,B",
        help=f"start these services only, of {','.join(SERVICES)}",
    )
    parser.add_argument(
        "--ports",
        choices=("catalogue", "auto"),
        default="catalogue",
        help="auto takes free ports, so that several suites run side by side",
    )
    parser.add_argument(
        "--reload", action="store_true", help="restart a service when its code changes"
    )
    parser.add_argument(
        "--env-file", type=Path, default=Path(".env"), help="file with variables (default: .env)"
    )
    read = parser.parse_args(arguments)
    return Options(
        state_dir=read.state_dir.resolve(),
        only=read.only,
        auto_ports=read.ports == "auto",
        reload=read.reload,
        env_file=read.env_file,
    )


def _services(text: str) -> tuple[str, ...]:
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - set(SERVICES))
    if unknown or not names:
        shown = ", ".join(unknown) or "nothing"
        raise argparse.ArgumentTypeError(
            f"no such service: {shown}; there are {', '.join(SERVICES)}"
        )
    return tuple(name for name in SERVICES if name in names)
