"""Container entry: starts the service that the variable SERVICE names."""

import os
import runpy
import sys

from libs.common.catalog import SERVICES


def main() -> None:
    """Run `services.$SERVICE` as the main program; a wrong name ends with code 2."""
    service = os.environ.get("SERVICE", "")
    if service not in SERVICES:
        print(f"SERVICE={service!r} is not one of {', '.join(SERVICES)}", file=sys.stderr)  # noqa: T201 - read by a person at start-up
        sys.exit(2)
    runpy.run_module(SERVICES[service].module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
