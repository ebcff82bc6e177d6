"""The outbox: what a registry is still to be sent. Parts of the node put into it, the stream takes from it.

Here: changes of tunnels gathered into batches, the whole state after each registration, probe results, a changed state,
the version of DNS records. Not here: the stream (stream.py). Opening a tunnel never waits for any of this.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator

from portway_proto.v1.mesh_pb2 import Announce, AnnouncedSession, Probed, Withdrawal
from portway_proto.v1.types_pb2 import TunnelInfo

from portway_relay.routing.tunnel import Holder, Tunnel


class Outbox:
    """The messages that are due. `filled` is set when there is something to take."""

    def __init__(self, describe: Callable[[Tunnel], TunnelInfo]) -> None:
        """describe: the tunnel as a registry learns of it."""
        self._describe = describe
        self._registered = False
        self._bound: dict[str, Tunnel] = {}
        self._sessions: dict[Holder, None] = {}  # those of the tunnels in `_bound`, and those with a renewed presence
        self._withdrawn: dict[str, int] = {}
        self._batch = 0
        self._probed: list[Probed] = []
        self._state_changed = False
        self._dns_held: int | None = None
        self.filled = asyncio.Event()

    def bound(self, tunnel: Tunnel) -> None:
        """Announce a tunnel that is bound here. Without a registry nothing is kept: `whole` announces everything."""
        if self._registered:
            self._withdrawn.pop(tunnel.label, None)
            self._bound[tunnel.label] = tunnel
            self._sessions[tunnel.holder] = None
            self.filled.set()

    def presence_renewed(self, holder: Holder) -> None:
        """Announce a session's presence; kept as in `bound`."""
        if self._registered:
            self._sessions[holder] = None
            self.filled.set()

    def withdrawn(self, label: str, epoch: int) -> None:
        """Announce that a tunnel is not served here now; kept as in `bound`."""
        if self._registered:
            self._bound.pop(label, None)
            self._withdrawn[label] = epoch
            self.filled.set()

    def state_changed(self) -> None:
        """Report the node's state now instead of with the next keep-alive."""
        self._state_changed = True
        self.filled.set()

    def probed(self, result: Probed) -> None:
        """Report a probe's result. One that reaches another registry, or comes late, is ignored there."""
        self._probed.append(result)
        self.filled.set()

    def dns_held(self, version: int) -> None:
        """Report that DNS queries are answered by the records of this version."""
        self._dns_held = version
        self.filled.set()

    def whole(self, live: Iterable[Tunnel]) -> Announce:
        """Everything that is held now: the first batch of a registration. Changes are gathered from here on."""
        self._registered = True
        self._forget()
        tunnels = list(live)
        sessions = dict.fromkeys(tunnel.holder for tunnel in tunnels)
        return self._numbered(Announce(bound=map(self._describe, tunnels), sessions=_announced(sessions), full=True))

    def take(self) -> Announce | None:
        """The changes since the last batch; None without any."""
        if not self._bound and not self._withdrawn and not self._sessions:
            return None
        batch = Announce(
            bound=map(self._describe, self._bound.values()),
            sessions=_announced(self._sessions),
            withdrawn=[Withdrawal(label=label, epoch=epoch) for label, epoch in self._withdrawn.items()],
        )
        self._forget()
        return self._numbered(batch)

    def take_probed(self) -> Probed | None:
        """The oldest probe result; None without one."""
        return self._probed.pop(0) if self._probed else None

    def take_dns_held(self) -> int | None:
        """The version to report now; None from then on."""
        version, self._dns_held = self._dns_held, None
        return version

    def take_state_changed(self) -> bool:
        """Whether the state is to be reported now; False from then on."""
        changed, self._state_changed = self._state_changed, False
        return changed

    def disconnected(self) -> None:
        """Keep no changes until the next `whole`."""
        self._registered = False
        self._dns_held = None
        self._forget()

    def _forget(self) -> None:
        self._bound.clear()
        self._withdrawn.clear()
        self._sessions.clear()

    def _numbered(self, batch: Announce) -> Announce:
        self._batch += 1
        batch.batch = self._batch
        return batch


def _announced(sessions: Iterable[Holder]) -> Iterator[AnnouncedSession]:
    for session in sessions:
        if session.presence is not None:
            yield AnnouncedSession(grant=session.grant_token, presence=session.presence.encoded)
