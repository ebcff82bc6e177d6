"""What senders said: each can push out only its own words, and the one that was silent for longest goes first."""

import pytest
from portway_relay.routing import senders as senders_module
from portway_relay.routing.senders import NODE, TOKEN, BySender, Sender

HOME, FLOODER = Sender(NODE, "home"), Sender(NODE, "flooder")


def test_a_sender_evicts_only_what_it_said_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of one sender leaves the word of every other one."""
    monkeypatch.setattr(senders_module, "_SHARES", {NODE: (2, 10)})
    evicted: list[tuple[Sender, str, int]] = []
    said: BySender[str, int] = BySender(lambda *entry: evicted.append(entry))
    said.put(HOME, "label", 1)
    for number in range(100):
        said.put(FLOODER, f"invented {number}", number)
    assert said.get(HOME, "label") == 1
    kept = {number for number in range(100) if said.get(FLOODER, f"invented {number}") == number}
    assert kept == {98, 99}
    assert evicted == [(FLOODER, f"invented {number}", number) for number in range(98)]
    said.put(FLOODER, "label", 7)
    assert list(said.all("label")) == [1, 7]
    said.discard(FLOODER, "label")
    said.discard(Sender(NODE, "nobody"), "label")
    assert list(said.all("label")) == [1]


def test_the_sender_that_was_silent_for_longest_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the number of senders, which is that of its kind."""
    monkeypatch.setattr(senders_module, "_SHARES", {NODE: (2, 2), TOKEN: (2, 2)})
    said: BySender[str, str] = BySender()
    said.put(Sender(TOKEN, "t1"), "label", "t1")
    for name in ("a", "b", "a", "c"):
        said.put(Sender(NODE, name), "label", name)
    assert list(said.of_kind(NODE, "label")) == ["a", "c"]
    assert list(said.all("label")) == ["a", "c", "t1"]
