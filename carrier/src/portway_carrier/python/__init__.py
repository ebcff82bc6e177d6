"""The Python carrier: asyncio protocols, on uvloop where it is installed. One core, always there.

Known differences from the contract's ideal: TLS cannot be half-closed (a TLS end of file ends both directions), and
ticket keys are not shared between processes.
"""

from portway_carrier.python.carrier import PythonCarrier

__all__ = ["PythonCarrier"]
