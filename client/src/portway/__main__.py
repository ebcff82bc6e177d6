"""The command `portway`, as its own process: `python -m portway` is the same.

What would go past the log is logged: this process belongs to the command, and not to a program that imports `portway`.
"""

import sys
from typing import NoReturn

from portway_runtime.standard_streams import open_standard_streams
from portway_runtime.uncaught import log_uncaught

from portway.cli import main


def command() -> NoReturn:
    """Run the command and exit."""
    open_standard_streams()
    log_uncaught()
    sys.exit(main())


if __name__ == "__main__":
    command()
