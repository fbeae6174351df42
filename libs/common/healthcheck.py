"""`python -m libs.common.healthcheck [URL]`: exit 0 when the service answers /livez with 200.

Used as the container's health command, so that the image needs no curl. Without a URL it reads
SERVICE (and BIND_HOST, PORT) as the entry point does.
"""

import os
import sys
import urllib.error
import urllib.request

from libs.common.catalog import SERVICES


def main(argv: list[str]) -> int:
    """Probe once with a two-second bound and give the exit code."""
    if argv:
        url = argv[0]
    else:
        service = os.environ.get("SERVICE", "gateway")
        if service not in SERVICES:
            print(
                f"healthcheck: SERVICE={service!r} is not one of {', '.join(SERVICES)}",
                file=sys.stderr,
            )
            return 2
        port = os.environ.get(f"{service.upper()}_PORT") or os.environ.get("PORT")
        url = f"http://127.0.0.1:{port or SERVICES[service].port}/livez"
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return 0 if response.status == 200 else 1
    except (urllib.error.URLError, OSError, ValueError) as error:
        print(f"healthcheck: {url} does not answer: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
