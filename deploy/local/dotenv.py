"""Reads `.env`: NAME=value lines, comments, optional `export` and quotes; no interpolation."""

from pathlib import Path


class DotenvError(Exception):
    """A line of the file cannot be read; the text names file and line, never the value."""


def read_dotenv(path: Path) -> dict[str, str]:
    """Give the variables of a file, or none when it does not exist.

    An empty value counts as not set, as everywhere in the settings.

    Raises:
        DotenvError: a line is neither empty, a comment nor an assignment.
    """
    if not path.exists():
        return {}
    values: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.strip().removeprefix("export ").strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise DotenvError(f"{path}:{number}: expected NAME=value")
        value = _unquoted(value.strip())
        if value:
            values[name] = value
    return values


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    # A comment needs a space before it, so that values may contain '#'.
    return value.split(" #", 1)[0].rstrip()
