"""One log for all parts: a prefix per line, colours on a terminal, one status line below."""

import os
import sys
from collections.abc import Mapping
from typing import TextIO

_COLOURS = (36, 32, 33, 35, 34, 96, 92, 93)
_WIDTH = 10


class Console:
    """Writes whole lines; plain when piped or when NO_COLOR is set (no-color.org)."""

    def __init__(
        self, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        self._stream = stream or sys.stdout
        self.is_terminal = self._stream.isatty()
        self._coloured = self.is_terminal and not environ.get("NO_COLOR")
        self._colour_of: dict[str, int] = {}
        self._status = ""

    def line(self, name: str, text: str) -> None:
        """Write one line of a part."""
        prefix = f"{name:<{_WIDTH}} |"
        if self._coloured:
            colour = self._colour_of.setdefault(
                name, _COLOURS[len(self._colour_of) % len(_COLOURS)]
            )
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
        self._write(f"{prefix} {text}\n")

    def say(self, text: str) -> None:
        """Write lines of the runner itself."""
        for line in text.splitlines():
            self.line("runner", line)

    def error(self, text: str) -> None:
        """Write lines of the runner that report a failure."""
        for line in text.splitlines():
            self.line("runner", f"\x1b[31m{line}\x1b[0m" if self._coloured else line)

    def block(self, text: str) -> None:
        """Write text without a prefix, such as the banner."""
        self._write(text.rstrip("\n") + "\n")

    def progress(self, label: str, done: int, total: int) -> None:
        """Show how far something is: a bar on a terminal, a line per tenth elsewhere."""
        share = done / total if total else 1.0
        if not self.is_terminal:
            self.say(f"{label} {done}/{total}")
            return
        filled = int(share * 30)
        bar = "#" * filled + "-" * (30 - filled)
        self._status = "" if done >= total else f"{label} [{bar}] {share:4.0%}"
        self._write("")

    def _write(self, text: str) -> None:
        if self.is_terminal:
            text = f"\r\x1b[K{text}{self._status}"
        try:
            self._stream.write(text)
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            # The reader went away; the suite goes on without a log.
            self._stream = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
            self.is_terminal = False
