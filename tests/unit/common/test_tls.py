"""A renewed certificate reaches new handshakes of a running server; a broken pair does not."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest

from libs.common.tls import keep_fresh

pytestmark = pytest.mark.anyio


def make(cert: Path, key: Path, name: str) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "1", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip


async def served(port: int) -> bytes:
    """Give the certificate that a new handshake gets."""
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return found


async def test_a_renewed_certificate_is_taken_over_and_half_a_pair_is_not(tmp_path: Path) -> None:
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    make(cert, key, "one")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    fresh = asyncio.create_task(keep_fresh(context, cert, key, every_s=0.02))
    try:
        first = await served(port)
        make(tmp_path / "new.crt", tmp_path / "new.key", "two")
        (tmp_path / "new.crt").replace(cert)  # the key is still the old one
        await asyncio.sleep(0.1)
        assert await served(port) == first
        (tmp_path / "new.key").replace(key)
        async with asyncio.timeout(5):
            while await served(port) == first:  # noqa: ASYNC110 - a handshake tells, nothing else
                await asyncio.sleep(0.02)
        assert not fresh.done()
    finally:
        fresh.cancel()
        server.close()
