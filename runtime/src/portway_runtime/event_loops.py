"""The event loop that a process of ours, or the engine inside somebody's program, runs on.

It is made directly: an event loop policy is the program's, and may forbid loops outside the main thread (those of
graphical toolkits), or make loops of another kind.
"""

import asyncio

from portway_runtime.os_threads import make_selector


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed, else asyncio's own. The standard one serves as well, with some more CPU."""
    try:
        import uvloop
    except ImportError:
        return asyncio.SelectorEventLoop(make_selector())
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
