"""A program without descriptors left gets an error: libraries that cannot open what they need end its process."""

import os
from typing import Final

# Of gRPC and its resolver for one call, or of an event loop; and some that the program may open meanwhile.
DESCRIPTORS: Final = 16


def demand_descriptors() -> None:
    """Raise OSError unless so many can be opened now."""
    opened: list[int] = []
    try:
        while len(opened) < DESCRIPTORS:
            opened.extend(os.pipe())
    finally:
        for descriptor in opened:
            os.close(descriptor)
