"""Run by hand: `python -m tests.support.gemini [PORT]`; then set GEMINI_BASE_URL and any key."""

import sys

from aiohttp import web

from tests.support.gemini.server import StandIn

if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8099
    print(f"GEMINI_BASE_URL=http://127.0.0.1:{port} GEMINI_API_KEY=any")
    print("POST /__control, GET /__calls")
    web.run_app(StandIn().app(), host="127.0.0.1", port=port, print=None)
