"""TLS of a listening server: a renewed certificate is taken over without a restart.

New handshakes get the new chain, open connections keep theirs. What is not a certificate with its
key is not taken over, and said once.
"""

import asyncio
import hashlib
import ssl
from pathlib import Path

from libs.common.logging import get_logger

log = get_logger()

# Files are small, and a mounted Secret changes by a link: content tells more than times.
LOOK_EVERY_S = 10.0


async def keep_fresh(
    context: ssl.SSLContext, cert: Path, key: Path, *, every_s: float = LOOK_EVERY_S
) -> None:
    """Look at the files until cancelled, and load them into the context when they have changed.

    Args:
        context: of the listening server, loaded from the same files.
        cert: PEM chain.
        key: its PEM private key.
        every_s: seconds between two looks.
    """
    seen = await asyncio.to_thread(_digest, cert, key)
    while True:
        await asyncio.sleep(every_s)
        found = await asyncio.to_thread(_digest, cert, key)
        if found is None or found == seen:
            continue
        seen = found
        try:
            # A pair that does not fit must not reach the live context half.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError):
            log.warning("certificate not taken over", state="stale")
        else:
            log.info("certificate taken over", state="fresh")


def _digest(*files: Path) -> bytes | None:
    """Give a digest of the files, or None while one cannot be read."""
    try:
        return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).digest()
    except OSError:
        return None
