"""Threads that go on until a `with` block ends.

Here: their start and their end. Not here: what they do (onlookers.py, steady.py, http2_stranger.py).
"""

import threading
from collections.abc import Iterable
from typing import Self


class GoingOn:
    """`with` it: the threads run until the block ends, which sets `_over` and waits for each."""

    def __init__(self, threads: Iterable[threading.Thread], patience: float | None = None) -> None:
        """patience: seconds for which the end of each thread is waited for; None for as long as it takes."""
        self._over = threading.Event()
        self._threads = list(threads)
        self._patience = patience

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(self._patience)
