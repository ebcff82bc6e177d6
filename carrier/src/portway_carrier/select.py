"""Which carrier a process uses: the native one when it is installed, the Python one otherwise.

PORTWAY_CARRIER=python|native overrides.
"""

import os

from portway_carrier.contract import Carrier
from portway_carrier.values import Limits

VARIABLE = "PORTWAY_CARRIER"


def make_carrier(limits: Limits | None = None) -> Carrier:
    """The carrier of this process, on the running loop. Raises ValueError for a name that is none."""
    asked = os.environ.get(VARIABLE, "python")
    if asked != "python":
        raise ValueError(f"{VARIABLE} is {asked!r}; this release has 'python' only")
    from portway_carrier.python import PythonCarrier

    return PythonCarrier(limits or Limits())
