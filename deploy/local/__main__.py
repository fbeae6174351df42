"""`python -m deploy.local`: run the whole suite on this machine until it is interrupted."""

import asyncio
import os
import sys

from deploy.local.console import Console
from deploy.local.dotenv import DotenvError, read_dotenv
from deploy.local.layout import StateBusyError
from deploy.local.options import parse
from deploy.local.ports import PortBusyError
from deploy.local.runner import run


def main() -> int:
    """Run and give the exit code: 0 stopped by a signal, 1 something failed, 2 wrong set-up."""
    options = parse(sys.argv[1:])
    console = Console()
    try:
        # The environment wins over the file.
        environ = {**read_dotenv(options.env_file), **os.environ}
        return asyncio.run(run(options, environ, console))
    except (DotenvError, PortBusyError, StateBusyError) as error:
        console.error(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
