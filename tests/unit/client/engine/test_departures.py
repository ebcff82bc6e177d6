"""portway.engine.departures: what sessions are told that are being left."""

from typing import Any

from portway.engine.departures import Departures
from portway_proto.wire.labels import Label
from portway_testkit.fakes.fake_link import FakeSession


class Departing(FakeSession):
    """Records UNBIND, too."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.unbound: list[str] = []

    def unbind(self, label: str) -> None:
        self.unbound.append(label)


async def test_two_serve_until_the_next_node_has_the_tunnels() -> None:
    """Each is told what was closed and what has moved; of three the first is left at once, of all none is forgotten."""
    departures, sessions = Departures(), [Departing(f"n{number}") for number in range(3)]
    assert departures.latest is None
    for session in sessions:
        added: Any = session
        departures.add(added)
        assert departures.latest is added
    assert [session.left.is_set() for session in sessions] == [True, False, False]
    departures.unbind(Label("a" * 16))
    moved: Any = ("claim", "presence")
    departures.moved(*moved)
    assert [session.unbound for session in sessions] == [[], ["a" * 16], ["a" * 16]]
    assert [session.moves for session in sessions] == [[], [moved], [moved]]
    departures.leave()
    assert all(session.left.is_set() for session in sessions)
    assert departures.latest is None
