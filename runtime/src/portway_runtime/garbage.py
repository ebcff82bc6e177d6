"""How often a server's process looks for cycles of objects that nobody can reach.

While clients come to a node it makes thousands of objects that stay. With Python's defaults the collector takes a third
of the loop's time then, and finds nothing: visits leave no cycles.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Objects that are made and still there before the youngest are looked at, and looks at one generation before the next
# older one's turn comes. Python's defaults are 700, 10, 10.
_THRESHOLDS: Final = (10_000, 20, 20)


@contextmanager
def collected_rarely() -> Iterator[None]:
    """Within it the collector runs rarely. What is there at its beginning is not looked at any more, also later."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
