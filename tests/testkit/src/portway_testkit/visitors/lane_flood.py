"""A lane whose peer floods it with frames that were made beforehand: a client's, or another node's by its
certificate."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from portway_testkit.visitors.siege import Besieged
from portway_testkit.visitors.visiting import connect_tls, tls_context


def lane_to(node: Besieged, alpn: str, identity: tuple[Path, Path] | None = None) -> ssl.SSLSocket:
    """A connection for a lane; `identity` is another node's certificate and key."""
    context = tls_context(node.ca, alpn)
    if identity is not None:
        context.load_cert_chain(*identity)
    return connect_tls(context, (node.host, node.port), node.server_name)


class LaneFlood:
    """Sends one piece after another, with a pause of so many seconds; the Reins of a siege. At the end the lane is shut
    down."""

    def __init__(self, lane: ssl.SSLSocket, pieces: Iterator[bytes], pause: float) -> None:
        self._lane = lane
        self._pieces = pieces
        self._pause = pause
        self._going = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="flood")
        self.sent = 0  # pieces

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._going.set()
        with contextlib.suppress(OSError):  # the node may have closed it
            self._lane.shutdown(socket.SHUT_RDWR)  # the thread may wait for the node to read
        self._thread.join()

    @property
    def ended(self) -> bool:
        """Whether the node has closed the lane."""
        return not self._thread.is_alive()

    def go(self) -> None:
        self._going.set()

    def rest(self) -> None:
        self._going.clear()

    def hurry(self) -> None:
        """Send as fast as the node reads from now on."""
        self._pause = 0.0

    def _run(self) -> None:
        due = time.monotonic()
        while self._going.wait() and not self._over:
            piece = next(self._pieces, None)
            assert piece is not None, "too few pieces were made"
            try:
                self._lane.sendall(piece)
            except OSError:
                return
            self.sent += 1
            due = max(due + self._pause, time.monotonic() - 10 * self._pause)
            time.sleep(max(0.0, due - time.monotonic()))
