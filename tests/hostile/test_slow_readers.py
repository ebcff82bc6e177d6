"""Visitors that ask for everything and read nothing, or a little at a time."""

import threading
from contextlib import ExitStack
from ssl import SSLSocket

import pytest
from portway_testkit.visitors.siege import MARKS, Besieged, Checked, Download, besiege
from portway_testkit.visitors.visiting import visit
from portway_testkit.waiting import eventually

pytestmark = MARKS

READERS = 24
# Of a visit that stands still, in MiB: what was read of its lane and waits for the visitor (carrier's high-water mark,
# and one read above it), in TLS's buffers on both sides; 1.2 were measured with 8, 24 and 72.
A_VISIT = 4
SLACK = 16
A_LITTLE = 512
EACH = 0.05  # seconds


class Readers:
    """They come and read a first piece; then every second one reads a little at a time, the others no more."""

    def __init__(self, besieged: Besieged) -> None:
        self._besieged = besieged
        self._stack = ExitStack()
        self._slow: list[tuple[SSLSocket, Checked]] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.read_slowly = 0

    def go(self) -> None:
        for number in range(READERS):
            visitor = self._stack.enter_context(visit(self._besieged.tunnel, self._besieged.ca))
            checked = Checked()
            checked.take(visitor.recv(A_LITTLE) or b"the end")
            if number % 2:
                self._slow.append((visitor, checked))
        self._over.clear()
        self._thread = threading.Thread(target=self._read_slowly, name="slow readers")
        self._thread.start()

    def rest(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self.read_slowly += sum(checked.read for _, checked in self._slow)
        self._slow.clear()
        self._stack.close()
        eventually(lambda: self._besieged.metrics()["visits"] <= 1)

    def _read_slowly(self) -> None:
        while not self._over.wait(EACH):
            for visitor, checked in self._slow:
                checked.take(visitor.recv(A_LITTLE) or b"the end")


@pytest.mark.slow  # visitors that break off while nobody reads them are noticed within five seconds, round by round
def test_visitors_that_read_slowly_or_not_at_all_slow_nobody(besieged: Besieged) -> None:
    """Two dozen of them: the tunnel in use goes on, new visitors of it are served, those that read a little at a time
    get the right bytes, and what each costs in memory is bounded."""
    readers = Readers(besieged)
    with Download(besieged.tunnel, besieged.ca) as download:
        figures = besiege(download, readers, besieged.pid, 0.8, during=besieged.served)
    print(f"{figures}: {figures.grown / READERS:.2f} for each of {READERS}")
    assert figures.ratio >= 0.8, figures
    assert figures.grown < SLACK + READERS * A_VISIT, figures
    assert readers.read_slowly > READERS // 2 * A_LITTLE * 5
