"""A load generator that costs little: raw HTTP/1.1 over asyncio, one request in flight each.

It parses the status line and Content-Length only, so that on a machine shared with the server the
figures are the server's. Answers without a Content-Length count as errors.
"""

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(slots=True)
class Tally:
    """What one run measured."""

    latencies_ms: list[float] = field(default_factory=list)
    errors: int = 0


def request_bytes(url: str, headers: dict[str, str], body: bytes) -> bytes:
    """Build a POST, ready to be sent again and again."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


async def read_answer(reader: asyncio.StreamReader) -> int:
    """Read one answer and give its status."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    length = next(
        (int(line[15:]) for line in lines if line.lower().startswith(b"content-length:")), None
    )
    if length is None:
        raise ValueError("an answer without Content-Length")
    await reader.readexactly(length)
    return int(lines[0].split()[1])


async def _connection(url: str, request: bytes, until: float, tally: Tally) -> None:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        while time.perf_counter() < until:
            began = time.perf_counter()
            writer.write(request)
            status = await read_answer(reader)
            tally.latencies_ms.append((time.perf_counter() - began) * 1e3)
            tally.errors += status != 200
    except (OSError, ValueError, asyncio.IncompleteReadError):
        tally.errors += 1
    finally:
        writer.close()


async def load(url: str, request: bytes, *, connections: int, seconds: float) -> Tally:
    """Keep `connections` busy for `seconds`; each sends its next request after its answer."""
    tally = Tally()
    until = time.perf_counter() + seconds
    await asyncio.gather(*(_connection(url, request, until, tally) for _ in range(connections)))
    return tally
