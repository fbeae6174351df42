"""Where benchmark data lies, on what machine a run was made, and how a table is written."""

import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

# Evaluation data is never part of the repository (data README); a clone without it skips.
DATA_VARIABLE = "GATEHOUSE_DATA"
_DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data"


class MissingDataError(FileNotFoundError):
    """A file of evaluation data is not there; the text says which and how to point to it."""


def data_file(relative: str) -> Path:
    """Path of a file of evaluation data.

    Raises:
        MissingDataError: absent; the text names the variable that points elsewhere.
    """
    path = Path(os.environ.get(DATA_VARIABLE, str(_DEFAULT))) / relative
    if not path.is_file():
        raise MissingDataError(
            f"{relative} is not in the evaluation data; set {DATA_VARIABLE} to its folder"
        )
    return path


def from_terminal(run: Callable[[Path], None], out: Path) -> None:
    """Run a benchmark and end with one line, instead of a traceback, where its data is absent."""
    try:
        run(out)
    except MissingDataError as error:
        raise SystemExit(str(error)) from None


def machine(libraries: Sequence[str]) -> str:
    """One line: date, cores, processor, Python and library versions."""
    cores = os.cpu_count() or 1
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    today = datetime.now(UTC).date().isoformat()
    return f"{today}, {cores} cores, {model}, Python {platform.python_version()}, {versions}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def write_section(path: Path, name: str, text: str) -> None:
    """Replace the section between this benchmark's markers, or append it to the page."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    block = f"{begin}\n{text.strip()}\n{end}\n"
    if begin in page and end in page:
        before, rest = page.split(begin, 1)
        page = before + block + rest.split(end, 1)[1].lstrip("\n")
    else:
        page = f"{page.rstrip()}\n\n{block}" if page.strip() else block
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
