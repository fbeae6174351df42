"""A proxy with none of the gateway's chain: aiohttp in, aiohttp out, on uvloop; for comparison."""

import sys

import aiohttp
import uvloop
from aiohttp import web


async def build(upstream: int) -> web.Application:
    """Build the proxy to a local port."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1024), auto_decompress=False
    )
    base = f"http://127.0.0.1:{upstream}"

    async def pass_on(request: web.Request) -> web.Response:
        body = await request.read()
        kept = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "connection")}
        async with session.request(
            request.method, base + request.path_qs, data=body, headers=kept
        ) as answer:
            data = await answer.read()
            media = answer.headers.get("content-type", "application/octet-stream")
            return web.Response(body=data, status=answer.status, headers={"content-type": media})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", pass_on)
    return app


if __name__ == "__main__":
    uvloop.install()
    web.run_app(
        build(int(sys.argv[2])),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        print=None,
        access_log=None,
    )
