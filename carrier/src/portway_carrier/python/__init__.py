"""The Python carrier: asyncio protocols, on uvloop where it is installed. It uses one core and is always available.

Two limits: TLS cannot be half-closed (a TLS end of file ends both directions), and session ticket keys are not shared
between processes.
"""

from portway_carrier.python.carrier import PythonCarrier

__all__ = ["PythonCarrier"]
