"""Container entry: `python -m deploy.docker.entry [MODULE ARGUMENT...]`.

Without arguments it starts the service that the variable SERVICE names. First each secret setting
NAME is read from the file that NAME_FILE names, as official images do, so that secrets need not be
in the environment of the container. A variable that is set wins; an empty file sets nothing.
"""

import os
import runpy
import sys
from collections.abc import MutableMapping
from pathlib import Path

from libs.common.catalog import SERVICES

# Named, not guessed from the suffix: SSL_CERT_FILE and others mean something else.
SECRETS = (
    "POSTGRES_URL",
    "DATABASE_URL",
    "REDIS_URL",
    "REDIS_PASSWORD",
    "KEY_PEPPER",
    "GEMINI_API_KEY",
)


def read_secret_files(environ: MutableMapping[str, str]) -> None:
    """Set each secret from the file that its NAME_FILE names.

    Raises:
        OSError: a file cannot be read.
    """
    for name in SECRETS:
        path = environ.get(f"{name}_FILE")
        if path and not environ.get(name):
            value = Path(path).read_text().strip()
            if value:
                environ[name] = value


def _stop(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201 - read by a person at start-up
    sys.exit(2)


def main(arguments: list[str]) -> None:
    """Run the module, or `services.$SERVICE`; a wrong name or file ends with code 2."""
    try:
        read_secret_files(os.environ)
    except OSError as error:
        _stop(f"{error.filename}: {error.strerror}; a variable ending in _FILE names it")
    if arguments:
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return
    service = os.environ.get("SERVICE", "")
    if service not in SERVICES:
        _stop(f"SERVICE={service!r} is not one of {', '.join(SERVICES)}")
    runpy.run_module(SERVICES[service].module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
