"""SIGINT and SIGTERM: the first asks for an orderly stop, the second ends everything at once."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator

# A terminal and `make` may both deliver the same Ctrl-C; that is one wish, not two.
_SAME_WISH_S = 0.5


@contextlib.contextmanager
def signals_handled(first: Callable[[], None], second: Callable[[], None]) -> Iterator[None]:
    """Handle signals while the block runs.

    Args:
        first: called on the first signal.
        second: called on each later one that does not belong to the first.
    """
    loop = asyncio.get_running_loop()
    asked_at: float | None = None

    def on_signal() -> None:
        nonlocal asked_at
        now = time.monotonic()
        if asked_at is None:
            asked_at = now
            first()
        elif now - asked_at > _SAME_WISH_S:
            second()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
