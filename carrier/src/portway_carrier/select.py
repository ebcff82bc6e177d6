"""Which carrier a process uses: the one that the environment variable PORTWAY_CARRIER names.

This release has the Python carrier alone, which is also the default.
"""

import os
from typing import Final

from portway_carrier.contract import Carrier
from portway_carrier.values import Limits

VARIABLE: Final = "PORTWAY_CARRIER"


def make_carrier(limits: Limits | None = None) -> Carrier:
    """A carrier on the running event loop. Raises ValueError when PORTWAY_CARRIER names one that this release lacks."""
    name = os.environ.get(VARIABLE, "python")
    if name != "python":
        raise ValueError(f"there is no carrier {name!r}: set {VARIABLE} to 'python', or unset it")
    from portway_carrier.python import PythonCarrier

    return PythonCarrier(limits or Limits())
