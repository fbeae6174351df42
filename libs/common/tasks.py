"""Ending background tasks for certain."""

import asyncio
from typing import Any


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it ends, and take its result or error.

    One request to cancel is not enough: a driver that is inside a timeout, or that meets the
    server's answer to its own cancelled query, may turn it into an ordinary error, and a loop that
    survives errors would go on for ever.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.2)
    if not task.cancelled():
        task.exception()
