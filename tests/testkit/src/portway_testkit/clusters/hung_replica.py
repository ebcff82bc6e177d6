"""portway-registry that answers no further call once it gets SIGUSR1: it takes connections and calls, and its
connections stay alive. What has begun before goes on.

`python -m portway_testkit.clusters.hung_replica serve …`, as portway-registry.
"""

import asyncio
import signal
import sys
from typing import Any, Final

from portway_registry import cli
from portway_registry.services.interceptor import CallInterceptor

HANG: Final = signal.SIGUSR1
PROGRAM: Final = (sys.executable, "-m", "portway_testkit.clusters.hung_replica")


def main() -> None:
    """As that of portway-registry."""
    hung: list[int] = []
    signal.signal(HANG, lambda number, frame: hung.append(number))
    made = CallInterceptor.__init__

    def make(self: CallInterceptor, port: Any, identify: Any, *args: Any, **kwargs: Any) -> None:
        async def identify_or_hang(context: Any) -> Any:
            if hung:
                await asyncio.Event().wait()
            return await identify(context)

        made(self, port, identify_or_hang, *args, **kwargs)

    CallInterceptor.__init__ = make  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    main()
