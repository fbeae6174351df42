"""`python -m services.witness`: start the process."""

import asyncio
import sys

from services.witness.server import serve
from services.witness.settings import WitnessSettings

if __name__ == "__main__":
    try:
        settings = WitnessSettings.load()
    except ValueError as error:
        print(f"witness: {error}", file=sys.stderr)  # noqa: T201 - read by a person at start-up
        sys.exit(2)
    asyncio.run(serve(settings))
