"""Which replicas callers were not answered by, by the callers' addresses.

A replica may complete a handshake and then answer no call: what it does not say is inside TLS, where a node sees bytes
alone. The caller knows: it gives the call up after its time limit, and comes again on another connection. That one goes
to another replica. Only who was not answered is led past a replica, since a stranger can bring this about with any.
"""

from collections.abc import Callable, Mapping
from typing import Final

from portway_carrier.contract import Passage
from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic
from portway_runtime.rates import ADDRESSES, address_key

from portway_relay.passages.fronts import Front

# Seconds of silence of a replica after which a caller that leaves, or comes again, was not answered. A client gives a
# call 3 s.
_SILENT: Final = 2.0
# Seconds for which a connection that was not ended counts when its caller comes again: gRPC closes one on which HTTP/2
# has not begun after 20 s, whether or not its call was given up. One that is older waits for something to watch.
_YOUNG: Final = 25.0
# Seconds for which a caller is led past a replica. A wrong guess costs it the way to the next one; a right one, each
# time that it is forgotten, a call.
_REMEMBERED: Final = 300.0


class Unanswered:
    """The callers of the last minutes that a replica has not answered, and the passages in progress."""

    def __init__(self, clock: Monotonic, doubt: Callable[[Front], None]) -> None:
        """doubt: called with a replica that has not answered a caller."""
        self._clock = clock
        self._doubt = doubt
        self._running: dict[str | bytes, dict[Passage, tuple[Front, float]]] = {}
        self._since: BoundedMap[str | bytes, dict[Front, float]] = BoundedMap(ADDRESSES)

    def began(self, address: str, front: Front, passage: Passage) -> None:
        """A connection from this address is passed on to the replica."""
        self._running.setdefault(address_key(address), {})[passage] = front, self._clock()

    def over(self, address: str, passage: Passage) -> bool:
        """It is not any more. Returns whether it was given up: its replica, which had answered, was silent then."""
        caller = address_key(address)
        running = self._running[caller]
        front, _ = running.pop(passage)
        if not running:
            del self._running[caller]
        given_up = passage.silence >= _SILENT
        if given_up:
            self._note(address, front)
        return given_up

    def by(self, address: str) -> Mapping[Front, float]:
        """A caller of this address comes anew: which replicas have not answered it, and when, on the node's clock."""
        now = self._clock()
        running = self._running.get(address_key(address), {})
        silent = {
            front for passage, (front, began) in running.items() if now - began < _YOUNG and passage.silence >= _SILENT
        }
        for front in silent:
            self._note(address, front)
        return self._known(address)

    def _note(self, address: str, front: Front) -> None:
        self._since[address_key(address)] = {**self._known(address), front: self._clock()}
        self._doubt(front)

    def _known(self, address: str) -> dict[Front, float]:
        known = self._since.get(address_key(address), {})
        return {front: at for front, at in known.items() if self._clock() - at < _REMEMBERED}
