"""A registry as a process of its own, which obtains certificates and never comes to the end of an order.

`python -m portway_testkit.clusters.stalled_replica CONFIG`, a TOML file. It prints a line once it serves, and one for
each TXT record that it is to publish, which it then does for ever. A test kills it.
"""

import asyncio
import os
import sys
from pathlib import Path

from portway_registry.config import load
from portway_registry.server import Registry


class Stalled:
    """A Publisher that never has published."""

    async def publish(self, name: str, value: str) -> None:
        print(f"publishes {name}", flush=True)
        await asyncio.Event().wait()

    async def withdraw(self, name: str, value: str) -> None:
        """Nothing was published."""


async def _main(config: Path) -> None:
    registry = Registry(load({}, os.environ, config), publisher=Stalled())
    await registry.start()
    print(f"serves {registry.mesh_address}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
