"""Raw HTTP/1.1 for load generators: requests as bytes, and just enough of the answer."""

import asyncio
from urllib.parse import urlsplit


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
