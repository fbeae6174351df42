"""`python -m libs.common.keys DIRECTORY`: make a signing key pair for every service."""

import sys
from pathlib import Path

from libs.common.catalog import SERVICES
from libs.common.identity import ensure_keys

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m libs.common.keys DIRECTORY")
    ensure_keys(Path(sys.argv[1]), [*SERVICES, "witness"])
